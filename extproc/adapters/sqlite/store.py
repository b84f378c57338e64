"""The embedded store: documents, status, history, tombstones, epochs and the lease in one SQLite file.

Readers hold one read-only connection; every write opens a connection of its own and closes it, see ``SqliteFile``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from extproc.adapters.sqlite.epochs import knows_number, read_epochs, write_epochs
from extproc.adapters.sqlite.file import SqliteFile
from extproc.adapters.sqlite.history import forget_history, read_history, write_history
from extproc.adapters.sqlite.lease import read_lease, write_lease
from extproc.adapters.sqlite.opened import OpenedStore, make_store
from extproc.adapters.sqlite.parts import note_analysis, note_routed, routed
from extproc.adapters.sqlite.rows import COLUMNS, find_row, size_of, write_row, write_templates, write_tombstones
from extproc.adapters.sqlite.tokens import knows_token, remember_tokens
from extproc.clock import Clock, SystemClock
from extproc.decision_id import random_number
from extproc.errors import InvalidInput
from extproc.plugins import STORE, Plugin
from extproc.store.epoch_records import EpochRecord
from extproc.store.epochs import epochs_begun
from extproc.store.ports import WAIT_SECONDS
from extproc.store.records import (
    FORGET_DELETED_SECONDS,
    Changes,
    Documents,
    HistoryEntry,
    Lease,
    StoredRollout,
    StoredTemplate,
    StoreLimits,
    TemplateWrite,
    Tombstone,
    UnreadableRollout,
    Write,
)
from extproc.store.rows import RolloutRow, parse_row, parse_template, stops_in, there, tombstone_of
from extproc.store.status import StopsFound
from extproc.store.writing import (
    change_row,
    changes_documents,
    check_held,
    check_together,
    done,
    gives_documents,
    were_done,
)
from extproc.urls import path_in

_CHUNK: Final = 100


class SqliteStore:
    """A ``RolloutStore`` in the file ``path``, and whatever store takes its place; one thread's at a time.

    ``create`` makes the file (0600) when there is none. ``wait`` bounds, in seconds, how long an operation waits for
    another process. ``new_number`` gives numbers (32 bits) for epochs that begin. Raises ``Unreachable`` as the ports
    say.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = False,
        wait: float = WAIT_SECONDS,
        clock: Clock | None = None,
        new_number: Callable[[], int] = random_number,
        limits: StoreLimits = StoreLimits(),  # noqa: B008 - frozen
    ) -> None:
        file = SqliteFile(path, "store", wait)
        self._clock = clock or SystemClock()
        self._new_number = new_number
        self._limits = limits
        self._wrote = False
        self._routed_alike = (0, 0, 0)
        if create:
            make_store(file, self._remember_epochs)
        self._opened = OpenedStore(file)
        self._turns = self._opened.turns

    # Reading

    def changes(self, since: int) -> Changes | None:
        """See ``ChangeFeed``."""
        with self._opened.reading() as reader:
            meta, base = self._opened.meta, self._turns.base
            if not self._turns.whole and (meta.revision == since or self._routed_alike == (base, since, meta.revision)):
                return None
            complete = self._turns.is_complete(since, meta.revision, meta.forgotten)
            cursor = self._changed(reader, 0 if complete else since)
            first = cursor.fetchmany(_CHUNK)
        if not first and not complete and meta.documents <= since:
            self._routed_alike = base, since, meta.revision
            return None
        return Changes(meta.revision, self._stream(cursor, first, base, with_deleted=not complete), complete)

    def _changed(self, reader: sqlite3.Connection, since: int) -> sqlite3.Cursor:
        """Rows of which what routes changed after ``since``."""
        base, before, up_to = self._routed_alike
        # Rows that route as they did, up to some revision, need not be looked at again.
        seen = up_to if (base, before) == (self._turns.base, since) else since
        return reader.execute(
            f"SELECT {COLUMNS} FROM rollouts WHERE revision > ? AND {routed(reader)} > ? ORDER BY revision",  # noqa: S608
            (seen, since),
        )

    def _stream(
        self, cursor: sqlite3.Cursor, rows: list[Any], base: int, *, with_deleted: bool
    ) -> Iterator[StoredRollout | UnreadableRollout]:
        # The cursor goes with this generator and is not closed: the store may be closed already by then.
        while rows:
            yield from (parse_row(RolloutRow(*row), base) for row in rows if with_deleted or row[-1] is None)
            if self._turns.base != base:
                raise self._opened.recreated()
            with self._opened.file.mapped():
                rows = cursor.fetchmany(_CHUNK)
        self._turns.taken(base)

    def stops(self, since: int) -> StopsFound:
        """See ``ChangeFeed``. On a connection of its own: the one that changes are read on sees no later ones."""
        with self._opened.reading_beside() as (connection, meta):
            if meta.revision == since:
                return StopsFound(since)
            changed = routed(connection)
            rows = connection.execute(
                f"SELECT namespace, name, {changed}, status FROM rollouts"  # noqa: S608 - a constant
                f" WHERE revision > ? AND {changed} > ? AND deleted_at IS NULL",
                (since, since),
            ).fetchall()
        return StopsFound(meta.revision, stops_in(rows))

    def get(self, namespace: str, name: str) -> StoredRollout | None:
        """See ``Rollouts``."""
        with self._opened.reading() as reader:
            row = find_row(reader, self._turns.base, namespace, name)
        return there(row)

    def documents(self) -> Documents:
        """See ``Rollouts``."""
        with self._opened.reading() as reader:
            # The revision is of before: a document that commits meanwhile makes the caller's write a conflict.
            base, revision = self._turns.base, self._opened.meta.documents
            cursor = reader.execute(
                f"SELECT {COLUMNS} FROM rollouts WHERE deleted_at IS NULL ORDER BY namespace, name"  # noqa: S608
            )
            templates = reader.execute(
                "SELECT namespace, name, document, source FROM templates ORDER BY namespace, name"
            )
            rows = (parse_row(RolloutRow(*row), base) for row in cursor)
            return Documents.of(base + revision, rows, (parse_template(*row) for row in templates))

    def deleted(self) -> Sequence[StoredRollout]:
        """See ``Rollouts``."""
        with self._opened.reading() as reader:
            found = reader.execute(f"SELECT {COLUMNS} FROM rollouts WHERE deleted_at IS NOT NULL")  # noqa: S608
            rows = [parse_row(RolloutRow(*row), self._turns.base) for row in found]
        return [row for row in rows if isinstance(row, StoredRollout)]

    def template(self, namespace: str, name: str) -> StoredTemplate | None:
        """See ``Rollouts``."""
        with self._opened.reading() as reader:
            row = reader.execute(
                "SELECT namespace, name, document, source FROM templates WHERE namespace = ? AND name = ?",
                (namespace, name),
            ).fetchone()
        return None if row is None else parse_template(*row)

    def epochs(self, number: int) -> Sequence[EpochRecord]:
        """See ``Epochs``."""
        return self._epochs("number = ?", (number,))

    def epochs_of(self, namespace: str, name: str) -> Sequence[EpochRecord]:
        """See ``Epochs``."""
        return self._epochs("namespace = ? AND name = ?", (namespace, name))

    def _epochs(self, where: str, values: tuple[Any, ...]) -> Sequence[EpochRecord]:
        with self._opened.reading() as reader:
            return read_epochs(reader, where, values)

    def tombstone(self, namespace: str, name: str) -> Tombstone:
        """See ``Rollouts``."""
        with self._opened.reading() as reader:
            row = find_row(reader, self._turns.base, namespace, name)
            versions = reader.execute(
                "SELECT version FROM aborted WHERE namespace = ? AND name = ? ORDER BY version", (namespace, name)
            ).fetchall()
            (epoch,) = reader.execute(
                "SELECT coalesce(max(epoch), 0) FROM epochs WHERE namespace = ? AND name = ?", (namespace, name)
            ).fetchone()
        aborted = [version for (version,) in versions]
        return tombstone_of(row, aborted, epoch, lambda: self.epochs_of(namespace, name))

    def history(self, namespace: str, name: str, limit: int = 100) -> Sequence[HistoryEntry]:
        """See ``Rollouts``."""
        with self._opened.reading() as reader:
            return read_history(reader, namespace, name, limit)

    # Writing

    def write(
        self,
        writes: Sequence[Write],
        *,
        templates: Sequence[TemplateWrite] = (),
        documents_at: int | None = None,
        lease: Lease | None = None,
    ) -> Sequence[StoredRollout]:
        """See ``RolloutWriter``."""
        with self._opened.writing() as (connection, meta):
            base = self._turns.base
            if were_done(writes, partial(knows_token, connection)):
                return [done(find_row(connection, base, write.namespace, write.name), write) for write in writes]
            check_together(documents_at, base + meta.documents)
            check_held(lease, read_lease(connection))
            revision, rows = meta.revision, []
            for write in writes:
                revision += 1
                rows.append(self._write_row(connection, write, base, revision))
            if templates:
                revision += 1
                write_templates(connection, templates)
            touched = revision if changes_documents(writes, templates) else None
            connection.execute("UPDATE meta SET revision = ?, documents = coalesce(?, documents)", (revision, touched))
            remember_tokens(connection, writes)
            if any(write.delete for write in writes):
                self._forget(connection)
            if gives_documents(writes, templates):
                self._limits.check(*size_of(connection))
        self._wrote = True
        self._opened.meta = meta._replace(revision=revision)
        return rows

    def acquire(self, holder: str, seconds: float) -> Lease | None:
        """See ``Leases``. The clock is the machine's since it started, and so is the file this machine's."""
        with self._opened.writing() as (connection, _):
            lease = read_lease(connection).taken(holder, seconds, self._clock.monotonic())
            if lease is not None:
                write_lease(connection, lease)
        return lease

    def led(self) -> bool:
        """See ``Leases``."""
        with self._opened.reading() as reader:
            return read_lease(reader).leads(self._clock.monotonic())

    def release(self, lease: Lease) -> None:
        """See ``Leases``."""
        with self._opened.writing() as (connection, _):
            there = read_lease(connection)
            if there.is_still(lease):
                write_lease(connection, there.released())

    def close(self) -> None:
        """See ``RolloutStore``. All of it is left in one piece if this store wrote and nobody else has it open."""
        self._opened.close(wrote=self._wrote)

    def _write_row(self, connection: sqlite3.Connection, write: Write, base: int, revision: int) -> StoredRollout:
        found, at = find_row(connection, base, write.namespace, write.name), self._clock.now()
        change = change_row(found, write, base + revision, at, self._new_number, partial(knows_number, connection))
        if change.analysis_only:
            note_analysis(connection, write.namespace, write.name, revision)
        else:
            note_routed(connection, write.namespace, write.name)
        write_row(connection, RolloutRow.of(change.after, base, at))
        if write.status is not None:
            write_tombstones(connection, change.after)
            write_epochs(connection, change.epochs, at)
        write_history(connection, write.history, moved=change.moved)
        return change.after

    def _forget(self, connection: sqlite3.Connection) -> None:
        """Drop rows that were deleted long ago; a reader from before then is told to start over."""
        before = self._clock.now() - FORGET_DELETED_SECONDS
        forget_history(connection, before)
        connection.execute(
            "UPDATE meta SET forgotten = max(forgotten,"
            " coalesce((SELECT max(revision) FROM rollouts WHERE deleted_at < ?), 0))",
            (before,),
        )
        connection.execute("DELETE FROM rollouts WHERE deleted_at < ?", (before,))

    def _remember_epochs(self, connection: sqlite3.Connection) -> None:
        """Let the epochs in force count from now, in a store of version 1: decisions before had no ids to label."""
        live = f"SELECT {COLUMNS} FROM rollouts WHERE deleted_at IS NULL"  # noqa: S608 - a constant
        for row in (parse_row(RolloutRow(*each), 0) for each in connection.execute(live).fetchall()):
            if isinstance(row, StoredRollout):
                now = self._clock.now()
                write_epochs(connection, tuple(epochs_begun(None, row, now)), now)


@dataclass(frozen=True, slots=True)
class SqlitePlace:
    """A ``StorePlace``: the file of a store."""

    path: Path

    def open(self, *, create: bool, wait: float) -> SqliteStore:
        """See ``StorePlace``."""
        return SqliteStore(self.path, create=create, wait=wait)


def store_file(url: str, flag: str) -> Path:
    """The file of the store at ``url``, ``sqlite:PATH``, which the operator gave as ``flag``.

    Raises:
        InvalidInput: ``store_url`` when it names none.
    """
    path = path_in(url, "sqlite")
    if path is None:
        raise InvalidInput.of("store_url", f"{url!r} is no store in a file; write sqlite:PATH", field=flag)
    return path


PLUGIN: Final = Plugin(STORE.version, lambda url, flag: SqlitePlace(store_file(url, flag)))
