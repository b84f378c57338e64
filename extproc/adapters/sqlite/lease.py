"""The lease in a store's file. Its instants are the machine's monotonic seconds, and so is the file this machine's."""

from __future__ import annotations

import sqlite3

from extproc.store.records import Lease


def read_lease(connection: sqlite3.Connection) -> Lease:
    """The lease that there is."""
    return Lease(*connection.execute("SELECT holder, token, expires_at FROM lease").fetchone())


def write_lease(connection: sqlite3.Connection, lease: Lease) -> None:
    """Put ``lease`` in its place."""
    connection.execute(
        "UPDATE lease SET holder = ?, token = ?, expires_at = ?", (lease.holder, lease.token, lease.expires_at)
    )
