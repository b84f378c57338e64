"""Decisions that stable answered in a version's place, beside the counts of feedback: bounded, whatever a canary does.

A canary that answers nothing makes one of them of every request. Of an epoch the newest are known one by one; what is
older is summed up as the time in which they were made, and of that time no decision takes a label any more: neither the
canary's, which may be stable's, nor the others', so that the arms are compared over the same time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Final

from extproc.adapters.sqlite.file import execute_all
from extproc.control.feedback import Code
from extproc.decision_id import Opened

MAX_FALLBACKS: Final = 50_000
"""Decisions of one epoch that are known one by one: 2 MB."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS fallbacks (number INTEGER NOT NULL, id BLOB NOT NULL,
                                      PRIMARY KEY (number, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unclear (number INTEGER PRIMARY KEY, first BLOB NOT NULL, last BLOB NOT NULL)"""


class Fallbacks:
    """What one transaction on ``connection`` does with them; epochs go by the number that is in their ids."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._unclear: dict[int, tuple[bytes, bytes] | None] = {}
        execute_all(connection, _SCHEMA)  # files of before have no such tables

    def code(self, number: int, key: bytes) -> Code | None:
        """Why the decision ``key`` takes no label; None if it does."""
        found = self._connection.execute("SELECT 1 FROM fallbacks WHERE number = ? AND id = ?", (number, key))
        if found.fetchone() is not None:
            return Code.SERVED_BY_FALLBACK
        return Code.FALLBACKS_UNCLEAR if self._is_unclear(number, key) else None

    def add(self, decisions: Collection[Opened]) -> Collection[int]:
        """Stable answered these; the epochs of which not all are known one by one from now on."""
        new = [(each.number, each.key) for each in decisions if not self._is_unclear(each.number, each.key)]
        self._connection.executemany("INSERT OR IGNORE INTO fallbacks VALUES (?, ?)", new)
        return [number for number in dict.fromkeys(number for number, _ in new) if self._sum_up(number)]

    def forget(self, cut: bytes) -> int:
        """Drop those from before ``cut``; how many there were."""
        self._connection.execute("DELETE FROM unclear WHERE last < ?", (cut,))
        return self._connection.execute("DELETE FROM fallbacks WHERE id < ?", (cut,)).rowcount

    def _is_unclear(self, number: int, key: bytes) -> bool:
        if number not in self._unclear:
            row = self._connection.execute("SELECT first, last FROM unclear WHERE number = ?", (number,))
            self._unclear[number] = row.fetchone()
        span = self._unclear[number]
        return span is not None and span[0] <= key <= span[1]

    def _sum_up(self, number: int) -> bool:
        """Make room: half of what is known of an epoch with too many becomes a time. Whether it is its first."""
        (known,) = self._connection.execute("SELECT count(*) FROM fallbacks WHERE number = ?", (number,)).fetchone()
        if known <= MAX_FALLBACKS:
            return False
        first, last = self._connection.execute(
            "SELECT min(id), max(id) FROM (SELECT id FROM fallbacks WHERE number = ? ORDER BY id LIMIT ?)",
            (number, known - MAX_FALLBACKS // 2),
        ).fetchone()
        before = self._unclear.pop(number, None)
        self._connection.execute(
            "INSERT INTO unclear VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET first = min(first, excluded.first), last = max(last, excluded.last)",
            (number, first, last),
        )
        self._connection.execute("DELETE FROM fallbacks WHERE number = ? AND id <= ?", (number, last))
        return before is None
