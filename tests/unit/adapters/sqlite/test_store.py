"""What the embedded store does beyond the contract of stores: its file, its URL, and what it forgets."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from extproc.adapters.sqlite import store as sqlite_store
from extproc.adapters.sqlite.store import SqliteStore
from extproc.adapters.stores import open_store
from extproc.errors import InvalidInput, Unreachable
from extproc.store.records import FORGET_DELETED_SECONDS, HistoryEntry, StoredRollout, Write
from extproc.store.status import Status
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


def test_the_file_belongs_to_its_owner_alone(store: SqliteStore, path: Path) -> None:
    create(store)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_changes_are_read_while_they_are_taken(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write([Write("default", f"r{i}", None, document={}, status=STATUS) for i in range(500)])
    parsed: list[object] = []
    original = sqlite_store.parse_row
    monkeypatch.setattr(sqlite_store, "parse_row", lambda row, base: parsed.append(row) or original(row, base))
    changes = store.changes(0)
    assert changes is not None
    next(changes.rollouts)
    assert len(parsed) <= 100
    assert len(list(changes.rollouts)) == 499


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
    assert store.tombstone("default", "a").aborted == ("2",)
    assert store.tombstone("default", "b").epoch == 1


def entry(name: str, action: str = "apply") -> HistoryEntry:
    return HistoryEntry(1.5, "default", name, "alice", action, "why", {"weight": 5})


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
