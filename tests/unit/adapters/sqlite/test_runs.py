"""The runs of observers in the file of observations: who is alive, for whom, and what they took away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.sqlite.file import SqliteFile
from extproc.adapters.sqlite.observations import KEEP_SECONDS, ObservationsReader, ObservationsWriter
from extproc.adapters.sqlite.runs import FORGET_SECONDS, RunReport
from extproc.control.observer_reports import ObserverReport
from extproc.errors import Unreachable
from extproc.snapshot.trips import LocalTrip
from tests.support.clock import FakeClock

KEY = "payments/fraud-detector"
NOW = 1_800_000_000.0
TRIP = LocalTrip(KEY, "4", 1, at=NOW, why="10 requests in a row failed")


class Runs:
    """Observers on hosts that write into one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writers: dict[str, ObservationsWriter] = {}
        self.reader = ObservationsReader(path, FakeClock(NOW))

    def report(self, run: str, host: str = "a", *, now: float = NOW, **report: Any) -> bool:
        if run not in self.writers:
            self.writers[run] = ObservationsWriter(self.path, run)
        return self.writers[run].write((), (), now, RunReport(host, "unix:o.sock", **report))

    def told(self) -> dict[str, ObserverReport]:
        return {report.run: report for report in self.reader.reports()}

    def over(self) -> set[str]:
        return {report.run for report in self.told().values() if report.over}

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()
        self.reader.close()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(tmp_path / "dropout.db.observed")
    yield runs
    runs.close()


def test_before_the_first_report_nobody_is_there(runs: Runs) -> None:
    assert list(runs.reader.reports()) == []
    assert not runs.reader.watching(KEY, 1)


def test_every_report_has_a_greater_number_and_carries_the_trips_in_force(runs: Runs) -> None:
    runs.report("one")
    first = runs.told()["one"]
    runs.report("one", trips=[TRIP])
    assert first == ObserverReport("one", "a", "unix:o.sock", 1, over=False)
    assert runs.told()["one"] == first._replace(number=2, trips=(TRIP,))


def test_a_run_that_is_deaf_tells_its_trips_and_counts_as_not_heard(runs: Runs) -> None:
    runs.report("one")
    heard = runs.told()["one"]
    runs.report("one", trips=[TRIP], deaf=True)
    assert runs.told()["one"] == heard._replace(trips=(TRIP,))
    runs.report("one", trips=[TRIP])
    assert runs.told()["one"].number == heard.number + 1


def test_a_run_reports_for_the_attempts_that_it_watches(runs: Runs) -> None:
    runs.report("one", begun={(KEY, 1), ("payments/other", 1)})
    runs.report("two", host="b", begun={(KEY, 1)})
    assert runs.reader.watching(KEY, 1) == {"one", "two"}
    runs.report("one", begun={(KEY, 2)}, done={(KEY, 1)})
    assert (runs.reader.watching(KEY, 1), runs.reader.watching(KEY, 2)) == ({"two"}, {"one"})


def test_a_later_run_of_the_place_takes_the_earlier_ones_place_and_its_trips_stand(runs: Runs) -> None:
    runs.report("one", trips=[TRIP])
    runs.report("elsewhere", host="b")
    runs.report("two")
    assert runs.over() == {"one"}
    assert runs.told()["one"].trips == (TRIP,)
    runs.report("one", trips=[TRIP])  # it drains
    runs.report("two")
    assert runs.over() == {"one"}


def test_a_run_that_ends_in_order_says_so(runs: Runs) -> None:
    runs.report("one")
    runs.report("one", over=True)
    assert runs.over() == {"one"}


def test_runs_that_are_over_are_forgotten_those_with_trips_last(runs: Runs) -> None:
    runs.report("one", over=True)
    runs.report("two", "b", trips=[TRIP], over=True)
    runs.report("three", "c", begun={(KEY, 1)})
    runs.report("late", "d", now=NOW + FORGET_SECONDS + 1)
    assert set(runs.told()) == {"two", "three", "late"}
    runs.report("later", "e", now=NOW + KEEP_SECONDS + 1)
    assert set(runs.told()) == {"three", "late", "later"}
    assert runs.reader.watching(KEY, 1) == {"three"}


def test_a_file_of_a_version_that_knew_no_runs_is_taken_over(runs: Runs) -> None:
    runs.report("one")
    with closing(SqliteFile(runs.path, "observations", 1.0).connect("rw")) as connection:
        connection.execute("DROP TABLE runs")
        connection.execute("DROP TABLE watching")
    assert list(runs.reader.reports()) == []
    assert runs.report("one", begun={(KEY, 1)})
    assert set(runs.told()) == {"one"}


def test_a_file_that_is_gone_is_made_anew_and_the_observer_hears_of_it(runs: Runs) -> None:
    runs.report("one")
    runs.path.unlink()
    assert not runs.report("one")
    assert runs.told()["one"].number == 2


def test_a_report_that_cannot_be_read_is_a_fault_of_the_file(runs: Runs) -> None:
    runs.report("one")
    with closing(SqliteFile(runs.path, "observations", 1.0).connect("rw")) as connection:
        connection.execute("UPDATE runs SET trips = '[1]'")
    with pytest.raises(Unreachable) as error:
        runs.reader.reports()
    assert error.value.code == "observations_corrupt"


def test_a_report_of_a_version_that_tells_more_of_a_trip_is_understood(runs: Runs) -> None:
    runs.report("one", trips=[(*TRIP, "more")])
    assert runs.told()["one"].trips == (TRIP,)


def test_what_is_old_is_looked_for_every_ten_minutes(runs: Runs) -> None:
    runs.report("one")
    runs.report("old", "b", now=NOW - 2 * FORGET_SECONDS, over=True)
    runs.report("one", now=NOW + 599)
    assert set(runs.told()) == {"one", "old"}
    runs.report("one", now=NOW + 600)
    assert set(runs.told()) == {"one"}
