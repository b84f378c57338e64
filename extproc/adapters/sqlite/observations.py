"""What observers counted, in one SQLite file beside the store: written by each run every second, read by controllers.

It is not precious. A loss of power may take the last seconds; a file that is gone, corrupt or of another version is
made anew, and the run that is under way writes everything that it knows again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from extproc.adapters.sqlite.file import FileIdentity, FileKind, SqliteFile, has_table, is_empty, kind_of
from extproc.adapters.sqlite.runs import RunReport, make_tables, read_reports, read_watching, tidy_runs, write_report
from extproc.clock import Clock
from extproc.control.fleet import MAX_KNOWN, Summary
from extproc.control.observer_reports import ObserverReport
from extproc.errors import Unreachable
from extproc.measure import ArmTotals, EpochTotals, UnitSample
from extproc.measure.outcomes import Counts, Ends
from extproc.names import ARM_CANARY, ARM_CONTROL

WAIT_SECONDS: Final = 1.0

KEEP_SECONDS: Final = 30 * 24 * 3600.0
"""How long the counts of a run, and the ids that stable answered, are kept after the last news of them."""

OVER_SECONDS: Final = 10.0
"""A run that told nothing of an epoch for as long, while others did, has ended."""

MAX_COUNTS: Final = MAX_KNOWN // 2  # until they are tidied there are more
MAX_FALLBACKS: Final = 1_000_000
"""Rows that are kept at most, the newest."""

_TIDY_SECONDS: Final = 600.0
_MAX_SAMPLES: Final = 1024
_MAX_TOTALS: Final = 8
_USABLE_AGAIN: Final = frozenset(("observations_corrupt", "observations_incompatible", "observations_recreated"))
_KIND: Final = FileKind(0x64726F62, 2)  # "drob"
_SCHEMA: Final = """
CREATE TABLE counts (run TEXT NOT NULL, rollout TEXT NOT NULL, epoch INTEGER NOT NULL, updated_at REAL NOT NULL,
                     unheard_since REAL, outcomes BLOB NOT NULL, arms BLOB NOT NULL,
                     units_version INTEGER NOT NULL, units BLOB NOT NULL,
                     PRIMARY KEY (rollout, epoch, run)) WITHOUT ROWID;
CREATE INDEX counts_by_age ON counts (updated_at);
CREATE TABLE fallbacks (seq INTEGER PRIMARY KEY, id TEXT NOT NULL);
"""
_ADDED: Final = """
CREATE TABLE IF NOT EXISTS abandoned (run TEXT NOT NULL, rollout TEXT NOT NULL, epoch INTEGER NOT NULL,
                                      canary INTEGER NOT NULL, control INTEGER NOT NULL,
                                      PRIMARY KEY (rollout, epoch, run)) WITHOUT ROWID;
"""
"""Tables that came later, which an older Dropout neither makes nor misses; rows only where there was anything."""

_SUMMARIES: Final = """
SELECT run, rollout, epoch, outcomes, canary, control
FROM counts LEFT JOIN abandoned USING (rollout, epoch, run) WHERE updated_at >= ?
"""
_SUMMARIES_WITHOUT_ABANDONED: Final = "SELECT run, rollout, epoch, outcomes, 0, 0 FROM counts WHERE updated_at >= ?"


class Observed(NamedTuple):
    """The counts of one epoch as they are written: ``outcomes``, ``arms`` and ``units`` as JSON.

    ``outcomes`` are requests and failures of the canary and the control arm, and ``abandoned`` what was abandoned of
    each, for who reads them every second; ``units`` is None where none is new.

    Counts of another ``part`` of the run begin with nothing, and take no other's place.
    """

    part: int
    rollout: str
    epoch: int
    updated_at: float
    unheard_since: float | None
    outcomes: bytes
    abandoned: tuple[int, int]
    arms: bytes
    units: bytes | None


class Fallback(NamedTuple):
    """A decision whose request stable answered in the version's place; ``seq`` grows from one to the next."""

    seq: int
    decision_id: str


def observed(totals: EpochTotals, *, units: bool, part: int = 0) -> Observed:
    """``totals`` as they are written, with their units if those are new."""
    both = [totals.arms.get(arm, ArmTotals()) for arm in (ARM_CANARY, ARM_CONTROL)]
    return Observed(
        part,
        totals.rollout,
        totals.epoch,
        totals.updated_at,
        totals.unheard_since,
        orjson.dumps([n for arm in both for n in arm.outcomes]),
        (both[0].abandoned, both[1].abandoned),
        orjson.dumps({arm: counts.to_json() for arm, counts in totals.arms.items()}),
        orjson.dumps(totals.units.to_json()) if units else None,
    )


class ObservationsWriter:
    """Writes the counts of the run ``run`` into the file ``path``. Belongs to one thread at a time."""

    def __init__(self, path: Path, run: str) -> None:
        self._file = SqliteFile(path, "observations", WAIT_SECONDS)
        self._run = run
        self._connection: sqlite3.Connection | None = None
        self._identity: FileIdentity | None = None
        self._tidy_at = 0.0
        self._number = 0

    def write(
        self, rows: Sequence[Observed], fallbacks: Iterable[str], now: float, report: RunReport | None = None
    ) -> bool:
        """Write what is new in one transaction; False when the file was made anew, so that it lacks what is older.

        Raises ``Unreachable`` (``observations_locked``, ``_full``, ``_read_only``, ``_unreachable``); nothing is then
        written.
        """
        if report is None or not report.deaf:
            self._number += 1
        try:
            return self._write(rows, fallbacks, now, report)
        except Unreachable as error:
            if error.code not in _USABLE_AGAIN:
                raise
        self._throw_away()
        self._write(rows, fallbacks, now, report)
        return False

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _write(self, rows: Sequence[Observed], fallbacks: Iterable[str], now: float, report: RunReport | None) -> bool:
        with self._file.mapped():
            connection, known = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                make_tables(connection)
                connection.executemany(
                    "INSERT INTO counts VALUES (:run, :rollout, :epoch, :updated_at, :unheard_since,"
                    " :outcomes, :arms, :units IS NOT NULL, coalesce(:units, :none)) ON CONFLICT DO UPDATE SET"
                    " updated_at = excluded.updated_at, unheard_since = excluded.unheard_since,"
                    " outcomes = excluded.outcomes, arms = excluded.arms,"
                    " units_version = units_version + excluded.units_version,"
                    " units = CASE WHEN :units IS NULL THEN units ELSE excluded.units END",
                    [{"run": f"{self._run}/{row.part}", "none": _NO_UNITS, **row._asdict()} for row in rows],
                )
                connection.executemany(
                    "INSERT OR REPLACE INTO abandoned VALUES (?, ?, ?, ?, ?)",
                    [
                        (f"{self._run}/{row.part}", row.rollout, row.epoch, *row.abandoned)
                        for row in rows
                        if any(row.abandoned)
                    ],
                )
                self._write_fallbacks(connection, fallbacks, now)
                if report is not None:
                    write_report(connection, self._run, self._number, report, now)
                self._tidy(connection, now)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        return known

    def _write_fallbacks(self, connection: sqlite3.Connection, fallbacks: Iterable[str], now: float) -> None:
        """Numbered by the clock, so that they go on growing in a file that was made anew."""
        (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM fallbacks").fetchone()
        first = max(last + 1, int(now * 1e6))
        rows = [(first + number, decision_id) for number, decision_id in enumerate(fallbacks)]
        connection.executemany("INSERT INTO fallbacks VALUES (?, ?)", rows)

    def _tidy(self, connection: sqlite3.Connection, now: float) -> None:
        if self._tidy_at - _TIDY_SECONDS <= now < self._tidy_at:
            return
        self._tidy_at = now + _TIDY_SECONDS
        old = now - KEEP_SECONDS
        connection.execute(
            "DELETE FROM counts WHERE updated_at <"
            " max(?, coalesce((SELECT updated_at FROM counts ORDER BY updated_at DESC LIMIT 1 OFFSET ?), 0))",
            (old, MAX_COUNTS),
        )
        connection.execute(
            "DELETE FROM abandoned WHERE NOT EXISTS (SELECT 1 FROM counts AS kept WHERE kept.rollout ="
            " abandoned.rollout AND kept.epoch = abandoned.epoch AND kept.run = abandoned.run)"
        )
        connection.execute(
            "DELETE FROM fallbacks WHERE seq <"
            " max(?, coalesce((SELECT seq FROM fallbacks ORDER BY seq DESC LIMIT 1 OFFSET ?), 0))",
            (int(old * 1e6), MAX_FALLBACKS),
        )
        tidy_runs(connection, now, KEEP_SECONDS)

    def _open(self) -> tuple[sqlite3.Connection, bool]:
        """The connection to the file that is there now, and whether it is the one of the last time, or has its rows."""
        with suppress(Unreachable):
            if self._connection is not None and self._file.identity() == self._identity:
                return self._connection, True
        first = self._identity is None
        self.close()
        self._file.make()
        self._identity = self._file.identity()
        connection = self._connection = self._file.connect("rw")
        connection.execute("PRAGMA synchronous = OFF")
        if is_empty(connection):
            self._file.make_tables(connection, _SCHEMA, _KIND)
        elif kind_of(connection) != _KIND:
            raise self._file.unreachable("incompatible", "it is none of this version's")
        connection.execute(_ADDED)
        return connection, first

    def _throw_away(self) -> None:
        """Make room for a new file."""
        self.close()
        self._identity = None
        with self._file.mapped():
            for part in self._file.parts():
                part.unlink(missing_ok=True)


def end_runs(path: Path) -> None:
    """Have it in the file ``path`` that no run goes on: none is waited for, and what each took away stays told.

    Raises:
        Unreachable: ``observations_...``, as ``SqliteFile`` says.
    """
    file = SqliteFile(path, "observations", WAIT_SECONDS)
    with file.mapped(), file.transaction() as connection:
        make_tables(connection)
        connection.execute("UPDATE runs SET over = 1")


_NO_UNITS: Final = orjson.dumps(UnitSample().to_json())


class ObservationsReader:
    """An ``ObservationSource`` over the file ``path``, which may come and go. Belongs to one thread at a time."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._file = SqliteFile(path, "observations", WAIT_SECONDS)
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._identity: FileIdentity | None = None
        self._version = 0
        self._totals: dict[tuple[str, int], EpochTotals | None] = {}
        self._samples: dict[tuple[str, str, int], tuple[int, UnitSample]] = {}

    def totals(self, key: str, epoch: int) -> EpochTotals | None:
        """The counts of an epoch of ``namespace/name`` over all runs; None if none were reported.

        Raises:
            Unreachable: ``observations_...`` when the file cannot be read.
        """
        with self._reading() as connection:
            if connection is None:
                return None
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._version = version
                self._totals.clear()
            cached = (key, epoch)
            if cached not in self._totals:
                if len(self._totals) >= _MAX_TOTALS:  # those of one rollout are read one after another
                    self._totals.clear()
                self._totals[cached] = self._read(connection, *cached)
            return self._totals[cached]

    def summaries(self, since: float) -> Sequence[Summary]:
        """The outcomes of all epochs and runs that changed at ``since`` (Unix seconds) or later.

        Raises:
            Unreachable: as ``totals`` does.
        """
        with self._reading() as connection:
            if connection is None:
                return ()
            query = _SUMMARIES if has_table(connection, "abandoned") else _SUMMARIES_WITHOUT_ABANDONED
            rows = connection.execute(query, (since,))
            return [Summary(run, rollout, epoch, *_ends(body, *left)) for run, rollout, epoch, body, *left in rows]

    def fallbacks(self, since: int, limit: int = 10_000) -> Sequence[Fallback]:
        """The first ``limit`` decisions after ``since`` that stable answered in the version's place, in order.

        Raises:
            Unreachable: as ``totals`` does.
        """
        with self._reading() as connection:
            if connection is None:
                return ()
            rows = connection.execute(
                "SELECT seq, id FROM fallbacks WHERE seq > ? ORDER BY seq LIMIT ?", (since, limit)
            )
            return [Fallback(*row) for row in rows]

    def reports(self) -> Sequence[ObserverReport]:
        """See ``ReportSource``."""
        with self._reading() as connection:
            return read_reports(connection) if connection is not None else ()

    def watching(self, key: str, attempt: int) -> Collection[str]:
        """See ``ReportSource``."""
        with self._reading() as connection:
            return read_watching(connection, key, attempt) if connection is not None else ()

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection, None where there is nothing yet. Errors of the file, and of its rows, are faults."""
        try:
            with self._file.mapped():
                yield self._open() if self._file.path.exists() else None
        except (KeyError, TypeError, ValueError) as error:
            raise self._file.unreachable("corrupt", f"a row cannot be read: {error!r}") from error

    def _open(self) -> sqlite3.Connection | None:
        """A connection to the file that is there now; None to one that is just being made."""
        identity = self._file.identity()
        if self._connection is None or identity != self._identity:
            self.close()
            self._totals.clear()
            self._samples.clear()
            connection = self._connection = self._file.connect("ro")
            if is_empty(connection):
                self.close()
                return None
            if kind_of(connection) != _KIND:
                self.close()
                raise self._file.unreachable("incompatible", "it is none of this version's")
            self._identity = identity
        return self._connection

    def _read(self, connection: sqlite3.Connection, key: str, epoch: int) -> EpochTotals | None:
        """The sum of all runs. A run that is over waits for nothing.

        One whose last news lies ahead told it before the clock was set back: it counts as told as long ago.
        """
        found: EpochTotals | None = None
        now = self._clock.now()
        rows = connection.execute(
            "SELECT run, updated_at, unheard_since, arms, units_version FROM counts WHERE rollout = ? AND epoch = ?",
            (key, epoch),
        ).fetchall()
        rows = [(run, min(updated_at, 2 * now - updated_at), *rest) for run, updated_at, *rest in rows]
        newest = max((updated_at for _, updated_at, *_ in rows), default=0.0)
        for run, updated_at, unheard_since, arms, units_version in rows:
            units = self._units(connection, run, key, epoch, units_version)
            waits = updated_at > newest - OVER_SECONDS
            totals = EpochTotals(key, epoch, updated_at, unheard_since if waits else None, _arms(arms), units)
            if found is None and len(rows) == 1:
                return totals
            if found is None:
                found = EpochTotals(key, epoch)
            found.merge(totals)
        return found

    def _units(self, connection: sqlite3.Connection, run: str, key: str, epoch: int, version: int) -> UnitSample:
        """The units of one run, read again only when there are new ones."""
        cached = (run, key, epoch)
        known = self._samples.get(cached)
        if known is not None and known[0] == version:
            return known[1]
        row = connection.execute(
            "SELECT units_version, units FROM counts WHERE rollout = ? AND epoch = ? AND run = ?", (key, epoch, run)
        ).fetchone()
        if row is None:
            return UnitSample()
        sample = UnitSample.from_json(orjson.loads(row[1]))
        if len(self._samples) >= _MAX_SAMPLES:
            self._samples.clear()
        self._samples[cached] = (row[0], sample)
        return sample


def _ends(outcomes: bytes, canary: int | None, control: int | None) -> tuple[Ends, Ends]:
    canary_requests, canary_failures, control_requests, control_failures = orjson.loads(outcomes)
    return (
        Ends(Counts(canary_requests, canary_failures), canary or 0),
        Ends(Counts(control_requests, control_failures), control or 0),
    )


def _arms(body: bytes) -> dict[str, ArmTotals]:
    found: dict[str, Any] = orjson.loads(body)
    return {arm: ArmTotals.from_json(counts) for arm, counts in found.items()}
