"""``dropout features get`` of a store that somebody else wrote."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import pytest
from click.testing import CliRunner

from extproc.cli import features
from extproc.cli.main import cli
from extproc.datapath.ports import FeatureAnswer, FeatureKey
from extproc.testing.features import MemoryFeatures


class Broken(MemoryFeatures):
    """Has a fault of its own, in each answer or before any."""

    def __init__(self, *, answers: bool) -> None:
        super().__init__({})
        self._answers = answers

    async def read(self, keys: Sequence[FeatureKey]) -> AsyncGenerator[FeatureAnswer, None]:
        fault = TypeError("a float has no items")
        if not self._answers:
            raise fault
        for key in keys:
            yield FeatureAnswer(key, None, fault)


@pytest.mark.parametrize("answers", [True, False])
def test_whatever_it_raises_is_told_as_that_of_the_store(monkeypatch: pytest.MonkeyPatch, answers: bool) -> None:
    monkeypatch.setattr(features, "open_adapter", lambda port, url, flag: Broken(answers=answers))
    asked = "features get --view v --entity e --name risk --features theirs:x"
    done = CliRunner().invoke(cli, asked.split(), standalone_mode=False)
    (fault,) = done.exception.faults  # type: ignore[union-attr]
    assert (fault.code, fault.field) == ("features_failed", "--features")
    assert fault.message == "the feature store theirs: failed: TypeError: a float has no items"
