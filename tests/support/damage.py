"""What a disk does to a store of rollouts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from extproc.testing.memory_store import MemoryPlace


def damage(store: Path | MemoryPlace, name: str, *, seen: bool = False) -> None:
    """Leave nothing that could be read of where the rollout ``name`` stands; ``seen``: as a change that readers see."""
    if isinstance(store, MemoryPlace):
        store.damage("payments", name, "status", seen=seen)
        return
    with closing(sqlite3.connect(store)) as connection:
        found = connection.execute("UPDATE rollouts SET status = 'x' WHERE name = ?", (name,))
        assert found.rowcount == 1
        if seen:
            connection.execute("UPDATE meta SET revision = revision + 1")
            connection.execute("UPDATE rollouts SET revision = (SELECT revision FROM meta) WHERE name = ?", (name,))
        connection.commit()
