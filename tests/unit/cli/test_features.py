"""``dropout features``: what is told of a load, and ``get`` of a store that somebody else wrote."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from extproc.cli.main import cli
from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow
from extproc.run import feature_store
from extproc.snapshot.model import FeatureView
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
    monkeypatch.setattr(feature_store, "open_adapter", lambda port, url, flag: Broken(answers=answers))
    asked = "features get --view v --entity e --name risk --features theirs:x"
    done = CliRunner().invoke(cli, asked.split(), standalone_mode=False)
    (fault,) = done.exception.faults  # type: ignore[union-attr]
    assert (fault.code, fault.field) == ("features_failed", "--features")
    assert fault.message == "the feature store theirs: failed: TypeError: a float has no items"


@pytest.mark.parametrize(
    ("asked", "entity", "join_keys"),
    [
        ("--entity 7 --join-key user_id:integer", (7,), ("user_id",)),
        ("--entity 7 --entity a --join-key user_id:integer --join-key shop", (7, "a"), ("user_id", "shop")),
        ("--entity 7", ("7",), ("key 0",)),
    ],
)
def test_join_keys_are_named_and_typed_for_stores_that_ask_by_them(
    asked: str, entity: tuple[str | int, ...], join_keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    integers = tuple(name for name, value in zip(join_keys, entity, strict=True) if isinstance(value, int))
    key = FeatureKey(FeatureView("v", ("risk",), join_keys, integers), entity)
    monkeypatch.setattr(
        feature_store, "open_adapter", lambda port, url, flag: MemoryFeatures({key: {"risk": FeatureRow(0.5, None)}})
    )
    done = CliRunner().invoke(cli, f"features get --view v --name risk --features theirs:x {asked}".split())
    assert done.output == "risk = 0.5  (its event time is unknown)\n"


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("--entity x --join-key user_id:integer", "join_key_type"),
        ("--entity 9223372036854775808 --join-key user_id:integer", "join_key_type"),
        ("--entity 1 --entity 2 --join-key user_id", "join_keys_unnamed"),
    ],
)
def test_a_join_key_that_makes_no_sense_is_refused(asked: str, code: str) -> None:
    command = f"features get --view v --name risk --features theirs:x {asked}".split()
    done = CliRunner().invoke(cli, command, standalone_mode=False)
    assert done.exception.code == code  # type: ignore[union-attr]


def test_a_feature_of_another_type_than_before_is_noted(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'features.db'}"

    def loaded(value: str) -> Result:
        file = tmp_path / "values.csv"
        file.write_text(f"entity,view,name,value\nal,user_tier,spend,{value}\n")
        return CliRunner().invoke(cli, ["features", "load", str(file), "--features", store])

    assert loaded("1.5").stderr == ""
    assert loaded("2").stderr == ""
    changed = loaded("abc")
    assert changed.exit_code == 0
    assert "note: user_tier spend is text here; it was number until now" in changed.stderr


def test_a_view_that_is_not_there_is_told_with_the_one_that_was_meant(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'features.db'}"
    file = tmp_path / "values.csv"
    file.write_text("entity,view,name,value\nalice,user_tier,spend,1\n")
    CliRunner().invoke(cli, ["features", "load", str(file), "--features", store])
    asked = ["features", "get", "--view", "user_teir", "--entity", "alice", "--features", store]
    done = CliRunner().invoke(cli, asked, standalone_mode=False)
    assert "nothing is stored of view 'user_teir'; did you mean 'user_tier'?" in str(done.exception)
