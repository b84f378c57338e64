"""The tokens of writes that were done, in a store's file: one that is tried again is known by them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from extproc.adapters.sqlite.file import has_table
from extproc.store.records import REMEMBERED_TOKENS, Write

_TOKENS: Final = "CREATE TABLE IF NOT EXISTS tokens (id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL UNIQUE)"


def knows_token(connection: sqlite3.Connection, token: str) -> bool:
    """Whether it is one that is remembered."""
    if not has_table(connection, "tokens"):
        return False
    return connection.execute("SELECT 1 FROM tokens WHERE token = ?", (token,)).fetchone() is not None


def remember_tokens(connection: sqlite3.Connection, writes: Sequence[Write]) -> None:
    """Keep those of ``writes``, in their transaction; the oldest go."""
    tokens = [(write.token,) for write in writes if write.token]
    if tokens:
        connection.execute(_TOKENS)
        connection.executemany("INSERT OR IGNORE INTO tokens (token) VALUES (?)", tokens)
        connection.execute(
            "DELETE FROM tokens WHERE id <= (SELECT max(id) FROM tokens) - ?", (max(REMEMBERED_TOKENS, len(tokens)),)
        )
