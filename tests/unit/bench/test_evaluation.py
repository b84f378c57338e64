"""The bench of evaluations: both ways ask the same and have the same answer."""

from __future__ import annotations

import pytest

from tests.bench.evaluation import MOST, bare, ours, pairs


@pytest.mark.parametrize("name", [pair.name for pair in pairs() if pair.bar == "evaluation"])
def test_the_bare_engine_and_ours_say_the_same_of_what_is_counted(name: str) -> None:
    verdict = ours(name)()
    assert verdict.fault is None
    assert bare(name)()["allow"] is verdict.allow is True


def test_every_pair_has_a_bar() -> None:
    assert {pair.bar for pair in pairs()} == MOST.keys()
