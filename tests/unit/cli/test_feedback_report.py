"""``dropout feedback report``: error rates and outcomes by arm, as a table and as JSON."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from extproc.adapters.sqlite_feedback import SqliteFeedback
from extproc.adapters.sqlite_store import SqliteStore
from extproc.cli.main import cli, main
from extproc.control.feedback import Entry, Tally
from extproc.snapshot.store import Status, Write
from tests.support.clock import FakeClock
from tests.support.rollouts import CANARY, document

KEY = "payments/fraud-detector"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "dropout.db", create=True, clock=FakeClock(1_700_000_000.0))
    status = Status(stable="3", canary="4", weight=5000)
    store.write([Write("payments", "fraud-detector", None, document(CANARY), status)])
    yield store
    store.close()


def count(tmp_path: Path, *what: tuple[str, int, dict[str, float]], epoch: int = 1) -> None:
    """Label decisions: arm, index of the confusion, outcomes."""
    feedback = SqliteFeedback(tmp_path / "dropout.db.feedback", create=True)
    entries = [
        Entry((epoch * 1000 + n).to_bytes(13, "big"), 1, Tally(KEY, epoch, arm, n % 256), confusion, outcomes)
        for n, (arm, confusion, outcomes) in enumerate(what)
    ]
    feedback.record(entries, 0.0)
    feedback.close()


def report(tmp_path: Path, *arguments: str, name: str = KEY) -> Result:
    store = f"sqlite:{tmp_path / 'dropout.db'}"
    result = CliRunner().invoke(cli, ["feedback", "report", name, "--store", store, *arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_rates_and_means_by_arm(store: SqliteStore, tmp_path: Path) -> None:
    canary = [("canary", index, {"amount": 2.0}) for index in [0] * 6 + [1] * 2 + [2] * 10 + [3] * 2]
    control = [("control", index, {"amount": 5.5, "clicks": 1.0}) for index in [0] * 3 + [2] * 7]
    count(tmp_path, *canary, *control)
    lines = report(tmp_path).output.splitlines()
    assert lines[0] == "payments/fraud-detector, epoch 1, since 2023-11-14T22:13:20.000Z"
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[1:]]
    heads = ["ARM", "VERSION", "LABELS", "TRUE+", "FALSE+", "TRUE-", "FALSE-"]
    heads += ["FALSE+ RATE", "FALSE- RATE", "PRECISION", "RECALL", "MEAN amount (count)", "MEAN clicks (count)"]
    assert cells == [
        heads,
        ["canary", "4", "20", "6", "2", "10", "2", "16.67%", "25.00%", "75.00%", "75.00%", "2 (20)", "-"],
        ["control", "3", "10", "3", "0", "7", "0", "0.00%", "0.00%", "100.00%", "100.00%", "5.5 (10)", "1 (10)"],
        ["excluded", "-", "0", "0", "0", "0", "0", "-", "-", "-", "-", "-", "-"],
    ]


def test_the_same_as_json(store: SqliteStore, tmp_path: Path) -> None:
    count(tmp_path, ("canary", 1, {}), ("canary", 2, {"amount": 3.0}))
    answer = json.loads(report(tmp_path, "-o", "json").output)
    assert {name: answer[name] for name in ("namespace", "name", "epoch", "began")} == {
        "namespace": "payments",
        "name": "fraud-detector",
        "epoch": 1,
        "began": "2023-11-14T22:13:20.000Z",
    }
    assert [arm["arm"] for arm in answer["arms"]] == ["canary", "control", "excluded"]
    assert answer["arms"][0] == {
        "arm": "canary",
        "version": "4",
        "labels": 2,
        "truePositives": 0,
        "falsePositives": 1,
        "trueNegatives": 1,
        "falseNegatives": 0,
        "falsePositiveRate": 0.5,
        "falseNegativeRate": None,
        "precision": 0.0,
        "recall": None,
        "outcomes": {"amount": {"count": 1, "mean": 3.0}},
    }


def test_an_earlier_epoch_and_a_deleted_rollout_can_be_seen(store: SqliteStore, tmp_path: Path) -> None:
    row = store.get("payments", "fraud-detector")
    assert row is not None
    later = Status(stable="3", canary="5", epoch=2, previous_epoch=2)
    (row,) = store.write([Write("payments", "fraud-detector", row.resource_version, status=later)])
    count(tmp_path, ("canary", 0, {}))
    count(tmp_path, ("canary", 0, {}), ("canary", 0, {}), epoch=2)

    def seen(*arguments: str) -> tuple[int, str, int]:
        answer = json.loads(report(tmp_path, "-o", "json", *arguments).output)
        return answer["epoch"], answer["arms"][0]["version"], answer["arms"][0]["labels"]

    assert seen() == (2, "5", 2)
    assert seen("--epoch", "1") == (1, "4", 1)
    store.write([Write("payments", "fraud-detector", row.resource_version, delete=True)])
    assert seen() == (2, "5", 2)


def test_without_feedback_all_is_nothing_and_no_file_is_made(store: SqliteStore, tmp_path: Path) -> None:
    answer = json.loads(report(tmp_path, "-o", "json").output)
    assert [arm["labels"] for arm in answer["arms"]] == [0, 0, 0]
    assert not (tmp_path / "dropout.db.feedback").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (["payments/nobody"], "not_found", 2),
        ([KEY, "--epoch", "7"], "epoch_unknown", 2),
        ([KEY, "--epoch", "0"], "usage", 2),
    ],
)
def test_what_is_not_there_is_a_sentence(
    store: SqliteStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: str,
    status: int,
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["feedback", "report", *arguments, "--store", f"sqlite:{tmp_path / 'dropout.db'}", "-o", "json"])
    assert ended.value.code == status
    assert [error["code"] for error in json.loads(capsys.readouterr().out)["errors"]] == [code]


def test_an_epoch_that_is_damaged_is_none_that_somebody_asked_for(
    store: SqliteStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(tmp_path / "dropout.db")) as connection:
        connection.execute("UPDATE epochs SET began = 'soon'")
        connection.commit()
    with pytest.raises(SystemExit) as ended:
        main(["feedback", "report", KEY, "--store", f"sqlite:{tmp_path / 'dropout.db'}", "-o", "json"])
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert (ended.value.code, error["code"], error["field"]) == (2, "epoch_unknown", None)


def test_a_file_that_is_no_feedback_is_a_sentence(
    store: SqliteStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dropout.db.feedback").write_bytes(b"nonsense" * 1000)
    with pytest.raises(SystemExit) as ended:
        main(["feedback", "report", KEY, "--store", f"sqlite:{tmp_path / 'dropout.db'}"])
    assert ended.value.code == 3
    assert "(feedback_store_corrupt)" in capsys.readouterr().err
