"""Feedback in one SQLite file beside the store: exact counts, and the ids that were counted.

An id and what it adds to the counts are written in one transaction, so that whatever ends the process leaves counts
that agree with the ids. What an id added stands beside it for as long as it is remembered: should its request turn out
to have been served by a fallback, that is taken back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import orjson

from extproc.adapters.sqlite.fallbacks import Fallbacks
from extproc.adapters.sqlite.file import FileIdentity, FileKind, SqliteFile, is_empty, kind_of
from extproc.control.feedback import MAX_OUTCOME_NAMES, Code, LabelEntry, LabelTally, Recorded
from extproc.decision_id import Opened
from extproc.measure import LabelTotals

WAIT_SECONDS: Final = 2.0

FORGET_AT_ONCE: Final = 10_000
"""Old ids that go with each batch, so that none of them takes long."""

KEEP_COUNTS_SECONDS: Final = 366 * 24 * 3600.0
"""Counts stay for so long after the last of their ids was forgotten."""

_PAGE: Final = 1000
_DAY_SECONDS: Final = 24 * 3600.0
_KIND: Final = FileKind(0x64726662, 1)  # "drfb"
_SCHEMA: Final = """
CREATE TABLE meta (forgotten BLOB NOT NULL);
CREATE TABLE tallies (id INTEGER PRIMARY KEY, rollout TEXT NOT NULL, epoch INTEGER NOT NULL, arm TEXT NOT NULL,
                      unit_group INTEGER NOT NULL, true_positives INTEGER NOT NULL DEFAULT 0,
                      false_positives INTEGER NOT NULL DEFAULT 0, true_negatives INTEGER NOT NULL DEFAULT 0,
                      false_negatives INTEGER NOT NULL DEFAULT 0, last BLOB NOT NULL,
                      UNIQUE (rollout, epoch, arm, unit_group));
CREATE TABLE outcomes (tally INTEGER NOT NULL, name TEXT NOT NULL, count INTEGER NOT NULL, sum REAL NOT NULL,
                       PRIMARY KEY (tally, name)) WITHOUT ROWID;
CREATE TABLE ids (id BLOB PRIMARY KEY, tally INTEGER, counted BLOB) WITHOUT ROWID;
INSERT INTO meta VALUES (x'');
"""
_COLUMNS: Final = ("true_positives", "false_positives", "true_negatives", "false_negatives")
"""In the order of ``LabelTotals.confusion``."""


class SqliteFeedback:
    """A ``FeedbackStore`` in the file ``path``; ``create`` makes it (0600) when there is none.

    An id's ``tally`` is where it counted, NULL once that is taken back. Those that stable answered, and that had not
    counted by then, are among ``Fallbacks``. Raises ``Unreachable`` as the port says.
    """

    def __init__(self, path: str | Path, *, create: bool = False, wait: float = WAIT_SECONDS) -> None:
        self._file = SqliteFile(path, "feedback_store", wait)
        self._reader: sqlite3.Connection | None = None
        self._identity: FileIdentity | None = None
        self._tidy_from = 0.0
        with self._file.mapped():
            if create:
                self._create()
            self._read()

    def record(self, entries: Sequence[LabelEntry], keep_from: float) -> Sequence[Code]:
        """See ``FeedbackStore``."""
        with self._file.mapped(), self._writing() as connection:
            batch = _Batch(connection)
            self._forget(batch, keep_from)
            return [batch.record(entry) for entry in entries]

    def mark_fallbacks(self, decisions: Collection[Opened], keep_from: float) -> Collection[int]:
        """See ``FeedbackStore``."""
        with self._file.mapped(), self._writing() as connection:
            batch = _Batch(connection)
            self._forget(batch, keep_from)
            return batch.fallbacks.add([each for each in decisions if batch.take_back(each.key)])

    def labels(self, key: str, epoch: int) -> Mapping[str, LabelTotals]:
        """See ``FeedbackStore``."""
        totals: dict[str, LabelTotals] = {}
        with self._file.mapped():
            reader = self._read()
            reader.execute("BEGIN")  # both queries see one state
            try:
                for arm, group, *counts in reader.execute(
                    f"SELECT arm, unit_group, {', '.join(_COLUMNS)} FROM tallies"  # noqa: S608 - ours
                    " WHERE rollout = ? AND epoch = ? ORDER BY arm, unit_group",
                    (key, epoch),
                ):
                    of_arm = totals.setdefault(arm, LabelTotals())
                    if any(counts):
                        of_arm.confusion[group] = counts
                for arm, group, name, count, total in reader.execute(
                    "SELECT arm, unit_group, name, count, sum FROM tallies JOIN outcomes ON tally = tallies.id"
                    " WHERE rollout = ? AND epoch = ? AND count > 0 ORDER BY arm, unit_group, name",
                    (key, epoch),
                ):
                    totals[arm].outcomes.setdefault(name, {})[group] = [count, total]
            finally:
                reader.execute("COMMIT")
        return totals

    def recorded(self, key: str, epoch: int | None = None) -> Iterator[Recorded]:
        """See ``FeedbackStore``."""
        after = b""
        while page := self._page(key, epoch, after):
            yield from page
            after = page[-1].key

    def _page(self, key: str, epoch: int | None, after: bytes) -> list[Recorded]:
        with self._file.mapped():
            rows = self._read().execute(
                # Along the ids: a join that began with the tallies would sort all of them for each page.
                "SELECT ids.id, rollout, epoch, arm, unit_group, counted FROM ids CROSS JOIN tallies"
                " ON tallies.id = ids.tally WHERE ids.id > ? AND rollout = ? AND (? IS NULL OR epoch = ?)"
                " ORDER BY ids.id LIMIT ?",
                (after, key, epoch, epoch, _PAGE),
            )
            return [Recorded(row_id, LabelTally(*of), *orjson.loads(counted)) for row_id, *of, counted in rows]

    def outcome_names(self, key: str, epoch: int | None = None) -> Sequence[str]:
        """See ``FeedbackStore``."""
        with self._file.mapped():
            rows = self._read().execute(
                "SELECT DISTINCT name FROM tallies JOIN outcomes ON tally = tallies.id"
                " WHERE rollout = ? AND (? IS NULL OR epoch = ?) ORDER BY name",
                (key, epoch, epoch),
            )
            return [name for (name,) in rows]

    def close(self) -> None:
        """See ``FeedbackStore``."""
        if self._reader is not None:
            self._reader.close()

    def _create(self) -> None:
        self._file.make()
        with closing(self._file.connect("rw")) as connection:
            if is_empty(connection):
                self._file.make_tables(connection, _SCHEMA, _KIND)

    def _read(self) -> sqlite3.Connection:
        """The reader of the file that is there now; it may be another one than the last time."""
        identity = self._file.identity()
        if self._reader is not None and identity == self._identity:
            return self._reader
        self.close()
        self._reader = self._file.connect("ro")
        if kind_of(self._reader) != _KIND:
            self._reader.close()
            self._reader = None
            raise self._file.unreachable("incompatible", "this version of dropout does not read it")
        self._identity = identity
        return self._reader

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self._read()
        with self._file.transaction() as connection:
            yield connection

    def _forget(self, batch: _Batch, keep_from: float) -> None:
        """Drop ids from before ``keep_from``; once a day, also counts to which nothing was added for very long."""
        cut, connection = _milliseconds(keep_from), batch.connection
        gone = connection.execute(
            "DELETE FROM ids WHERE id IN (SELECT id FROM ids WHERE id < ? ORDER BY id LIMIT ?)", (cut, FORGET_AT_ONCE)
        )
        forgotten = gone.rowcount
        if keep_from >= self._tidy_from:
            self._tidy_from = keep_from + _DAY_SECONDS
            forgotten += batch.fallbacks.forget(cut)
            connection.execute("DELETE FROM tallies WHERE last < ?", (_milliseconds(keep_from - KEEP_COUNTS_SECONDS),))
            connection.execute("DELETE FROM outcomes WHERE tally NOT IN (SELECT id FROM tallies)")
        if forgotten:
            batch.forget(cut)


class _Batch:
    """What one transaction does, entry by entry."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.fallbacks = Fallbacks(connection)
        (self._forgotten,) = connection.execute("SELECT forgotten FROM meta").fetchone()
        self._names: dict[tuple[str, int], set[str]] = {}

    def forget(self, cut: bytes) -> None:
        """Some ids of before ``cut`` are not known any more, and so none of them is."""
        self._forgotten = max(self._forgotten, cut)
        self.connection.execute("UPDATE meta SET forgotten = ?", (self._forgotten,))

    def record(self, entry: LabelEntry) -> Code:
        """Count an entry, or say why not."""
        if entry.key < self._forgotten:
            return Code.EXPIRED
        known = self.connection.execute("SELECT tally FROM ids WHERE id = ?", (entry.key,)).fetchone()
        if known is not None:
            return Code.SERVED_BY_FALLBACK if known[0] is None else Code.DUPLICATE
        if (refused := self.fallbacks.code(entry.number, entry.key)) is not None:
            return refused
        if not self._has_room(entry):
            return Code.INVALID
        tally = self._tally(entry.tally, entry.key)
        counted = orjson.dumps([entry.confusion, dict(entry.outcomes)])
        self.connection.execute("INSERT INTO ids VALUES (?, ?, ?)", (entry.key, tally, counted))
        self._add(tally, entry.confusion, entry.outcomes, 1)
        return Code.RECORDED

    def take_back(self, key: bytes) -> bool:
        """This id counts for nothing. Whether a label of it may still come, and has to be refused."""
        if key < self._forgotten:
            return False
        known = self.connection.execute("SELECT tally, counted FROM ids WHERE id = ?", (key,)).fetchone()
        if known is None:
            return True
        if known[0] is not None:
            confusion, outcomes = orjson.loads(known[1])
            self._add(known[0], confusion, outcomes, -1)
            self.connection.execute("UPDATE ids SET tally = NULL, counted = NULL WHERE id = ?", (key,))
        return False

    def _tally(self, of: LabelTally, key: bytes) -> int:
        """The row where ``of`` is counted."""
        (row,) = self.connection.execute(
            "INSERT INTO tallies (rollout, epoch, arm, unit_group, last) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET last = max(last, excluded.last) RETURNING id",
            (*of, key[:6]),
        ).fetchone()
        return int(row)

    def _add(self, tally: int, confusion: int | None, outcomes: Mapping[str, float], times: int) -> None:
        if confusion is not None:
            column = _COLUMNS[confusion]
            self.connection.execute(
                f"UPDATE tallies SET {column} = {column} + ? WHERE id = ?",  # noqa: S608 - ours
                (times, tally),
            )
        self.connection.executemany(
            "INSERT INTO outcomes VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET count = count + excluded.count, sum = sum + excluded.sum",
            [(tally, name, times, times * value) for name, value in outcomes.items()],
        )

    def _has_room(self, entry: LabelEntry) -> bool:
        """Whether the epoch may have these outcomes: those that it has, and new ones up to the limit."""
        if not entry.outcomes:
            return True
        epoch = (entry.tally.rollout, entry.tally.epoch)
        if epoch not in self._names:
            rows = self.connection.execute(
                "SELECT DISTINCT name FROM tallies JOIN outcomes ON tally = tallies.id WHERE rollout = ? AND epoch = ?",
                epoch,
            )
            self._names[epoch] = {name for (name,) in rows}
        names = self._names[epoch] | entry.outcomes.keys()
        if len(names) > max(MAX_OUTCOME_NAMES, len(self._names[epoch])):
            return False
        self._names[epoch] = names
        return True


def _milliseconds(seconds: float) -> bytes:
    """How the ids of that instant begin, see ``Opened.key``."""
    return max(0, int(seconds * 1000)).to_bytes(6, "big")
