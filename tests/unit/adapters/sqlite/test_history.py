"""What moved a rollout is still known when what did not has filled the history; what is repeated is one entry."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.sqlite.store import SqliteStore
from extproc.store.history import MOST_ASIDES
from extproc.store.records import FORGET_DELETED_SECONDS, HistoryEntry, StoredRollout, Write
from extproc.store.status import Status
from tests.support.clock import FakeClock

NAME = ("default", "a")
STATUS = Status("3", "4", weight=500, previous_weight=500)
PAUSED = {"phase": "Paused", "reason": "paused", "message": "paused by hand", "step_at": 9.0}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "dropout.db", create=True, clock=clock)
    yield store
    store.close()


def entry(action: str, at: float = 1.0, message: str = "why", **detail: Any) -> HistoryEntry:
    return HistoryEntry(at, *NAME, "alice", action, message, detail)


def put(store: SqliteStore, *history: HistoryEntry, **changes: Any) -> StoredRollout:
    """Write with these changes of the status."""
    row = store.get(*NAME)
    if row is None:
        (row,) = store.write([Write(*NAME, None, {}, replace(STATUS, **changes), history=history)])
    else:
        status = replace(row.status, **changes) if changes else None
        (row,) = store.write([Write(*NAME, row.resource_version, status=status, history=history)])
    return row


def actions(store: SqliteStore, limit: int = 1000) -> list[str]:
    return [found.action for found in store.history(*NAME, limit)]


def test_a_flood_of_what_moved_nothing_pushes_out_nothing_that_moved(store: SqliteStore) -> None:
    moved: list[tuple[str, dict[str, Any]]] = [
        ("apply", {}),
        ("trip", {"tripped": ("4",)}),
        ("abort", {"aborted": ("4",), "weight": 0}),
        ("kill", {"killed": True}),
        ("adopt", {"spec_stable": "5"}),
    ]
    for action, changes in moved:
        put(store, entry(action), **changes)
    # Each names another reason, so that none is a repetition of another.
    put(store, *(entry("promote", message=f"denied: {i}", denied=True) for i in range(MOST_ASIDES + 10)))
    put(store, *(entry("pause", message=f"{i}") for i in range(MOST_ASIDES + 10)), **PAUSED)
    assert actions(store)[: len(moved)] == [action for action, _ in moved]
    assert len(actions(store)) == len(moved) + MOST_ASIDES


def test_what_is_repeated_since_the_last_move_is_one_entry_that_says_how_often(store: SqliteStore) -> None:
    put(store, entry("apply"))
    for at in range(5):
        put(store, entry("pause", 10.0 + at), **PAUSED)
        put(store, entry("resume", 10.5 + at), phase="Progressing", reason="resumed", message="resumed")
    put(store, entry("set-weight", 600.0), weight=700, phase="Paused")
    put(store, entry("resume", 601.0, last=True), phase="Progressing")
    told = [(e.action, e.at, e.count, e.first_at) for e in store.history(*NAME)]
    assert told == [
        ("apply", 1.0, 1, None),
        ("pause", 14.0, 5, 10.0),
        ("resume", 14.5, 5, 10.5),
        ("set-weight", 600.0, 1, None),
        ("resume", 601.0, 1, None),
    ]
    assert actions(store, 2) == ["set-weight", "resume"]
    assert store.history(*NAME)[-1].detail == {"last": True}


def test_what_is_aside_goes_with_its_rollout(store: SqliteStore, clock: FakeClock) -> None:
    put(store, entry("apply"))
    row = put(store, entry("pause"), **PAUSED)
    store.write([Write(*NAME, row.resource_version, delete=True, history=[entry("delete")])])
    assert actions(store) == ["apply", "pause", "delete"]
    clock.advance(FORGET_DELETED_SECONDS + 1)
    (other,) = store.write([Write("default", "b", None, {}, STATUS)])
    store.write([Write("default", "b", other.resource_version, delete=True)])
    assert actions(store) == []


def test_a_store_of_the_last_version_is_read_and_written_on(store: SqliteStore, tmp_path: Path) -> None:
    put(store, entry("apply"))
    with closing(sqlite3.connect(tmp_path / "dropout.db")) as connection:  # as that one wrote a pause
        assert connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'asides'").fetchone() is None
        connection.execute(
            "INSERT INTO history (namespace, name, at, actor, action, message, detail)"
            " VALUES ('default', 'a', 2.0, 'bob', 'pause', 'paused by hand', '{}')"
        )
        connection.commit()
    assert actions(store) == ["apply", "pause"]
    put(store, entry("resume"), phase="Progressing", reason="resumed")
    put(store, entry("abort"), aborted=("4",))
    assert actions(store) == ["apply", "pause", "resume", "abort"]


@pytest.mark.parametrize("left", ["soon", b"\xff\x00"])
def test_what_is_damaged_aside_keeps_nothing_else_from_being_read(
    store: SqliteStore, tmp_path: Path, left: str | bytes
) -> None:
    put(store, entry("apply"))
    put(store, entry("pause"), **PAUSED)
    put(store, entry("pause"), **PAUSED)
    with closing(sqlite3.connect(tmp_path / "dropout.db")) as connection:
        assert connection.execute("UPDATE asides SET at = ?, first_at = ?, detail = ?", (left, left, left)).rowcount
        connection.commit()
    assert [(found.action, found.detail) for found in store.history(*NAME)] == [("apply", {}), ("pause", {})]
    put(store, entry("pause"), **PAUSED)
