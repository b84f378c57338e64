"""What changes an analysis only wakes nobody who follows the store, and everybody who asks sees it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from extproc.adapters.sqlite.store import SqliteStore
from extproc.control.access import DirectControl
from extproc.control.active_rollouts import ActiveRollouts
from extproc.errors import Refused
from extproc.snapshot.holder import SnapshotHolder
from extproc.store.parts import routes_alike
from extproc.store.records import HistoryEntry, StoredRollout, TemplateWrite, Write
from extproc.store.status import Status
from tests.support.clock import FakeClock
from tests.support.reconciling import KEY, NAME, Environment
from tests.support.rollouts import CANARY, document

JUDGING = {"analysis", "message"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "dropout.db", create=True, clock=FakeClock())
    status = Status("3", "4", weight=500, previous_weight=500, unknown={"novel": "kept"})
    store.write([Write(*NAME, None, document(CANARY, NAME[1]), status)])
    yield store
    store.close()


def row_of(store: SqliteStore) -> StoredRollout:
    row = store.get(*NAME)
    assert row is not None
    return row


def changed(store: SqliteStore, **status: Any) -> StoredRollout:
    row = row_of(store)
    (after,) = store.write([Write(*NAME, row.resource_version, status=replace(row.status, **status))])
    return after


def measured(store: SqliteStore, times: int) -> StoredRollout:
    return changed(store, analysis={"runs": [{"measured": times}]}, message=f"measured {times} times")


def test_a_hundred_measurements_compile_nothing_and_all_who_ask_see_them(store: SqliteStore, tmp_path: Path) -> None:
    clock, file = FakeClock(), tmp_path / "dropout.db"
    holder, other = SnapshotHolder(SqliteStore(file), clock), SqliteStore(file)
    control = DirectControl(other, "alice", clock)
    under_way = ActiveRollouts(SqliteStore(file), clock)
    holder.load()
    under_way.refresh()
    seen, told = control.get(*NAME), 0
    for times in range(100):
        row = measured(store, times)
        if times % 10 == 0:
            assert holder.refresh() is None
            after = control.changed(seen)
            told += after is not None
            seen = after or seen
    under_way.refresh()
    followed = under_way.get(KEY)
    assert followed is not None
    assert (holder.compiled, told, followed.row.status.analysis) == (1, 10, {})
    assert control.get(*NAME) == row
    assert (row.status.message, row.status.unknown) == ("measured 99 times", {"novel": "kept"})
    # And what routes comes at once, with the last measurement.
    changed(store, weight=1000, previous_weight=1000)
    assert holder.refresh() is not None
    under_way.refresh()
    assert (holder.compiled, followed.row.status.weight, followed.row.status.analysis) == (2, 1000, row.status.analysis)


def test_whatever_is_not_analysis_is_reported(store: SqliteStore) -> None:
    row = row_of(store)
    others: dict[str, Any] = {"canary": None, "numbers": {}}
    for field in fields(Status):
        value = getattr(row.status, field.name)
        other = others.get(field.name, {"b": 1} if isinstance(value, dict) else type(value)())
        other = other if other != value else {str: "other", int: 7, float: 7.0, bool: True, tuple: ("9",)}[type(value)]
        after = replace(row, status=replace(row.status, **{field.name: other}))
        assert routes_alike(row, after) == (field.name in JUDGING), field.name
    assert not routes_alike(None, row)
    assert not routes_alike(row, replace(row, document={}))
    assert not routes_alike(row, replace(row, deleted=True))


def test_who_changes_an_analysis_only_is_refused_as_any_other_that_comes_second(store: SqliteStore) -> None:
    row = row_of(store)
    measured(store, 1)
    for status in (replace(row.status, weight=0), replace(row.status, message="mine")):
        with pytest.raises(Refused, match="at the same time"):
            store.write([Write(*NAME, row.resource_version, status=status)])
    after = row_of(store)
    entry = HistoryEntry(1.0, *NAME, "alice", "promote", "denied: no")
    (noted,) = store.write([Write(*NAME, after.resource_version, history=[entry])])
    assert noted.resource_version > after.resource_version
    assert [entry.message for entry in store.history(*NAME)] == ["denied: no"]


def test_a_stop_is_found_behind_measurements_and_a_template_is_reported_alone(store: SqliteStore) -> None:
    changed(store, killed=True)
    before = store.changes(0)
    assert before is not None
    measured(store, 1)
    reader = SqliteStore(store._opened.file.path)
    assert reader.stops(before.revision).stops == []
    assert [at.stops.killed for at in reader.stops(before.revision - 1).stops] == [True]
    assert reader.changes(before.revision) is None
    store.write([], templates=[TemplateWrite("payments", "errors", {"kind": "AnalysisTemplate"})])
    changes = reader.changes(before.revision)
    assert changes is not None
    assert list(changes.rollouts) == []


def older_write(path: Path, **status: Any) -> None:
    """What a version does that knows of no parts: it reads and writes the document, the status and the revision."""
    with closing(sqlite3.connect(path)) as connection, connection:
        (before,) = connection.execute("SELECT status FROM rollouts").fetchone()
        connection.execute("UPDATE meta SET revision = revision + 1")
        connection.execute(
            "UPDATE rollouts SET status = ?, revision = (SELECT revision FROM meta)",
            (orjson.dumps({**orjson.loads(before), **status}),),
        )


def test_what_an_older_version_writes_is_reported_whole(store: SqliteStore, tmp_path: Path) -> None:
    path = tmp_path / "dropout.db"
    measured(store, 1)
    since = store.changes(0)
    assert since is not None
    measured(store, 2)
    assert store.changes(since.revision) is None
    older_write(path, weight=700, previous_weight=700)
    changes = store.changes(since.revision)
    assert changes is not None
    (row,) = changes.rollouts
    assert isinstance(row, StoredRollout)
    assert (row.status.weight, row.status.message, row.status.unknown) == (700, "measured 2 times", {"novel": "kept"})
    # What it measures, it cannot say that it was only that: that wakes everybody once more, and loses nothing.
    measured(store, 3)
    assert store.changes(changes.revision) is None
    older_write(path, message="measured by the older one")
    changes = store.changes(changes.revision)
    assert changes is not None
    assert [row.status.message for row in changes.rollouts if isinstance(row, StoredRollout)] == [
        "measured by the older one"
    ]


def test_a_controller_goes_on_from_what_another_only_measured(tmp_path: Path) -> None:
    environment = Environment(tmp_path)
    environment.apply()
    controller = environment.controller()
    environment.run(controller, 2)
    changed(environment.store, message="somebody was here")
    environment.run(controller, 40)
    assert environment.row().status.stable == "4"
