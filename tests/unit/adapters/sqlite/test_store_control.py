"""What the embedded store forgets of epochs and leases, and stores of earlier formats."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from extproc.adapters.sqlite.store import SqliteStore
from extproc.decision_id import hashed_number
from extproc.errors import Unreachable
from extproc.store.epoch_records import FORGET_EPOCHS_SECONDS
from extproc.store.records import Write
from extproc.store.status import Status
from tests.support.clock import FakeClock
from tests.support.damage import damage

STATUS = Status(stable="3", canary="4")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dropout.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(path: Path, clock: FakeClock) -> SqliteStore:
    return SqliteStore(path, create=True, clock=clock)


def test_an_epoch_is_forgotten_a_year_after_the_next_began_however_long_it_was(
    store: SqliteStore, clock: FakeClock
) -> None:
    (row,) = store.write([Write("a", "r", None, {}, STATUS)])
    known = []
    for epoch, seconds in ((2, 2 * FORGET_EPOCHS_SECONDS), (3, FORGET_EPOCHS_SECONDS - 1), (4, 2)):
        clock.advance(seconds)
        status = replace(STATUS, epoch=epoch, previous_epoch=epoch)
        (row,) = store.write([Write("a", "r", row.resource_version, status=status)])
        known.append([one.epoch for one in store.epochs_of("a", "r")])
    assert known == [[1, 2], [1, 2, 3], [2, 3, 4]]


def test_a_lease_from_before_the_machine_started_anew_is_void(path: Path) -> None:
    assert SqliteStore(path, create=True, clock=FakeClock(1_000_000.0)).acquire("one", 5)
    assert SqliteStore(path, clock=FakeClock(10.0)).acquire("two", 5)


# -- earlier formats


def as_version_1(path: Path) -> None:
    """Make a store what the first version of its format would have made it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in ("templates", "epochs", "lease"):
            connection.execute(f"DROP TABLE {table}")
        older = '{"stable":"3","canary":"4","aborted":[],"conditions":[]}'
        connection.execute("UPDATE rollouts SET status = ?", (older,))
        connection.execute("PRAGMA user_version = 1")


def test_a_store_of_the_first_version_is_taken_over_with_all_that_it_holds(path: Path, store: SqliteStore) -> None:
    (row,) = store.write([Write("a", "r", None, {"d": 1}, STATUS)])
    store.close()
    as_version_1(path)
    with pytest.raises(Unreachable, match="takes it over"):
        SqliteStore(path)
    opened = SqliteStore(path, create=True)
    assert opened.get("a", "r") == replace(row, status=replace(row.status, numbers={}))
    assert opened.acquire("one", 5)
    assert opened.documents().templates == []


def test_a_store_of_the_first_version_with_a_damaged_row_is_taken_over_too(path: Path, store: SqliteStore) -> None:
    store.write([Write("a", "r", None, {"d": 1}, STATUS), Write("a", "bad", None, {"d": 1}, STATUS)])
    store.close()
    as_version_1(path)
    damage(path, "bad")
    opened = SqliteStore(path, create=True)
    assert [row.name for row in opened.documents().unreadable] == ["bad"]
    assert [len(opened.epochs_of("a", name)) for name in ("r", "bad")] == [1, 0]


def test_the_epochs_in_force_in_a_store_of_the_first_version_are_remembered_from_then_on(
    path: Path, store: SqliteStore, clock: FakeClock
) -> None:
    store.write([Write("a", "r", None, {"d": 1}, STATUS), Write("a", "gone", None, {"d": 1}, STATUS)])
    store.write([Write("a", "gone", 3, delete=True)])
    store.close()
    as_version_1(path)
    clock.advance(100)
    opened = SqliteStore(path, create=True, clock=clock)
    (found,) = opened.epochs(hashed_number("a/r", 1))
    assert (found.epoch, found.began, [arm.version for arm in found.arms]) == (1, clock.now(), ["", "3", "4", "3"])
    assert opened.epochs_of("a", "gone") == []
