"""``dropout feedback export``: every label with its decision, as a table and as JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from extproc.adapters.sqlite import feedback as sqlite_feedback
from extproc.adapters.sqlite.feedback import SqliteFeedback
from extproc.adapters.sqlite.store import SqliteStore
from extproc.cli.main import cli
from extproc.control.feedback import Code, Feedback, FeedbackRecord
from extproc.decision_id import DecisionIds, IdKeys, KeyFile, arm_codes, sealed_code
from extproc.names import ARM_TAKEN_AWAY
from extproc.store.records import Write
from extproc.store.status import Status
from tests.support.clock import FakeClock
from tests.support.rollouts import CANARY, document

KEY = "payments/fraud-detector"


class Desk:
    """A store with a rollout, its keys, and labels that come for what was decided."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock(1_700_000_000.0)
        self.store = SqliteStore(folder / "dropout.db", create=True, clock=self.clock)
        status = Status(stable="3", canary="4", weight=5000)
        (self.row,) = self.store.write([Write("payments", "fraud-detector", None, document(CANARY), status)])
        self.keys = KeyFile(folder / "dropout.db.ids", self.clock)
        self.ids = DecisionIds(self.keys, 0, self.clock)
        self.counts = SqliteFeedback(folder / "dropout.db.feedback", create=True)
        self.feedback = Feedback(self.counts, self.store, self.keys.open, self.clock, retention=1e6)

    def decide(self, arm: int, group: int = 7) -> str:
        """The id of a decision in the epoch in force."""
        self.clock.advance(1)
        return self.ids.seal(self.ids.nonce(), self.store.epochs_of(*KEY.split("/"))[-1].number, arm, group)

    def say(self, decision_id: str, **said: Any) -> None:
        """Send a record, which counts."""
        (result,) = self.feedback.record([FeedbackRecord(decision_id, **said)])
        assert result.code is Code.RECORDED

    def next_epoch(self) -> None:
        """Another canary."""
        later = Status(stable="3", canary="5", epoch=2, previous_epoch=2)
        (self.row,) = self.store.write([Write("payments", "fraud-detector", self.row.resource_version, status=later)])

    def export(self, *options: str) -> str:
        """What the command writes."""
        store = f"sqlite:{self.folder / 'dropout.db'}"
        result = CliRunner().invoke(cli, ["feedback", "export", KEY, "--store", store, *options])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    def rows(self, *options: str) -> list[dict[str, Any]]:
        """The same, as JSON."""
        return [json.loads(line) for line in self.export("--format", "jsonl", *options).splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.counts.close()
    desk.store.close()


def test_each_label_stands_beside_its_decision_and_the_version_that_answered(desk: Desk) -> None:
    canary, control, excluded = desk.decide(2), desk.decide(sealed_code(1, stream=True)), desk.decide(0)
    desk.say(excluded, prediction=False, label=True)
    desk.say(canary, prediction=True, label=False, outcomes={"amount": 1.5})
    desk.say(control, outcomes={"clicks": 2.0})
    away = desk.decide(arm_codes([])[ARM_TAKEN_AWAY])
    desk.say(away, prediction=True, label=True)
    said = [
        (row["decision_id"], row["arm"], row["version"], row["prediction"], row["label"], row["outcomes"])
        for row in desk.rows()
    ]
    assert said == [
        (canary, "canary", "4", True, False, {"amount": 1.5}),
        (control, "control", "3", None, None, {"clicks": 2.0}),
        (excluded, "excluded", None, False, True, {}),
        (away, "taken_away", "3", True, True, {}),
    ]
    first = desk.rows()[0]
    assert (first["decided_at"], first["rollout"], first["epoch"]) == ("2023-11-14T22:13:21.000Z", KEY, 1)


def test_the_same_as_a_table_with_a_column_for_each_outcome(desk: Desk) -> None:
    canary, control = desk.decide(2), desk.decide(1)
    desk.say(canary, prediction=True, label=False, outcomes={"amount": 1.5})
    desk.say(control, prediction=False, label=False, outcomes={"clicks": 2.0})
    rows = list(csv.reader(io.StringIO(desk.export())))
    assert rows == [
        [
            *("decided_at", "decision_id", "rollout", "epoch", "arm", "version", "prediction", "label"),
            *("outcomes.amount", "outcomes.clicks"),
        ],
        ["2023-11-14T22:13:21.000Z", canary, KEY, "1", "canary", "4", "true", "false", "1.5", ""],
        ["2023-11-14T22:13:22.000Z", control, KEY, "1", "control", "3", "false", "false", "", "2.0"],
    ]


def test_one_epoch_can_be_had_alone(desk: Desk) -> None:
    desk.say(desk.decide(2), prediction=True, label=True)
    desk.next_epoch()
    later = desk.decide(2)
    desk.say(later, prediction=True, label=True)
    assert [(row["epoch"], row["version"]) for row in desk.rows()] == [(1, "4"), (2, "5")]
    assert [row["decision_id"] for row in desk.rows("--epoch", "2")] == [later]


def test_what_a_fallback_answered_is_not_in_it(desk: Desk) -> None:
    fallen, served = desk.decide(2), desk.decide(2)
    for each in (fallen, served):
        desk.say(each, prediction=True, label=True)
    desk.feedback.mark_fallbacks([fallen])
    assert [row["decision_id"] for row in desk.rows()] == [served]


def test_labels_whose_key_or_epoch_is_gone_have_no_id_and_those_of_a_changed_key_have(desk: Desk) -> None:
    before = desk.decide(2)
    desk.say(before, prediction=True, label=True)
    keys = desk.folder / "dropout.db.ids"
    old = keys.read_text()
    fingerprint = desk.keys.current.first.name
    others = (f"{number:064x}" for number in range(2))
    new = next(text for text in others if IdKeys([bytes.fromhex(text)]).first.name != fingerprint)
    keys.write_text(f"{new}\n{old}")
    assert desk.rows()[0]["decision_id"] == before
    keys.write_text(f"{new}\n")
    assert (desk.rows()[0]["decision_id"], desk.rows()[0]["version"]) == (None, "4")
    keys.unlink()
    assert desk.rows()[0]["decision_id"] is None
    assert not keys.exists(), "whoever only reads makes no key"


def test_however_many_there_are_they_come_page_by_page_and_each_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_feedback, "_PAGE", 3)
    made = [desk.decide(2, group=n) for n in range(10)]
    for each in made[::-1]:
        desk.say(each, prediction=True, label=True)
    assert [row["decision_id"] for row in desk.rows()] == made
    stream = desk.counts.recorded(KEY)
    next(stream)
    desk.say(desk.decide(2), prediction=True, label=True)  # nobody who writes waits for who reads
    assert len(list(stream)) == 10


def test_a_rollout_without_labels_has_a_head_and_no_rows(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert desk.export() == "decided_at,decision_id,rollout,epoch,arm,version,prediction,label\n"
    (tmp_path / "dropout.db.feedback").unlink()
    assert desk.export("--format", "jsonl") == ""


@pytest.mark.parametrize(("options", "code"), [(["--epoch", "9"], "epoch_unknown"), ([], "not_found")])
def test_what_is_not_there_is_said(desk: Desk, options: list[str], code: str) -> None:
    name = KEY if options else "payments/other"
    result = CliRunner().invoke(
        cli, ["feedback", "export", name, "--store", f"sqlite:{desk.folder / 'dropout.db'}", *options]
    )
    assert getattr(result.exception, "code", "") == code
