"""The history of rollouts in a store's file: moves in one table, what moved nothing aside in another.

A version of Dropout that does not know the second one neither reads it nor pushes moves out by what it would hold.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import orjson

from extproc.adapters.sqlite.file import has_table
from extproc.store.history import MOST_ASIDES, MOST_MOVES
from extproc.store.records import HistoryEntry
from extproc.store.rows import object_or_empty

_ASIDES: Final = """
CREATE TABLE IF NOT EXISTS asides (id INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL, name TEXT NOT NULL,
    after INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, message TEXT NOT NULL, detail BLOB NOT NULL,
    at REAL NOT NULL, first_at REAL NOT NULL, count INTEGER NOT NULL,
    UNIQUE (namespace, name, after, actor, action, message))
"""
"""``after`` is the move that they follow: there, an entry that is repeated is one with a count."""

_KEY: Final = "namespace = ? AND name = ?"
_MOVES_READ: Final = (
    "SELECT id, 0, id, cast(at AS REAL), namespace, name, actor, action, message, detail, 1, NULL FROM history"  # noqa: S608
    f" WHERE {_KEY}"
)
_ASIDES_READ: Final = (
    "SELECT after, 1, id, cast(at AS REAL), namespace, name, actor, action, message, detail, count,"  # noqa: S608
    f" CASE WHEN count > 1 THEN cast(first_at AS REAL) END FROM asides WHERE {_KEY}"
)


def read_history(connection: sqlite3.Connection, namespace: str, name: str, limit: int) -> Sequence[HistoryEntry]:
    """The newest ``limit`` entries, the oldest first."""
    key = (namespace, name)
    parts = [_MOVES_READ] + ([_ASIDES_READ] if has_table(connection, "asides") else [])
    found = connection.execute(
        f"{' UNION ALL '.join(parts)} ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT ?", (*key * len(parts), limit)
    ).fetchall()
    return [_parsed(*row[3:]) for row in reversed(found)]


def _parsed(
    at: float,
    namespace: str,
    name: str,
    actor: str,
    action: str,
    message: str,
    detail: bytes,
    count: int,
    first_at: float | None,
) -> HistoryEntry:
    return HistoryEntry(at, namespace, name, actor, action, message, object_or_empty(detail), count, first_at)


def write_history(connection: sqlite3.Connection, entries: Sequence[HistoryEntry], *, moved: bool) -> None:
    """Keep ``entries`` of a write that ``moved`` its rollout or not; the oldest of their kind go."""
    if not moved and entries:
        connection.execute(_ASIDES)
    for entry in entries:
        (_write_move if moved else _write_aside)(connection, entry)


def _write_move(connection: sqlite3.Connection, entry: HistoryEntry) -> None:
    connection.execute(
        "INSERT INTO history (namespace, name, actor, action, message, detail, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*_values(entry), entry.at),
    )
    of_its_action = (entry.namespace, entry.name, entry.action)
    connection.execute(
        f"DELETE FROM history WHERE {_KEY} AND action = ? AND id <="  # noqa: S608 - a constant
        f" (SELECT id FROM history WHERE {_KEY} AND action = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (*of_its_action, *of_its_action, MOST_MOVES),
    )


def _write_aside(connection: sqlite3.Connection, entry: HistoryEntry) -> None:
    key = (entry.namespace, entry.name)
    connection.execute(
        "INSERT INTO asides (namespace, name, actor, action, message, detail, at, first_at, count, after)"  # noqa: S608
        f" SELECT ?, ?, ?, ?, ?, ?, ?, ?, 1, coalesce(max(id), 0) FROM history WHERE {_KEY}"
        " ON CONFLICT (namespace, name, after, actor, action, message)"
        " DO UPDATE SET count = count + 1, at = excluded.at, detail = excluded.detail",
        (*_values(entry), entry.at, entry.at, *key),
    )
    connection.execute(
        f"DELETE FROM asides WHERE {_KEY} AND id <="  # noqa: S608 - a constant
        f" (SELECT id FROM asides WHERE {_KEY} ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (*key, *key, MOST_ASIDES),
    )


def forget_history(connection: sqlite3.Connection, deleted_before: float) -> None:
    """Drop the history of rollouts that were deleted before that time (Unix seconds)."""
    for table in ("history", *(["asides"] if has_table(connection, "asides") else [])):
        connection.execute(
            f"DELETE FROM {table} WHERE (namespace, name) IN"  # noqa: S608 - a constant
            " (SELECT namespace, name FROM rollouts WHERE deleted_at < ?)",
            (deleted_before,),
        )


def _values(entry: HistoryEntry) -> tuple[str | bytes, ...]:
    return entry.namespace, entry.name, entry.actor, entry.action, entry.message, orjson.dumps(entry.detail)
