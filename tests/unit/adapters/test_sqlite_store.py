"""The embedded store does what its port promises."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from extproc.adapters import sqlite_store
from extproc.adapters.sqlite_store import FORGET_DELETED_SECONDS, SqliteStore
from extproc.adapters.stores import open_store
from extproc.errors import InvalidInput, Refused, Unreachable
from extproc.snapshot.store import Changes, HistoryEntry, Status, StoredRollout, Write
from tests.support.clock import FakeClock

STATUS = Status(stable="3", canary="4", aborted=("2",), conditions=({"type": "StableDrift", "status": "True"},))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dropout.db"


@pytest.fixture
def store(path: Path) -> SqliteStore:
    return SqliteStore(path, create=True, clock=FakeClock())


def create(store: SqliteStore, name: str = "fraud", namespace: str = "default") -> StoredRollout:
    (row,) = store.write([Write(namespace, name, None, document={"name": name}, status=STATUS)])
    return row


def taken(changes: Changes | None) -> list[StoredRollout]:
    assert changes is not None
    return list(changes.rollouts)


def test_what_was_written_is_read_back(store: SqliteStore) -> None:
    row = create(store)
    assert store.get("default", "fraud") == row
    assert row.status == STATUS
    assert row.document == {"name": "fraud"}
    assert store.get("default", "other") is None


def test_the_file_belongs_to_its_owner_alone(store: SqliteStore, path: Path) -> None:
    create(store)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_write_leaves_what_it_does_not_name(store: SqliteStore) -> None:
    (row,) = store.write([Write("default", "a", None, document={"a": 1}, status=STATUS, source="/folder/a.yaml")])
    (after,) = store.write([Write("default", "a", row.resource_version, status=replace(STATUS, weight=100))])
    assert (after.document, after.source, after.status.weight) == ({"a": 1}, "/folder/a.yaml", 100)
    assert after.resource_version > row.resource_version


def test_a_write_at_an_old_version_is_a_conflict_and_changes_nothing(store: SqliteStore) -> None:
    row = create(store)
    current = store.write([Write("default", "fraud", row.resource_version, status=replace(STATUS, weight=1))])[0]
    with pytest.raises(Refused) as refused:
        store.write([Write("default", "fraud", row.resource_version, status=replace(STATUS, weight=2))])
    assert refused.value.code == "conflict"
    assert store.get("default", "fraud") == current


def test_creating_what_exists_is_a_conflict(store: SqliteStore) -> None:
    create(store)
    with pytest.raises(Refused):
        create(store)


def test_writing_what_was_deleted_is_a_conflict(store: SqliteStore) -> None:
    row = create(store)
    store.write([Write("default", "fraud", row.resource_version, delete=True)])
    with pytest.raises(Refused):
        store.write([Write("default", "fraud", row.resource_version, status=STATUS)])
    assert store.get("default", "fraud") is None


def test_of_several_writes_all_are_done_or_none(store: SqliteStore) -> None:
    create(store, "b")
    with pytest.raises(Refused):
        store.write([Write("default", name, None, document={}, status=STATUS) for name in "ab"])
    assert store.get("default", "a") is None


def test_documents_checked_together_are_refused_once_another_was_applied(store: SqliteStore) -> None:
    before = store.documents()
    row = create(store, "a")
    with pytest.raises(Refused) as refused:
        store.write([Write("default", "b", None, document={}, status=STATUS)], documents_at=before.revision)
    assert refused.value.code == "conflict"
    read = store.documents()
    store.write([Write("default", "a", row.resource_version, status=replace(STATUS, weight=1))])
    store.write([Write("default", "b", None, document={}, status=STATUS)], documents_at=read.revision)
    assert [row.name for row in store.documents().rollouts] == ["a", "b"]


def test_all_changes_since_nothing_is_everything(store: SqliteStore) -> None:
    first = store.changes(0)
    assert first is not None
    assert (first.complete, list(first.rollouts)) == (True, [])
    create(store)
    changes = store.changes(0)
    assert changes is not None
    assert changes.complete
    assert [row.name for row in changes.rollouts] == ["fraud"]


def test_only_what_changed_is_reported_and_only_once(store: SqliteStore, path: Path) -> None:
    reader = SqliteStore(path)
    create(store, "a")
    b = create(store, "b")
    changes = reader.changes(0)
    taken(changes)
    assert changes is not None
    assert reader.changes(changes.revision) is None
    store.write([Write("default", "b", b.resource_version, status=replace(STATUS, weight=5))])
    later = reader.changes(changes.revision)
    assert later is not None
    assert not later.complete
    assert [(row.name, row.status.weight) for row in later.rollouts] == [("b", 5)]
    assert reader.changes(later.revision) is None
    assert reader.changes(later.revision) is None


def test_changes_that_were_not_taken_are_reported_again(store: SqliteStore) -> None:
    first = store.changes(0)
    taken(first)
    assert first is not None
    create(store)
    assert store.changes(first.revision) is not None
    assert [row.name for row in taken(store.changes(first.revision))] == ["fraud"]


def test_changes_are_read_while_they_are_taken(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write([Write("default", f"r{i}", None, document={}, status=STATUS) for i in range(500)])
    parsed: list[object] = []
    original = sqlite_store._parsed
    monkeypatch.setattr(sqlite_store, "_parsed", lambda row: parsed.append(row) or original(row))
    changes = store.changes(0)
    assert changes is not None
    next(changes.rollouts)
    assert len(parsed) <= 100
    assert len(list(changes.rollouts)) == 499


def test_a_delete_is_reported_once_with_the_last_status(store: SqliteStore) -> None:
    row = create(store)
    since = store.changes(0)
    taken(since)
    assert since is not None
    store.write([Write("default", "fraud", row.resource_version, delete=True)])
    (gone,) = taken(store.changes(since.revision))
    assert (gone.deleted, gone.document, gone.status) == (True, {}, STATUS)
    assert taken(store.changes(0)) == []


def test_tombstones_and_the_epoch_outlive_a_delete(store: SqliteStore) -> None:
    (row,) = store.write([Write("default", "a", None, document={}, status=replace(STATUS, epoch=7))])
    store.write([Write("default", "a", row.resource_version, delete=True)])
    remains = store.remains("default", "a")
    assert (remains.aborted, remains.epoch) == (("2",), 7)
    assert store.remains("default", "never").aborted == ()


def test_a_lifted_tombstone_is_gone(store: SqliteStore) -> None:
    row = create(store)
    store.write([Write("default", "fraud", row.resource_version, status=replace(STATUS, aborted=()))])
    assert store.remains("default", "fraud").aborted == ()


def test_a_reader_from_before_a_forgotten_delete_starts_over(path: Path) -> None:
    clock = FakeClock()
    store = SqliteStore(path, create=True, clock=clock)
    a, b = create(store, "a"), create(store, "b")
    store.write([Write("default", "a", a.resource_version, delete=True, history=[entry("a")])])
    clock.advance(FORGET_DELETED_SECONDS + 1)
    store.write([Write("default", "b", b.resource_version, delete=True)])
    changes = store.changes(b.resource_version)
    assert changes is not None
    assert changes.complete
    assert store.history("default", "a") == []
    assert store.remains("default", "a").aborted == ("2",)
    assert store.remains("default", "b").epoch == 1


def entry(name: str, action: str = "apply") -> HistoryEntry:
    return HistoryEntry(1.5, "default", name, "alice", action, "why", {"weight": 5})


def test_history_is_kept_in_order_and_bounded(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "HISTORY_PER_ROLLOUT", 10)
    version = None
    for i in range(25):
        (row,) = store.write(
            [Write("default", "a", version, document={}, status=STATUS, history=[entry("a", f"act{i}")])]
        )
        version = row.resource_version
    store.write([Write("default", "b", None, document={}, status=STATUS, history=[entry("b")])])
    assert [e.action for e in store.history("default", "a", 1000)] == [f"act{i}" for i in range(15, 25)]
    assert [e.action for e in store.history("default", "a", 2)] == ["act23", "act24"]
    assert store.history("default", "b") == [entry("b")]


def test_a_store_that_wrote_leaves_one_whole_file(store: SqliteStore, path: Path) -> None:
    create(store)
    store.close()
    assert [file.name for file in path.parent.iterdir()] == ["dropout.db"]
    assert SqliteStore(path).get("default", "fraud") is not None


def test_an_existing_store_is_opened_not_emptied(store: SqliteStore, path: Path) -> None:
    row = create(store)
    assert SqliteStore(path, create=True).get("default", "fraud") == row


def test_a_url_names_the_store(path: Path) -> None:
    open_store(f"sqlite:{path}", create=True).close()
    open_store(f"sqlite:{path}").close()


@pytest.mark.parametrize("url", ["etcd://localhost", "dropout.db", "sqlite:", ""])
def test_a_url_of_no_known_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as invalid:
        open_store(url)
    assert invalid.value.code == "store_url"


def test_a_path_with_odd_characters_is_only_a_path(tmp_path: Path) -> None:
    odd = tmp_path / "a b?mode=memory#%41.db"
    open_store(f"sqlite:{odd}", create=True).close()
    assert odd.exists()


def test_reading_does_not_make_a_store(path: Path) -> None:
    with pytest.raises(Unreachable) as unreachable:
        open_store(f"sqlite:{path}")
    assert unreachable.value.code == "store_unreachable"
    assert not path.exists()
