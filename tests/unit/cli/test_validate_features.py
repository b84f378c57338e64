"""``dropout validate --features``: what rollouts ask of a feature store and it does not have."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from extproc import plugins
from extproc.adapters.sqlite.features import FeatureRecord, SqliteFeatureStore
from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow
from extproc.errors import Fault, Unreachable
from extproc.snapshot.model import FeatureView
from tests.unit.cli.test_validate import run
from tests.unit.resources.test_documents import MINIMAL

FEATURES = """\
  features:
    entity: {header: x-user-id}
    view: user_risk
    views: {"4": user_risk_v2}
    names: [risk_score, country]
"""
PAIR = FEATURES.replace(
    "{header: x-user-id}",
    "{keys: [{name: user, header: x-user-id, type: integer}, {name: shop, header: x-shop}]}",
)


class Plain:
    """A store without a catalogue: a number for every feature of 7 and alice, but for those of ``without``."""

    max_batch = 8
    without: frozenset[str] = frozenset()
    event_time: float | None = 1.0

    async def read(self, keys: Sequence[FeatureKey]) -> AsyncGenerator[FeatureAnswer, None]:
        for key in keys:
            known = key.text == "alice" or key.entity == (7, "a")
            names = [name for name in key.view.features if known and name not in self.without]
            yield FeatureAnswer(key, {name: FeatureRow(1, self.event_time) for name in names})

    async def close(self) -> None:
        """Nothing to let go of."""


class Knowing(Plain):
    """One that says of every view what it is told to, or raises it."""

    says: Sequence[Fault] | Exception = ()

    async def lacking(self, view: FeatureView) -> Sequence[Fault]:
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Knowing:
    """The store ``knows:``, beside ``plain:`` and those of ours."""
    knowing, ours = Knowing(), plugins.open_adapter
    others = {"knows:": knowing, "plain:": Plain()}
    monkeypatch.setattr(
        "extproc.run.feature_store.open_adapter",
        lambda port, url, flag: others.get(url) or ours(port, url, flag),
    )
    return knowing


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "rollout.yaml"
    file.write_text(MINIMAL + FEATURES)
    return file


def lines_of(file: Path) -> dict[str, int]:
    """Where each field begins."""
    return {line.strip().partition(":")[0]: number for number, line in enumerate(file.read_text().splitlines(), 1)}


def test_what_the_embedded_store_does_not_have_is_told_where_it_is_written(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:{tmp_path}/features.db"
    kept = SqliteFeatureStore(tmp_path / "features.db")
    kept.load([FeatureRecord("user_risk", "u", "risk_score", 0.5, 1.0)])
    code, out, err = run(capsys, "validate", str(file), "--features", url)
    at = lines_of(file)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"{file}:{at['names']} spec.features.names[1]: nothing is stored of 'country' in view 'user_risk' "
        "(feature_unknown)",
        f"{file}:{at['views']} spec.features.views.4: nothing is stored of view 'user_risk_v2'; did you mean "
        "'user_risk'? (feature_view_unknown)",
    ]
    kept.load(
        FeatureRecord(view, "u", name, 1, 1.0)
        for view in ("user_risk", "user_risk_v2")
        for name in ("risk_score", "country")
    )
    assert run(capsys, "validate", str(file), "--features", url)[:2] == (0, "1 document is valid\n")


def test_a_join_key_of_another_type_is_told_where_it_is_written(
    file: Path, store: Knowing, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(MINIMAL + PAIR)
    store.says = [
        Fault("join_key_type", "the join key 'user' of view 'user_risk' is text", field="user"),
        Fault("join_key_unknown", "view 'user_risk' has the join key 'region' too", field="region"),
    ]
    code, out, _ = run(capsys, "validate", str(file), "--features", "knows:", "-o", "json")
    told = [(error["code"], error["field"]) for error in json.loads(out)["errors"]]
    of_a_view = [("join_key_type", "spec.features.entity.keys[0]"), ("join_key_unknown", "spec.features.entity")]
    assert (code, told) == (2, of_a_view * 2)


def test_a_store_that_cannot_be_asked_is_no_valid_answer(
    file: Path, store: Knowing, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for says, status, told in (
        (Unreachable.of("features_refused", "it refuses us"), 3, "features_refused"),
        (ZeroDivisionError(), 3, "features_failed"),
    ):
        store.says = says
        code, _, err = run(capsys, "validate", str(file), "--features", "knows:")
        assert (code, told in err) == (status, True)
    assert run(capsys, "validate", str(file), "--features", f"sqlite:{tmp_path}/none.db")[0] == 3
    assert run(capsys, "validate", str(file), "--features", "nowhere:")[0] == 2
    file.write_text(MINIMAL)
    assert run(capsys, "validate", str(file), "--features", "knows:")[0] == 0, "nothing is asked for"


def test_a_store_without_a_catalogue_is_checked_by_an_entity(
    file: Path, store: Knowing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del store
    code, _, err = run(capsys, "validate", str(file), "--features", "plain:")
    assert (code, "--sample-entity VALUE reads an entity that should have it" in err) == (2, True)
    sampled = ("validate", str(file), "--features", "plain:", "--sample-entity")
    code, out, err = run(capsys, *sampled, "alice")
    assert (code, out) == (0, "1 document is valid\n")
    assert "note: only 'alice' was read: one entity shows neither whether others have these features" in err
    code, _, err = run(capsys, *sampled, "bob")
    assert (code, "'bob' has nothing of view 'user_risk' (feature_absent)" in err) == (2, True)
    monkeypatch.setattr(Plain, "without", frozenset({"country"}))
    code, _, err = run(capsys, *sampled, "alice")
    assert (code, "spec.features.names[1]: 'alice' has no 'country' in view 'user_risk'" in err) == (2, True)


def test_a_feature_without_a_time_is_absent_where_there_is_a_max_age(
    file: Path, store: Knowing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del store
    monkeypatch.setattr(Plain, "event_time", None)
    sampled = ("validate", str(file), "--features", "plain:", "--sample-entity", "alice")
    assert run(capsys, *sampled)[0] == 0
    file.write_text(MINIMAL + FEATURES + "    maxAge: 1h\n")
    code, _, err = run(capsys, *sampled)
    assert (code, "has no event time, and maxAge asks for one" in err) == (2, True)


def test_a_sample_has_a_value_for_each_join_key(
    file: Path, store: Knowing, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del store
    (tmp_path / "pair.yaml").write_text(
        MINIMAL.replace("fraud-detector", "pair").replace("value: /v1", "value: /v2") + PAIR
    )

    def told(*sample: str) -> tuple[int, str]:
        values = [part for value in sample for part in ("--sample-entity", value)]
        code, _, err = run(capsys, "validate", str(tmp_path), "--features", "plain:", *values)
        return code, err

    code, err = told("7", "a")
    assert (code, "note: view 'user_risk' was not read: it has 1 join keys (sample_unread)" in err) == (0, True)
    code, err = told("7x", "a")
    assert (code, "'7x' is no whole number of 64 bits, and the join key 'user'" in err) == (2, True)
    code, err = told("7", "a", "b")
    assert (code, "give --sample-entity 1 or 2 times" in err) == (2, True)
    code, _, err = run(capsys, "validate", str(file), "--sample-entity", "alice")
    assert (code, "name it by --features URL" in err) == (2, True)


def test_a_view_of_a_version_that_is_not_here_is_noted(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(MINIMAL + FEATURES.replace('"4"', '"7"'))
    code, _, err = run(capsys, "validate", str(file))
    assert (code, "spec.features.views.7: note: the document names no version 7" in err) == (0, True)
