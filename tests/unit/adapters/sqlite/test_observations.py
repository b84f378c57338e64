"""Observations in SQLite: all runs add up, and a file that is gone or broken is made anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from extproc.adapters.sqlite import observations as module
from extproc.adapters.sqlite.file import is_empty
from extproc.adapters.sqlite.observations import ObservationsReader, ObservationsWriter, observed
from extproc.control.fleet import Summary
from extproc.errors import Unreachable
from extproc.measure import EpochTotals, UnitSample
from extproc.measure.outcomes import Counts, Ends
from tests.support.clock import FakeClock

KEY = "payments/fraud-detector"
NOW = 1_800_000_000.0
DAY = 24 * 3600.0
LATER = FakeClock(NOW + DAY)


def totals(requests: int = 10, *units: int, epoch: int = 1, at: float = NOW) -> EpochTotals:
    """The counts of an epoch in which the canary got so many requests, one of which failed."""
    made = EpochTotals(KEY, epoch, at)
    arm = made.arm("canary")
    arm.decided, arm.requests, arm.failures = requests + 1, requests, 1
    arm.latency.add(12.0)
    arm.groups[7] = [requests, 1]
    arm.abandon(7)
    made.units = UnitSample((unit, "canary") for unit in units)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dropout.db.observed"


@pytest.fixture
def reader(path: Path) -> Iterator[ObservationsReader]:
    reader = ObservationsReader(path, LATER)
    yield reader
    reader.close()


def write(path: Path, run: str, *rows: EpochTotals, now: float = NOW, fallbacks: tuple[str, ...] = ()) -> bool:
    writer = ObservationsWriter(path, run)
    try:
        return writer.write([observed(row, units=True) for row in rows], fallbacks, now)
    finally:
        writer.close()


def test_before_anything_was_observed_there_is_nothing(reader: ObservationsReader) -> None:
    assert reader.totals(KEY, 1) is None
    assert reader.fallbacks(0) == ()


def test_a_file_that_is_being_made_has_nothing_in_it_yet(path: Path, reader: ObservationsReader) -> None:
    path.touch()
    assert reader.totals(KEY, 1) is None
    assert reader.fallbacks(0) == ()
    write(path, "one", totals(10))
    assert reader.totals(KEY, 1).arms["canary"].requests == 10  # type: ignore[union-attr]


def test_two_that_make_the_file_at_once_make_it_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ObservationsWriter(path, "other")

    def meanwhile(connection: sqlite3.Connection) -> bool:
        found = is_empty(connection)
        monkeypatch.undo()
        other.write([observed(totals(5), units=True)], (), NOW)
        return found

    monkeypatch.setattr(module, "is_empty", meanwhile)
    assert write(path, "one", totals(10))
    assert other.write([observed(totals(5), units=False)], (), NOW)
    other.close()
    assert ObservationsReader(path, LATER).totals(KEY, 1).arms["canary"].requests == 15  # type: ignore[union-attr]


def test_what_was_written_is_read_as_it_was(path: Path, reader: ObservationsReader) -> None:
    write(path, "one", totals(10, 1, 2, 3), totals(5, epoch=2))
    found = reader.totals(KEY, 1)
    assert found is not None
    assert (found.updated_at, found.units.counts()) == (NOW, {"canary": 3})
    assert found.arms["canary"].to_json() == totals(10).arms["canary"].to_json()
    assert reader.totals(KEY, 3) is None
    assert reader.totals("payments/other", 1) is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_later_count_of_a_run_takes_the_place_of_the_earlier(path: Path, reader: ObservationsReader) -> None:
    writer = ObservationsWriter(path, "one")
    assert writer.write([observed(totals(10, 1), units=True)], (), NOW)
    assert reader.totals(KEY, 1).arms["canary"].requests == 10  # type: ignore[union-attr]
    assert writer.write([observed(totals(20, at=NOW + 1), units=False)], (), NOW + 1)
    found = reader.totals(KEY, 1)
    assert found is not None
    assert (found.arms["canary"].requests, found.updated_at) == (20, NOW + 1)
    assert found.units.counts() == {"canary": 1}
    writer.write([observed(totals(30, 1, 2), units=True)], (), NOW + 2)
    assert reader.totals(KEY, 1).units.counts() == {"canary": 2}  # type: ignore[union-attr]
    writer.close()


def test_all_runs_add_up(path: Path, reader: ObservationsReader) -> None:
    write(path, "one", totals(10, 1, 2))
    write(path, "two", totals(5, 2, 3, at=NOW + 5))
    found = reader.totals(KEY, 1)
    assert found is not None
    arm = found.arms["canary"]
    assert (arm.requests, arm.failures, arm.decided, arm.groups) == (15, 2, 17, {7: [15, 2]})
    assert (arm.latency.count, found.updated_at, found.units.counts()) == (2, NOW + 5, {"canary": 3})
    assert found.arms["canary"] is reader.totals(KEY, 1).arms["canary"]  # type: ignore[union-attr]


def test_summaries_have_the_outcomes_of_each_run_with_those_that_are_missing(
    path: Path, reader: ObservationsReader
) -> None:
    assert reader.summaries(0) == ()
    one, two = totals(10), totals(5, at=NOW + 1)
    one.arm("control").requests = 4
    two.arms["canary"].missing = 3
    two.arm("control").abandoned = 2
    write(path, "one", one)
    write(path, "two", two)
    assert reader.summaries(NOW) == [
        Summary("one/0", KEY, 1, Ends(Counts(10, 1), 1), Ends(Counts(4, 0))),
        Summary("two/0", KEY, 1, Ends(Counts(5 + 3, 1 + 3), 1), Ends(Counts(), 2)),
    ]
    assert [summary.run for summary in reader.summaries(NOW + 1)] == ["two/0"]


def test_a_file_of_an_older_dropout_is_read_and_written_and_an_older_one_reads_and_writes_ours(
    path: Path, reader: ObservationsReader
) -> None:
    write(path, "one", totals(10))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE abandoned")
    assert reader.summaries(0) == [Summary("one/0", KEY, 1, Ends(Counts(10, 1)), Ends())]
    write(path, "two", totals(5))
    assert [summary.canary for summary in reader.summaries(0)] == [Ends(Counts(10, 1)), Ends(Counts(5, 1), 1)]
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute("SELECT * FROM counts WHERE run = 'two/0'").fetchone()
        assert len(row) == 9
        assert len(orjson.loads(row[5])) == 4
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_run_that_is_over_waits_for_nothing(path: Path, reader: ObservationsReader) -> None:
    over, present = totals(10), totals(5, at=NOW + 5)
    over.unheard_since = NOW - 3
    write(path, "one", over)
    write(path, "two", present)
    assert reader.totals(KEY, 1).unheard_since == NOW - 3  # type: ignore[union-attr]
    present.updated_at, present.unheard_since = NOW + 60, NOW + 55
    write(path, "two", present)
    assert reader.totals(KEY, 1).unheard_since == NOW + 55  # type: ignore[union-attr]


def test_a_run_that_ended_before_the_clock_was_set_back_does_not_end_those_after_it(path: Path) -> None:
    present = totals(5, at=NOW - 3600)
    present.unheard_since = NOW - 3620
    write(path, "one", totals(10))
    write(path, "two", present)
    found = ObservationsReader(path, FakeClock(NOW - 3600)).totals(KEY, 1)
    assert found is not None
    assert (found.updated_at, found.unheard_since) == (NOW - 3600, NOW - 3620)
    assert found.arms["canary"].requests == 15


def test_parts_of_a_run_add_up(path: Path, reader: ObservationsReader) -> None:
    writer = ObservationsWriter(path, "one")
    writer.write([observed(totals(10, 1), units=True)], (), NOW)
    writer.write([observed(totals(3, 2), units=True, part=7)], (), NOW + 1)
    writer.close()
    found = reader.totals(KEY, 1)
    assert found is not None
    assert (found.arms["canary"].requests, found.units.counts()) == (13, {"canary": 2})


def test_fallbacks_are_read_in_order_and_each_once(path: Path, reader: ObservationsReader) -> None:
    write(path, "one", fallbacks=("a", "b"))
    write(path, "two", fallbacks=("c",))  # the clock stood still
    first = reader.fallbacks(0, limit=2)
    assert [one.decision_id for one in first] == ["a", "b"]
    rest = reader.fallbacks(first[-1].seq)
    assert [one.decision_id for one in rest] == ["c"]
    assert reader.fallbacks(rest[-1].seq) == []


@pytest.mark.parametrize("damage", ["deleted", "garbage", "empty", "of another kind", "without a table"])
def test_a_file_that_is_gone_or_broken_is_made_anew(path: Path, damage: str) -> None:
    writer = ObservationsWriter(path, "one")
    writer.write([observed(totals(10), units=True)], ("a",), NOW)
    if damage == "without a table":
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE counts")
    else:
        for part in path.parent.glob(f"{path.name}*"):
            part.unlink()
    if damage == "garbage":
        path.write_bytes(b"no database" * 1000)
    elif damage == "empty":
        path.touch()
    elif damage == "of another kind":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE somebody (elses INTEGER)")
    assert not writer.write([observed(totals(20), units=True)], ("b",), NOW + 1)
    assert writer.write([observed(totals(30), units=True)], (), NOW + 2)
    reader = ObservationsReader(path, LATER)
    assert reader.totals(KEY, 1).arms["canary"].requests == 30  # type: ignore[union-attr]
    assert [one.decision_id for one in reader.fallbacks(0)] == ["b"]
    reader.close()
    writer.close()


def test_a_reader_notices_another_file_in_the_place_of_its_own(path: Path, reader: ObservationsReader) -> None:
    write(path, "one", totals(10))
    assert reader.totals(KEY, 1) is not None
    for part in path.parent.glob(f"{path.name}*"):
        part.unlink()
    assert reader.totals(KEY, 1) is None
    write(path, "one", totals(20))
    assert reader.totals(KEY, 1).arms["canary"].requests == 20  # type: ignore[union-attr]


def test_what_cannot_be_read_says_so(path: Path, reader: ObservationsReader) -> None:
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(Unreachable, match="observed") as error:
        reader.totals(KEY, 1)
    assert error.value.code == "observations_corrupt"


@pytest.mark.parametrize("body", ["no json", "[1]", "{}", "3"])
def test_a_row_that_is_not_ours_says_so(path: Path, reader: ObservationsReader, body: str) -> None:
    write(path, "one", totals(10))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE counts SET outcomes = ?, arms = ?", (body, f'{{"canary": {body}}}'))
    for read in (lambda: reader.totals(KEY, 1), lambda: reader.summaries(0)):
        with pytest.raises(Unreachable) as error:
            read()
        assert error.value.code == "observations_corrupt"


def test_a_locked_file_is_no_reason_to_throw_it_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    write(path, "one", totals(10))
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unreachable) as error:
        write(path, "two", totals(5))
    assert error.value.code == "observations_locked"
    lock.close()
    assert ObservationsReader(path, LATER).totals(KEY, 1).arms["canary"].requests == 10  # type: ignore[union-attr]


def test_a_folder_that_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as error:
        write(tmp_path / "nowhere" / "observed", "one", totals(10))
    assert error.value.code == "observations_unreachable"


def test_what_is_older_than_thirty_days_goes(path: Path, reader: ObservationsReader) -> None:
    write(path, "old", totals(10, at=NOW - 31 * DAY), now=NOW - 31 * DAY, fallbacks=("a",))
    write(path, "new", totals(5), fallbacks=("b",))
    assert reader.totals(KEY, 1).arms["canary"].requests == 5  # type: ignore[union-attr]
    assert [one.decision_id for one in reader.fallbacks(0)] == ["b"]


def test_rows_are_bounded_whatever_their_age(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COUNTS", 3)
    monkeypatch.setattr(module, "MAX_FALLBACKS", 2)
    for number in range(8):
        write(path, f"run-{number}", totals(1, at=NOW + number), now=NOW + number, fallbacks=(f"id-{number}",))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM counts").fetchone() == (4,)
        assert connection.execute("SELECT count(*) FROM fallbacks").fetchone() == (3,)
