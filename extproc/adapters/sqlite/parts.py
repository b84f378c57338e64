"""Which part of a row in a store's file changed last, see ``store.parts``: rows whose analysis alone did stand here.

``revision`` of a row is that of its last write, whatever part that changed, as versions of Dropout that know of no
parts read and write it. What is said here is said of the row at that revision: one of theirs makes it void, and the row
counts as changed whole.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from extproc.adapters.sqlite.file import has_table

_ANALYSED: Final = """
CREATE TABLE IF NOT EXISTS analysed (namespace TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL,
    routed INTEGER NOT NULL, PRIMARY KEY (namespace, name)) WITHOUT ROWID
"""
"""``routed`` is the revision at which what routes changed last, of a row whose last write, at ``revision``, did not."""

_ROUTED: Final = (
    "coalesce((SELECT routed FROM analysed WHERE analysed.namespace = rollouts.namespace"
    " AND analysed.name = rollouts.name AND analysed.revision = rollouts.revision), rollouts.revision)"
)


def routed(connection: sqlite3.Connection) -> str:
    """What gives, of a row in ``rollouts``, the revision at which what routes changed last; an expression of SQL."""
    return _ROUTED if has_table(connection, "analysed") else "rollouts.revision"


def note_routed(connection: sqlite3.Connection, namespace: str, name: str) -> None:
    """The row that is written next changes what routes."""
    if has_table(connection, "analysed"):
        connection.execute("DELETE FROM analysed WHERE namespace = ? AND name = ?", (namespace, name))


def note_analysis(connection: sqlite3.Connection, namespace: str, name: str, revision: int) -> None:
    """The row that is written next, at ``revision``, changes its analysis and routes as it did."""
    connection.execute(_ANALYSED)
    connection.execute(
        f"INSERT OR REPLACE INTO analysed SELECT namespace, name, ?, {_ROUTED} FROM rollouts"  # noqa: S608 - a constant
        " WHERE namespace = ? AND name = ?",
        (revision, namespace, name),
    )
