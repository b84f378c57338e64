"""Rollouts and templates as rows of a store's file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import orjson

from extproc.store.records import StoredRollout, TemplateWrite, UnreadableRollout
from extproc.store.rows import RolloutRow, parse_row

COLUMNS: Final = "namespace, name, document, status, revision, source, deleted_at"
"""A ``RolloutRow`` of the table ``rollouts``."""


def find_row(
    connection: sqlite3.Connection, base: int, namespace: str, name: str
) -> StoredRollout | UnreadableRollout | None:
    """The row of a rollout, deleted or not; see ``parse_row``."""
    found = connection.execute(
        f"SELECT {COLUMNS} FROM rollouts WHERE namespace = ? AND name = ?",  # noqa: S608 - a constant
        (namespace, name),
    ).fetchone()
    return None if found is None else parse_row(RolloutRow(*found), base)


def write_row(connection: sqlite3.Connection, row: RolloutRow) -> None:
    """Put ``row`` in the place of the one that there is, if there is one."""
    connection.execute(
        # Columns that a newer version added keep what is in them.
        f"INSERT INTO rollouts ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - a constant
        " ON CONFLICT (namespace, name) DO UPDATE SET document = excluded.document, status = excluded.status,"
        " revision = excluded.revision, source = excluded.source, deleted_at = excluded.deleted_at",
        row,
    )


def size_of(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many rollouts there are, and the bytes of their and the templates' documents."""
    rollouts, size = connection.execute(
        "SELECT count(*), coalesce(sum(length(document)), 0) FROM rollouts WHERE deleted_at IS NULL"
    ).fetchone()
    (of_templates,) = connection.execute("SELECT coalesce(sum(length(document)), 0) FROM templates").fetchone()
    return rollouts, size + of_templates


def write_tombstones(connection: sqlite3.Connection, row: StoredRollout) -> None:
    """Keep what the status of ``row`` says of them, for when the row is forgotten."""
    connection.execute("DELETE FROM aborted WHERE namespace = ? AND name = ?", (row.namespace, row.name))
    connection.executemany(
        "INSERT INTO aborted VALUES (?, ?, ?)",
        [(row.namespace, row.name, version) for version in row.status.aborted],
    )


def write_templates(connection: sqlite3.Connection, templates: Sequence[TemplateWrite]) -> None:
    """Do what ``templates`` say."""
    for write in templates:
        connection.execute(
            "DELETE FROM templates WHERE namespace = ? AND name = ?",
            (write.namespace, write.name),
        )
        if write.document is not None:
            connection.execute(
                "INSERT INTO templates (namespace, name, document, source) VALUES (?, ?, ?, ?)",
                (write.namespace, write.name, orjson.dumps(write.document), write.source),
            )
