"""The runs of observers, in the file of what they counted: that they are alive, for whom, and what they took away.

The tables are made where they are missing, so that a file of an earlier version is taken over as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from extproc.adapters.sqlite.file import has_table
from extproc.control.observer_reports import ObserverReport
from extproc.snapshot.trips import LocalTrip

FORGET_SECONDS: Final = 3600.0
"""A run that is over and took nothing away is forgotten after as long."""

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS runs (run TEXT PRIMARY KEY, born INTEGER NOT NULL, host TEXT NOT NULL,"
    " address TEXT NOT NULL, number INTEGER NOT NULL, reported_at REAL NOT NULL, over INTEGER NOT NULL,"
    " trips BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS watching (rollout TEXT NOT NULL, attempt INTEGER NOT NULL, run TEXT NOT NULL,"
    " PRIMARY KEY (rollout, attempt, run)) WITHOUT ROWID",
)

Watching = tuple[str, int]
"""A rollout (``namespace/name``) and its attempt."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run tells: its place, the trips in force there, and whether it ends in order.

    One that is ``deaf`` sees nothing of what is decided: what it took away is told, and it counts as not heard.
    ``begun`` and ``done`` are the attempts that it watches, and that it watches no more, since its last report.
    """

    host: str
    address: str
    trips: Sequence[LocalTrip] = ()
    begun: Collection[Watching] = field(default=())
    done: Collection[Watching] = field(default=())
    over: bool = False
    deaf: bool = False


def make_tables(connection: sqlite3.Connection) -> None:
    """Make what a file of an earlier version lacks, within a transaction."""
    for statement in _SCHEMA:
        connection.execute(statement)


def write_report(connection: sqlite3.Connection, run: str, number: int, report: RunReport, now: float) -> None:
    """Write the report ``number`` of ``run``, within a transaction. Earlier runs of its place are over."""
    values = {
        "run": run,
        "host": report.host,
        "address": report.address,
        "number": number,
        "now": now,
        "over": report.over,
        "trips": orjson.dumps([list(trip) for trip in report.trips]),
    }
    connection.execute(
        "INSERT INTO runs VALUES (:run, (SELECT coalesce(max(born), 0) + 1 FROM runs), :host, :address, :number, :now,"
        " :over, :trips) ON CONFLICT DO UPDATE SET number = excluded.number, reported_at = excluded.reported_at,"
        " over = excluded.over, trips = excluded.trips",
        values,
    )
    connection.execute(
        "UPDATE runs SET over = 1 WHERE NOT over AND host = :host AND address = :address"
        " AND born < (SELECT born FROM runs WHERE run = :run)",
        values,
    )
    connection.executemany(
        "DELETE FROM watching WHERE rollout = ? AND attempt = ? AND run = ?", [(*one, run) for one in report.done]
    )
    connection.executemany("INSERT OR IGNORE INTO watching VALUES (?, ?, ?)", [(*one, run) for one in report.begun])


def tidy_runs(connection: sqlite3.Connection, now: float, keep_seconds: float) -> None:
    """Forget runs that are over, those with trips after ``keep_seconds``."""
    connection.execute(
        "DELETE FROM runs WHERE over AND reported_at < iif(trips = ?, ?, ?)",
        (orjson.dumps([]), now - FORGET_SECONDS, now - keep_seconds),
    )
    connection.execute("DELETE FROM watching WHERE run NOT IN (SELECT run FROM runs WHERE NOT over)")


def read_reports(connection: sqlite3.Connection) -> list[ObserverReport]:
    """The last report of every run. Raises ``TypeError`` and ``ValueError`` for what cannot be read."""
    if not has_table(connection, "watching"):
        return []
    rows = connection.execute("SELECT run, host, address, number, over, trips FROM runs")
    return [
        ObserverReport(run, host, address, number, bool(over), _trips(trips))
        for run, host, address, number, over, trips in rows
    ]


def read_watching(connection: sqlite3.Connection, key: str, attempt: int) -> frozenset[str]:
    """The runs that reported for ``key`` in ``attempt``."""
    if not has_table(connection, "watching"):
        return frozenset()
    rows = connection.execute("SELECT run FROM watching WHERE rollout = ? AND attempt = ?", (key, attempt))
    return frozenset(run for (run,) in rows)


def _trips(body: bytes) -> tuple[LocalTrip, ...]:
    """The trips of a report, of one too that tells more of them than is known here."""
    return tuple(LocalTrip(*trip[: len(LocalTrip._fields)]) for trip in orjson.loads(body))
