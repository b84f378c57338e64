"""The embedded store: documents, status, history, tombstones, epochs and the lease in one SQLite file.

Readers hold one read-only connection; every write opens a connection of its own and closes it, see ``SqliteFile``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from extproc.adapters.sqlite_file import Identity, Kind, SqliteFile, execute_all, is_empty, kind_of
from extproc.clock import Clock, SystemClock
from extproc.errors import Fault, Refused, Unreachable
from extproc.names import ARM_CONTROL
from extproc.snapshot.epochs import epochs_begun
from extproc.snapshot.store import (
    LONGEST_LEASE_SECONDS,
    NO_STOPS,
    Changes,
    Documents,
    EpochArm,
    EpochRecord,
    HistoryEntry,
    Lease,
    Remains,
    Status,
    Stops,
    StopsAt,
    StoredRollout,
    StoredTemplate,
    TemplateWrite,
    UnreadableRollout,
    Write,
)

HISTORY_PER_ROLLOUT: Final = 1000
"""Entries of history that are kept for each rollout; the oldest go first."""

FORGET_DELETED_SECONDS: Final = 30 * 24 * 3600.0
"""A deleted rollout's row and history are dropped after this long; its tombstones stay."""

FORGET_EPOCHS_SECONDS: Final = 366 * 24 * 3600.0
"""Epochs are remembered for this long after the next one began; labels for their decisions may still come."""

WAIT_SECONDS: Final = 2.0
"""How long one operation waits for another process's lock."""

_CHUNK = 100
_KIND = Kind(0x64726F70, 2)  # "drop"
"""Later versions only add: tables, columns with a default, fields of a status. The table ``compatibility`` says which
version reads the file at least."""
_VERSION_1 = _KIND._replace(version=1)
_SCHEMA = """
CREATE TABLE meta (store_id TEXT NOT NULL, revision INTEGER NOT NULL, documents INTEGER NOT NULL,
                   forgotten INTEGER NOT NULL);
CREATE TABLE rollouts (namespace TEXT NOT NULL, name TEXT NOT NULL, document BLOB NOT NULL, status BLOB NOT NULL,
                       source TEXT, revision INTEGER NOT NULL, deleted_at REAL, UNIQUE (namespace, name));
CREATE UNIQUE INDEX rollouts_by_revision ON rollouts (revision);
CREATE TABLE aborted (namespace TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
                      PRIMARY KEY (namespace, name, version)) WITHOUT ROWID;
CREATE TABLE history (id INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL, name TEXT NOT NULL,
                      at REAL NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, message TEXT NOT NULL,
                      detail BLOB NOT NULL);
CREATE INDEX history_by_rollout ON history (namespace, name, id);
"""
_SINCE_VERSION_2 = """
CREATE TABLE templates (namespace TEXT NOT NULL, name TEXT NOT NULL, document BLOB NOT NULL, source TEXT,
                        PRIMARY KEY (namespace, name)) WITHOUT ROWID;
CREATE TABLE epochs (namespace TEXT NOT NULL, name TEXT NOT NULL, epoch INTEGER NOT NULL, number INTEGER NOT NULL,
                     began REAL NOT NULL, arms BLOB NOT NULL, PRIMARY KEY (namespace, name, epoch)) WITHOUT ROWID;
CREATE INDEX epochs_by_number ON epochs (number, began);
CREATE TABLE lease (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), holder TEXT NOT NULL, token INTEGER NOT NULL,
                    expires_at REAL NOT NULL);
INSERT INTO lease VALUES (1, '', 0, 0);
"""
_FIRST_META = """
CREATE TABLE compatibility (min_reader INTEGER NOT NULL);
INSERT INTO compatibility VALUES (2);
INSERT INTO meta VALUES (lower(hex(randomblob(16))), 1, 1, 0);
"""  # The first revision is 1, so that asking for all changes since 0 always answers.
_COLUMNS = "namespace, name, document, status, revision, source, deleted_at"


class _Meta(NamedTuple):
    store_id: str
    revision: int
    documents: int
    forgotten: int


class SqliteStore:
    """A ``RolloutStore`` in the file ``path``; use one object from one thread at a time.

    ``create`` makes the file (0600) when there is none. ``wait`` bounds, in seconds, how long an operation waits for
    another process. Raises ``Unreachable`` as the port says.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = False,
        wait: float = WAIT_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        self._file = SqliteFile(path, "store", wait)
        self._clock = clock or SystemClock()
        self._wrote = False
        if create:
            self._create()
        self._reader, self._identity, meta = self._open()
        self._store_id = meta.store_id
        self._seen: tuple[int, int] | None = None

    # Reading

    def changes(self, since: int) -> Changes | None:
        """See ``RolloutStore``. Costs two system calls and one pragma when nothing changed."""
        with self._file.mapped():
            self._check_identity()
            # The pragma comes first: what commits between the two is seen, or makes the next call look again.
            (version,) = self._reader.execute("PRAGMA data_version").fetchone()
            if self._seen == (version, since):
                return None
            meta = self._meta()
            self._seen = (version, meta.revision)
            if meta.revision == since:
                return None
            complete = since == 0 or since < meta.forgotten or since > meta.revision
            if since > meta.revision and not self._holds_rollouts(self._reader):
                raise self._recreated()
            cursor = self._reader.execute(
                f"SELECT {_COLUMNS} FROM rollouts WHERE revision > ? ORDER BY revision",  # noqa: S608 - a constant
                (0 if complete else since,),
            )
        return Changes(meta.revision, self._stream(cursor, with_deleted=not complete), complete)

    def stops(self, since: int) -> Sequence[StopsAt]:
        """See ``RolloutStore``. On a connection of its own: the one that changes are read on sees no later ones."""
        with self._file.mapped():
            self._check_identity()
            with closing(self._file.connect("ro")) as connection:
                if _read_meta(connection).store_id != self._store_id:
                    raise self._recreated()
                rows = connection.execute(
                    "SELECT namespace, name, revision, status FROM rollouts WHERE revision > ? AND deleted_at IS NULL",
                    (since,),
                ).fetchall()
        found = [StopsAt(f"{namespace}/{name}", revision, _stops(status)) for namespace, name, revision, status in rows]
        return [each for each in found if each.stops != NO_STOPS]

    def reopen(self) -> None:
        """See ``RolloutStore``."""
        reader, identity, meta = self._open()
        with self._file.mapped():
            if not self._holds_rollouts(reader):
                reader.close()
                raise self._recreated()
            self._reader.close()
        self._reader, self._identity, self._store_id, self._seen = reader, identity, meta.store_id, None

    def get(self, namespace: str, name: str) -> StoredRollout | None:
        """See ``RolloutStore``."""
        with self._file.mapped():
            self._check_identity()
            row = _found(self._reader, namespace, name)
        if row is None or row.deleted:
            return None
        if isinstance(row, UnreadableRollout):
            raise Unreachable([row.fault])
        return row

    def documents(self) -> Documents:
        """See ``RolloutStore``."""
        with self._file.mapped():
            self._check_identity()
            # The revision is read first: a document that commits between the two makes the caller's write a conflict.
            revision = self._meta().documents
            cursor = self._reader.execute(
                f"SELECT {_COLUMNS} FROM rollouts WHERE deleted_at IS NULL ORDER BY namespace, name"  # noqa: S608
            )
            templates = self._reader.execute(
                "SELECT namespace, name, document, source FROM templates ORDER BY namespace, name"
            )
            rows = [_parsed(row) for row in cursor]
            return Documents(
                revision,
                [row for row in rows if isinstance(row, StoredRollout)],
                [_parsed_template(*row) for row in templates],
                [row for row in rows if isinstance(row, UnreadableRollout)],
            )

    def template(self, namespace: str, name: str) -> StoredTemplate | None:
        """See ``RolloutStore``."""
        with self._file.mapped():
            self._check_identity()
            row = self._reader.execute(
                "SELECT namespace, name, document, source FROM templates WHERE namespace = ? AND name = ?",
                (namespace, name),
            ).fetchone()
        return None if row is None else _parsed_template(*row)

    def epochs(self, number: int) -> Sequence[EpochRecord]:
        """See ``RolloutStore``."""
        return self._epochs("number = ?", (number,))

    def epochs_of(self, namespace: str, name: str) -> Sequence[EpochRecord]:
        """See ``RolloutStore``."""
        return self._epochs("namespace = ? AND name = ?", (namespace, name))

    def _epochs(self, where: str, values: tuple[Any, ...]) -> Sequence[EpochRecord]:
        with self._file.mapped():
            self._check_identity()
            rows = self._reader.execute(
                f"SELECT number, namespace, name, epoch, began, arms FROM epochs WHERE {where}"  # noqa: S608 - ours
                # An epoch that nobody knows the time of is none that a label could be attributed to.
                " AND typeof(began) = 'real' ORDER BY began, epoch",
                values,
            ).fetchall()
        return [_parsed_epoch(*row) for row in rows]

    def remains(self, namespace: str, name: str) -> Remains:
        """See ``RolloutStore``."""
        with self._file.mapped():
            self._check_identity()
            row = _found(self._reader, namespace, name)
            versions = self._reader.execute(
                "SELECT version FROM aborted WHERE namespace = ? AND name = ? ORDER BY version", (namespace, name)
            ).fetchall()
            # Epochs are remembered for longer than the row; one number must not come to mean two of them.
            (epoch,) = self._reader.execute(
                "SELECT coalesce(max(epoch), 0) FROM epochs WHERE namespace = ? AND name = ?", (namespace, name)
            ).fetchone()
        aborted = tuple(version for (version,) in versions)
        if row is None:
            return Remains(aborted, epoch)
        if isinstance(row, UnreadableRollout):
            stable = self._last_control(namespace, name)
            return Remains(aborted, epoch, Status(stable, stable, attempt=0, killed=True, spec_stable=stable))
        return Remains(aborted, max(epoch, row.status.epoch), row.status)

    def _last_control(self, namespace: str, name: str) -> str:
        epochs = self.epochs_of(namespace, name)
        return next((arm.version for arm in epochs[-1].arms if arm.arm == ARM_CONTROL), "") if epochs else ""

    def history(self, namespace: str, name: str, limit: int = 100) -> Sequence[HistoryEntry]:
        """See ``RolloutStore``."""
        with self._file.mapped():
            self._check_identity()
            rows = self._reader.execute(
                "SELECT cast(at AS REAL), namespace, name, actor, action, message, detail FROM history"
                " WHERE namespace = ? AND name = ? ORDER BY id DESC LIMIT ?",
                (namespace, name, limit),
            ).fetchall()
            return [_parsed_entry(*row) for row in reversed(rows)]

    # Writing

    def write(
        self,
        writes: Sequence[Write],
        *,
        templates: Sequence[TemplateWrite] = (),
        documents_at: int | None = None,
        lease: Lease | None = None,
    ) -> Sequence[StoredRollout]:
        """See ``RolloutStore``."""
        with self._file.mapped(), self._writing() as (connection, meta):
            if documents_at is not None and documents_at != meta.documents:
                raise Refused.of("conflict", "another document was applied or deleted at the same time; try again")
            if lease is not None and _lease(connection)[:2] != (lease.holder, lease.token):
                raise Refused.of("lease_lost", "another controller leads by now")
            revision, rows = meta.revision, []
            for write in writes:
                revision += 1
                rows.append(self._write_row(connection, write, revision))
            if templates:
                revision += 1
                _write_templates(connection, templates)
            changed = bool(templates) or any(write.document is not None or write.delete for write in writes)
            touched = revision if changed else None
            connection.execute("UPDATE meta SET revision = ?, documents = coalesce(?, documents)", (revision, touched))
            if any(write.delete for write in writes):
                self._forget(connection)
        self._wrote = True
        return rows

    def acquire(self, holder: str, seconds: float) -> Lease | None:
        """See ``RolloutStore``. The clock is the machine's since it started, and so is the file this machine's."""
        with self._file.mapped(), self._writing() as (connection, _):
            now = self._clock.monotonic()
            before, token, expires_at = _lease(connection)
            # A lease from before the machine started anew lies further ahead than any that was taken since, sooner or
            # later: until then it is waited for.
            if before != holder and _leads(before, expires_at, now):
                return None
            lease = Lease(holder, token if before == holder else token + 1, now + seconds)
            connection.execute(
                "UPDATE lease SET holder = ?, token = ?, expires_at = ?", (holder, lease.token, lease.expires_at)
            )
        return lease

    def led(self) -> bool:
        """See ``RolloutStore``."""
        with self._file.mapped():
            self._check_identity()
            holder, _, expires_at = _lease(self._reader)
        return _leads(holder, expires_at, self._clock.monotonic())

    def release(self, lease: Lease) -> None:
        """See ``RolloutStore``."""
        with self._file.mapped(), self._writing() as (connection, _):
            connection.execute(
                "UPDATE lease SET holder = '' WHERE holder = ? AND token = ?", (lease.holder, lease.token)
            )

    @contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, _Meta]]:
        """A transaction in the store that was opened, not in one that took its place."""
        with self._transaction() as connection:
            meta = _read_meta(connection)
            if meta.store_id != self._store_id:
                raise self._recreated()
            yield connection, meta

    def close(self) -> None:
        """Let go of the file, and leave all of it in one piece if this store wrote and nobody else has it open."""
        self._reader.close()
        if self._wrote:
            with suppress(sqlite3.Error, Unreachable):
                self._check_identity()
                with closing(self._file.connect("rw")) as connection:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _write_row(self, connection: sqlite3.Connection, write: Write, revision: int) -> StoredRollout:
        before = _found(connection, write.namespace, write.name)
        at = None if before is None or before.deleted else before.resource_version
        if at != write.expect:
            raise Refused.of("conflict", f"{write.namespace}/{write.name} was changed at the same time; try again")
        if isinstance(before, UnreadableRollout):
            if write.document is None or write.status is None:
                raise Unreachable([before.fault])
            write = replace(write, source=write.source or before.source)
            before = None
        after = _after(before, write, revision)
        connection.execute(
            # Columns that a newer version added keep what is in them.
            f"INSERT INTO rollouts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - a constant
            " ON CONFLICT (namespace, name) DO UPDATE SET document = excluded.document, status = excluded.status,"
            " revision = excluded.revision, source = excluded.source, deleted_at = excluded.deleted_at",
            (
                after.namespace,
                after.name,
                orjson.dumps(after.document),
                orjson.dumps(after.status.as_dict()),
                revision,
                after.source,
                self._clock.now() if after.deleted else None,
            ),
        )
        if write.status is not None:
            _write_aborted(connection, after)
            self._write_epochs(connection, before, after)
        _write_history(connection, write)
        return after

    def _write_epochs(self, connection: sqlite3.Connection, before: StoredRollout | None, after: StoredRollout) -> None:
        now = self._clock.now()
        begun = list(epochs_begun(before.status if before is not None else None, after, now))
        connection.executemany(
            "INSERT OR REPLACE INTO epochs (namespace, name, epoch, number, began, arms) VALUES (?, ?, ?, ?, ?, ?)",
            [(one.namespace, one.name, one.epoch, one.number, one.began, _dumped(one.arms)) for one in begun],
        )
        if begun:
            key = (after.namespace, after.name)
            connection.execute(
                "DELETE FROM epochs WHERE namespace = ? AND name = ? AND epoch <"
                " (SELECT max(epoch) FROM epochs WHERE namespace = ? AND name = ? AND began < ?)",
                (*key, *key, now - FORGET_EPOCHS_SECONDS),
            )

    def _forget(self, connection: sqlite3.Connection) -> None:
        """Drop rows that were deleted long ago; a reader from before then is told to start over."""
        old = (self._clock.now() - FORGET_DELETED_SECONDS,)
        connection.execute(
            "DELETE FROM history WHERE (namespace, name) IN"
            " (SELECT namespace, name FROM rollouts WHERE deleted_at < ?)",
            old,
        )
        connection.execute(
            "UPDATE meta SET forgotten = max(forgotten,"
            " coalesce((SELECT max(revision) FROM rollouts WHERE deleted_at < ?), 0))",
            old,
        )
        connection.execute("DELETE FROM rollouts WHERE deleted_at < ?", old)

    # The file

    def _create(self) -> None:
        """Make the file, if there is none, and its tables, if it is empty; several processes may try at once."""
        with self._file.mapped():
            self._file.make()
            with closing(self._file.connect("rw")) as connection:
                if is_empty(connection):
                    self._file.make_tables(connection, _SCHEMA + _SINCE_VERSION_2 + _FIRST_META, _KIND)
                elif kind_of(connection) == _VERSION_1:
                    self._take_over_version_1(connection)

    def _take_over_version_1(self, connection: sqlite3.Connection) -> None:
        """Add what version 2 has beside; nothing of version 1 changes. Several processes may try at once.

        Epochs are remembered since version 2, so those in force count from now; decisions before had no ids to label.
        """
        connection.execute("BEGIN IMMEDIATE")
        if kind_of(connection) == _VERSION_1:
            execute_all(connection, _SINCE_VERSION_2)
            live = f"SELECT {_COLUMNS} FROM rollouts WHERE deleted_at IS NULL"  # noqa: S608 - a constant
            for row in map(_parsed, connection.execute(live).fetchall()):
                if isinstance(row, StoredRollout):
                    self._write_epochs(connection, None, row)
            connection.execute(f"PRAGMA user_version = {_KIND.version}")
        connection.execute("COMMIT")

    def _open(self) -> tuple[sqlite3.Connection, Identity, _Meta]:
        with self._file.mapped():
            identity = self._file.identity()
            connection = self._file.connect("ro")
            try:
                self._check_kind(connection)
                meta = _read_meta(connection)
                self._check_still(identity)
            except BaseException:
                connection.close()
                raise
        return connection, identity, meta

    def _check_kind(self, connection: sqlite3.Connection) -> None:
        if is_empty(connection):
            raise self._file.fault("unreachable", "there is no store in it yet")
        found = kind_of(connection)
        if found == _VERSION_1:
            why = "it is of an earlier version; `dropout apply` or `serve` takes it over"
            raise self._file.fault("incompatible", why)
        if found.application != _KIND.application or _min_reader(connection, found) > _KIND.version:
            raise self._file.fault("incompatible", "this version of dropout does not read it")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._check_identity()
        with self._file.transaction() as connection:
            yield connection

    def _check_identity(self) -> None:
        self._check_still(self._identity)

    def _check_still(self, identity: Identity) -> None:
        if self._file.identity() != identity:
            raise self._recreated()

    def _meta(self) -> _Meta:
        meta = _read_meta(self._reader)
        if meta.store_id != self._store_id:
            raise self._recreated()
        return meta

    @staticmethod
    def _holds_rollouts(connection: sqlite3.Connection) -> bool:
        found = connection.execute("SELECT 1 FROM rollouts WHERE deleted_at IS NULL LIMIT 1").fetchone()
        return found is not None

    def _stream(self, cursor: sqlite3.Cursor, *, with_deleted: bool) -> Iterator[StoredRollout | UnreadableRollout]:
        # The cursor goes with this generator and is not closed: the store may be closed already by then.
        while True:
            with self._file.mapped():
                rows = cursor.fetchmany(_CHUNK)
            if not rows:
                return
            yield from (_parsed(row) for row in rows if with_deleted or row[-1] is None)

    def _recreated(self) -> Unreachable:
        return self._file.fault("recreated", "another store took its place")


def _after(before: StoredRollout | None, write: Write, revision: int) -> StoredRollout:
    """The row once ``write`` was done to ``before``; what the write leaves out stays."""
    document, source = write.document, write.source
    status = write.at_commit(write.status) if write.status is not None else None
    if before is not None and not before.deleted:
        document = before.document if document is None else document
        source = before.source if source is None else source
        status = status or before.status
    if document is None or status is None:
        raise ValueError(f"{write.namespace}/{write.name} does not exist: it needs a document and a status")
    if write.delete:
        document = {}
    return StoredRollout(write.namespace, write.name, document, status, revision, source, write.delete)


def _min_reader(connection: sqlite3.Connection, kind: Kind) -> int:
    """Which version reads a store of ``kind``: its own, unless it says that an earlier one does."""
    says = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'compatibility'").fetchone()
    found = connection.execute("SELECT max(min_reader) FROM compatibility").fetchone() if says is not None else None
    return found[0] if found is not None and isinstance(found[0], int) else kind.version


def _leads(holder: str, expires_at: float, now: float) -> bool:
    return holder != "" and now < expires_at <= now + LONGEST_LEASE_SECONDS


def _lease(connection: sqlite3.Connection) -> tuple[str, int, float]:
    found: tuple[str, int, float] = connection.execute("SELECT holder, token, expires_at FROM lease").fetchone()
    return found


def _write_templates(connection: sqlite3.Connection, templates: Sequence[TemplateWrite]) -> None:
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


def _dumped(arms: Sequence[EpochArm]) -> bytes:
    return orjson.dumps([[*arm] for arm in arms])


def _write_aborted(connection: sqlite3.Connection, row: StoredRollout) -> None:
    connection.execute("DELETE FROM aborted WHERE namespace = ? AND name = ?", (row.namespace, row.name))
    connection.executemany(
        "INSERT INTO aborted VALUES (?, ?, ?)",
        [(row.namespace, row.name, version) for version in row.status.aborted],
    )


def _write_history(connection: sqlite3.Connection, write: Write) -> None:
    if not write.history:
        return
    connection.executemany(
        "INSERT INTO history (namespace, name, at, actor, action, message, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                entry.namespace,
                entry.name,
                entry.at,
                entry.actor,
                entry.action,
                entry.message,
                orjson.dumps(entry.detail),
            )
            for entry in write.history
        ],
    )
    key = (write.namespace, write.name)
    connection.execute(
        "DELETE FROM history WHERE namespace = ? AND name = ? AND id <= (SELECT id FROM history"
        " WHERE namespace = ? AND name = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (*key, *key, HISTORY_PER_ROLLOUT),
    )


def _found(connection: sqlite3.Connection, namespace: str, name: str) -> StoredRollout | UnreadableRollout | None:
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM rollouts WHERE namespace = ? AND name = ?",  # noqa: S608 - a constant
        (namespace, name),
    ).fetchone()
    return None if found is None else _parsed(found)


def _parsed(row: tuple[Any, ...]) -> StoredRollout | UnreadableRollout:
    namespace, name, document, status, revision, source, deleted_at = row
    deleted = deleted_at is not None
    try:
        return StoredRollout(
            namespace=namespace,
            name=name,
            document=_object(document),
            status=Status.from_dict(orjson.loads(status)),
            resource_version=revision,
            source=source,
            deleted=deleted,
        )
    except (ValueError, TypeError, KeyError) as error:
        message = f"the row of {namespace}/{name} cannot be read; `dropout apply --repair` makes it anew: {error}"
        fault = Fault("store_corrupt", message)
        return UnreadableRollout(namespace, name, fault, revision, source, deleted, _stops(status))


def _stops(status: bytes) -> Stops:
    try:
        return Stops.found_in(orjson.loads(status))
    except (ValueError, TypeError):
        return NO_STOPS


def _parsed_entry(
    at: float, namespace: str, name: str, actor: str, action: str, message: str, detail: bytes
) -> HistoryEntry:
    return HistoryEntry(at, namespace, name, actor, action, message, _object_or_empty(detail))


def _parsed_template(namespace: str, name: str, document: bytes, source: str | None) -> StoredTemplate:
    return StoredTemplate(namespace, name, _object_or_empty(document), source)


def _parsed_epoch(number: int, namespace: str, name: str, epoch: int, began: float, arms: bytes) -> EpochRecord:
    try:
        parsed = tuple(EpochArm(int(code), str(arm), str(version)) for code, arm, version in orjson.loads(arms))
    except (ValueError, TypeError):
        parsed = ()  # as if it had none: it must not keep the labels of others from being attributed
    return EpochRecord(number, namespace, name, epoch, began, parsed)


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object in ``text``. Raises ValueError."""
    found = orjson.loads(text)
    if type(found) is not dict:
        raise ValueError("it is no object")
    return found


def _object_or_empty(text: bytes) -> dict[str, Any]:
    """The JSON object in ``text``, an empty one if it is damaged."""
    try:
        return _object(text)
    except ValueError:
        return {}


def _read_meta(connection: sqlite3.Connection) -> _Meta:
    found = connection.execute("SELECT store_id, revision, documents, forgotten FROM meta").fetchone()
    if found is None or not all(isinstance(number, int) for number in found[1:]):
        raise Unreachable.of("store_corrupt", "the store's revision cannot be read")
    return _Meta(*found)
