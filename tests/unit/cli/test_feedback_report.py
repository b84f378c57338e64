"""``dropout feedback report``: error rates and outcomes by arm, as a table and as JSON."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from extproc.adapters.sqlite.feedback import SqliteFeedback
from extproc.adapters.sqlite.store import SqliteStore
from extproc.cli.main import cli, main
from extproc.control.feedback import LabelEntry, LabelTally
from extproc.store.records import Write
from extproc.store.status import Status
from tests.support.clock import FakeClock
from tests.support.rollouts import CANARY, EXPERIMENT, document

KEY = "payments/fraud-detector"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "dropout.db", create=True, clock=FakeClock(1_700_000_000.0))
    status = Status(stable="3", canary="4", weight=5000)
    store.write([Write("payments", "fraud-detector", None, document(CANARY), status)])
    yield store
    store.close()


def count(store: SqliteStore, tmp_path: Path, *what: tuple[str, int | None, dict[str, float]], epoch: int = 1) -> None:
    """Label decisions: arm, index of the confusion, outcomes."""
    (kept_by,) = [one.id for one in store.epochs_of(*KEY.split("/")) if one.epoch == epoch]
    feedback = SqliteFeedback(tmp_path / "dropout.db.feedback", create=True)
    entries = [
        LabelEntry(
            (epoch * 1000 + n).to_bytes(13, "big"), 1, LabelTally(KEY, kept_by, arm, n % 256), confusion, outcomes
        )
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
    count(store, tmp_path, *canary, *control)
    lines = report(tmp_path).output.splitlines()
    assert lines[0] == "payments/fraud-detector, epoch 1, since 2023-11-14T22:13:20.000Z"
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[1:5]]
    heads = ["ARM", "VERSION", "LABELS", "TRUE+", "FALSE+", "TRUE-", "FALSE-"]
    heads += ["FALSE+ RATE", "FALSE- RATE", "PRECISION", "RECALL", "MEAN amount (count)", "MEAN clicks (count)"]
    assert cells == [
        heads,
        ["canary", "4", "20", "6", "2", "10", "2", "16.67%", "25.00%", "75.00%", "75.00%", "2 (20)", "-"],
        ["control", "3", "10", "3", "0", "7", "0", "0.00%", "0.00%", "100.00%", "100.00%", "5.5 (10)", "1 (10)"],
        ["excluded", "-", "0", "0", "0", "0", "0", "-", "-", "-", "-", "-", "-"],
    ]


def test_the_same_as_json(store: SqliteStore, tmp_path: Path) -> None:
    count(store, tmp_path, ("canary", 1, {}), ("canary", 2, {"amount": 3.0}))
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


def test_records_that_give_outcomes_alone_are_labels(store: SqliteStore, tmp_path: Path) -> None:
    revenue = [("canary", None, {"revenue": 2.0}), ("canary", None, {"revenue": 3.0}), ("control", None, {"clicks": 1})]
    count(store, tmp_path, *revenue)
    arms = json.loads(report(tmp_path, "-o", "json").output)["arms"]
    assert [arm["labels"] for arm in arms] == [2, 1, 0]
    (epoch,) = json.loads(report(tmp_path, "--epochs", "-o", "json").output)["epochs"]
    assert epoch["labels"] == 3


def many(arm: str, false_positives: int, negatives: int) -> list[tuple[str, int, dict[str, float]]]:
    """Labels of which so many are false positives."""
    return [(arm, 1 if n < false_positives else 2, {"amount": 1.0 + n % 2}) for n in range(negatives)]


def test_an_answer_is_given_against_the_control_in_words_and_numbers(store: SqliteStore, tmp_path: Path) -> None:
    count(store, tmp_path, *many("canary", 600, 3000), *many("control", 150, 3000))
    text = report(tmp_path).output
    assert "Against control (version 3). LOWER and UPPER hold the true difference with 95%" in text
    rate = next(line for line in text.splitlines() if "false+ rate" in line)
    assert rate.startswith("canary  4        false+ rate  20.00%  5.00%    +15.00 pp")
    assert rate.endswith("worse")
    answer = json.loads(report(tmp_path, "-o", "json").output)
    assert answer["alpha"] == 0.05
    found = {one["outcome"] or one["metric"]: one for one in answer["comparisons"]}
    assert found["falsePositiveRate"]["verdict"] == "worse"
    assert found["falsePositiveRate"]["moreLabels"] == 0
    assert found["falsePositiveRate"]["lower"] > 0.1
    assert (found["amount"]["verdict"], found["amount"]["difference"]) == ("not_known", 0.0)
    assert set(found["amount"]) == {
        *("arm", "version", "control", "controlVersion", "metric", "outcome", "value", "controlValue"),
        *("difference", "ratio", "lower", "upper", "verdict", "moreLabels"),
    }


def test_what_is_not_known_yet_says_how_many_labels_more_it_takes(store: SqliteStore, tmp_path: Path) -> None:
    count(store, tmp_path, *many("canary", 60, 1000), *many("control", 50, 1000))
    rate = next(line for line in report(tmp_path).output.splitlines() if "false+ rate" in line)
    assert re.search(r"not known yet, about [\d,]+ more labels$", rate)


def test_variants_are_listed_as_in_the_document_and_compared_in_that_order(store: SqliteStore, tmp_path: Path) -> None:
    names = ["a", "b", "c", "control"]
    variants = [{"name": name, "version": str(n), "weight": 25} for n, name in enumerate(names)]
    spec = document({**EXPERIMENT, "variants": variants}, "ranking")
    store.write([Write("payments", "ranking", None, spec, Status(stable="3"))])
    (epoch,) = store.epochs_of("payments", "ranking")
    feedback = SqliteFeedback(tmp_path / "dropout.db.feedback", create=True)
    tallies = [LabelTally("payments/ranking", epoch.id, name, group) for group in range(8) for name in names]
    feedback.record(
        [LabelEntry(n.to_bytes(13, "big"), 1, tally, tally.group % 4, {}) for n, tally in enumerate(tallies)], 0.0
    )
    feedback.close()
    answer = json.loads(report(tmp_path, "-o", "json", name="payments/ranking").output)
    assert [arm["arm"] for arm in answer["arms"]] == [*names, "excluded"]
    assert list(dict.fromkeys(one["arm"] for one in answer["comparisons"])) == names[:-1]
    (listed,) = json.loads(report(tmp_path, "--epochs", "-o", "json", name="payments/ranking").output)["epochs"]
    assert list(listed["arms"]) == names


def test_an_epoch_without_labels_says_where_those_before_it_are(store: SqliteStore, tmp_path: Path) -> None:
    assert "--epochs" not in report(tmp_path).output
    row = store.get("payments", "fraud-detector")
    assert row is not None
    later = Status(stable="3", canary="5", epoch=2, previous_epoch=2)
    store.write([Write("payments", "fraud-detector", row.resource_version, status=later)])
    count(store, tmp_path, ("canary", 0, {}), epoch=1)
    assert report(tmp_path).output.splitlines()[-1].startswith("There are no labels of this epoch yet; --epochs lists")


def test_the_epochs_are_listed_with_their_times(store: SqliteStore, tmp_path: Path) -> None:
    row = store.get("payments", "fraud-detector")
    assert row is not None
    later = Status(stable="3", canary="5", epoch=2, previous_epoch=2)
    store.write([Write("payments", "fraud-detector", row.resource_version, status=later)])
    count(store, tmp_path, ("canary", 0, {}), epoch=2)
    assert [line.split() for line in report(tmp_path, "--epochs").output.splitlines()] == [
        ["EPOCH", "BEGAN", "UNTIL", "ARMS", "LABELS"],
        ["1", "2023-11-14T22:13:20.000Z", "2023-11-14T22:13:20.000Z", "canary", "4,", "control", "3", "0"],
        ["2", "2023-11-14T22:13:20.000Z", "-", "canary", "5,", "control", "3", "1"],
    ]
    assert "no labels of this epoch" not in report(tmp_path).output + report(tmp_path, "--epoch", "1").output
    (first, second) = json.loads(report(tmp_path, "--epochs", "-o", "json").output)["epochs"]
    assert first["until"] == second["began"]
    assert (second["until"], second["arms"], second["labels"]) == (None, {"canary": "5", "control": "3"}, 1)
    assert second["number"] == store.epochs_of("payments", "fraud-detector")[1].number


def test_what_was_taken_away_counts_until_then_and_what_stable_served_in_its_place_stands_apart(
    store: SqliteStore, tmp_path: Path
) -> None:
    row = store.get("payments", "fraud-detector")
    assert row is not None
    count(store, tmp_path, ("canary", 1, {}), ("control", 2, {}), ("taken_away", 2, {}))  # a host heard of it first
    aborted = replace(row.status, aborted=("4",), weight=0, drawn=5000, epoch=2, previous_epoch=2)
    a_minute_later = SqliteStore(tmp_path / "dropout.db", clock=FakeClock(1_700_000_060.0))
    a_minute_later.write([Write("payments", "fraud-detector", row.resource_version, status=aborted)])
    a_minute_later.close()
    count(store, tmp_path, ("taken_away", 2, {}), ("control", 2, {}), epoch=2)

    def seen(*arguments: str) -> tuple[int, str | None, list[tuple[str, str | None, int]]]:
        answer = json.loads(report(tmp_path, "-o", "json", *arguments).output)
        return answer["epoch"], answer["until"], [(one["arm"], one["version"], one["labels"]) for one in answer["arms"]]

    of_4 = [("canary", "4", 1), ("control", "3", 1), ("taken_away", "3", 1), ("excluded", None, 0)]
    assert seen() == (1, "2023-11-14T22:14:20.000Z", of_4)
    assert report(tmp_path).output.splitlines()[0].endswith("until 2023-11-14T22:14:20.000Z")
    since = [("canary", None, 0), ("control", "3", 1), ("taken_away", "3", 1), ("excluded", None, 0)]
    assert seen("--epoch", "2") == (2, None, since)


def test_an_earlier_epoch_and_a_deleted_rollout_can_be_seen(store: SqliteStore, tmp_path: Path) -> None:
    row = store.get("payments", "fraud-detector")
    assert row is not None
    later = Status(stable="3", canary="5", epoch=2, previous_epoch=2)
    (row,) = store.write([Write("payments", "fraud-detector", row.resource_version, status=later)])
    count(store, tmp_path, ("canary", 0, {}))
    count(store, tmp_path, ("canary", 0, {}), ("canary", 0, {}), epoch=2)

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
