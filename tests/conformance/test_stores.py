"""Every store keeps the contract of stores."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from extproc.adapters.sqlite.store import SqliteStore
from extproc.store.ports import RolloutStore
from extproc.store.records import StoreLimits
from extproc.testing.clock import FakeClock
from extproc.testing.memory_store import MemoryPlace, MemoryStore
from extproc.testing.store import RolloutStoreContract


class TestSqlite(RolloutStoreContract):
    """A file."""

    @pytest.fixture(autouse=True)
    def _with(self, tmp_path: Path) -> None:
        self.folder, self.made = tmp_path, 0

    def make(self, clock: FakeClock, limits: StoreLimits) -> RolloutStore:
        self.made += 1
        return SqliteStore(self.path, create=True, clock=clock, limits=limits)

    def another(self) -> RolloutStore:
        return SqliteStore(self.path, clock=self.clock)

    def damage(self, namespace: str, name: str) -> bool:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("UPDATE meta SET revision = revision + 1")
            connection.execute(
                "UPDATE rollouts SET document = '{', revision = (SELECT revision FROM meta)"
                " WHERE namespace = ? AND name = ?",
                (namespace, name),
            )
            connection.commit()
        return True

    def replace(self) -> bool:
        self.remove()
        SqliteStore(self.path, create=True).close()
        return True

    def remove(self) -> bool:
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        return True

    @property
    def path(self) -> Path:
        return self.folder / f"{self.made}.db"


class TestMemory(RolloutStoreContract):
    """The one that unit tests use."""

    def make(self, clock: FakeClock, limits: StoreLimits) -> RolloutStore:
        self.place = MemoryPlace()
        return MemoryStore(self.place, clock=clock, limits=limits)

    def another(self) -> RolloutStore:
        return MemoryStore(self.place, clock=self.clock)

    def damage(self, namespace: str, name: str) -> bool:
        self.place.damage(namespace, name)
        return True

    def replace(self) -> bool:
        self.place.replace()
        return True

    def remove(self) -> bool:
        self.place.remove()
        return True
