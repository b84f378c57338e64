"""The store that is in a file, and whichever takes its place: how it is made, opened, told from another and turned to.

A path names another file once the one that was opened was removed and made again, and a file holds another store once
a backup was copied into it. Either is found at the next look, before anything is read or written: what was read of one
store must not decide what is written to another.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Final, NamedTuple

from extproc.adapters.sqlite.file import FileIdentity, FileKind, SqliteFile, execute_all, has_table, is_empty, kind_of
from extproc.errors import Unreachable
from extproc.store.turns import Turns

KIND: Final = FileKind(0x64726F70, 2)  # "drop"
"""Later versions only add: tables, columns with a default, fields of a status. The table ``compatibility`` says which
version reads the file at least."""

_VERSION_1: Final = KIND._replace(version=1)
_SCHEMA: Final = """
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
_SINCE_VERSION_2: Final = """
CREATE TABLE templates (namespace TEXT NOT NULL, name TEXT NOT NULL, document BLOB NOT NULL, source TEXT,
                        PRIMARY KEY (namespace, name)) WITHOUT ROWID;
CREATE TABLE epochs (namespace TEXT NOT NULL, name TEXT NOT NULL, epoch INTEGER NOT NULL, number INTEGER NOT NULL,
                     began REAL NOT NULL, arms BLOB NOT NULL, PRIMARY KEY (namespace, name, epoch)) WITHOUT ROWID;
CREATE INDEX epochs_by_number ON epochs (number, began);
CREATE TABLE lease (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), holder TEXT NOT NULL, token INTEGER NOT NULL,
                    expires_at REAL NOT NULL);
INSERT INTO lease VALUES (1, '', 0, 0);
"""
_FIRST_META: Final = """
CREATE TABLE compatibility (min_reader INTEGER NOT NULL);
INSERT INTO compatibility VALUES (2);
INSERT INTO meta VALUES (lower(hex(randomblob(16))), 1, 1, 0);
"""  # The first revision is 1, so that asking for all changes since 0 always answers.


class Meta(NamedTuple):
    """Which store it is, its revision, that of the last change of a document, and the last that was forgotten."""

    store_id: str
    revision: int
    documents: int
    forgotten: int


def make_store(file: SqliteFile, take_over: Callable[[sqlite3.Connection], None]) -> None:
    """Make the file, if there is none, and its tables, if it is empty; several processes may try at once.

    ``take_over`` is given a store of version 1 that has just got what version 2 has beside.
    """
    with file.mapped():
        file.make()
        with closing(file.connect("rw")) as connection:
            if is_empty(connection):
                file.make_tables(connection, _SCHEMA + _SINCE_VERSION_2 + _FIRST_META, KIND)
            elif kind_of(connection) == _VERSION_1:
                connection.execute("BEGIN IMMEDIATE")
                if kind_of(connection) == _VERSION_1:
                    execute_all(connection, _SINCE_VERSION_2)
                    take_over(connection)
                    connection.execute(f"PRAGMA user_version = {KIND.version}")
                connection.execute("COMMIT")


class _There(NamedTuple):
    """What was there when it was opened; ``version`` is another one when somebody else wrote."""

    reader: sqlite3.Connection
    identity: FileIdentity
    version: int
    meta: Meta


class OpenedStore:
    """The store in ``file``, which is there; see ``store.ports`` for what becomes of one whose place another takes.

    ``meta`` is what it said of itself at the last refresh, ``turns`` says how often another one took its place.
    """

    def __init__(self, file: SqliteFile) -> None:
        self.file = file
        self.turns = Turns()
        self._reader, self._identity, self._version, self.meta = _open(file)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection that reads. Two system calls and a pragma, where nothing changed."""
        with self.file.mapped():
            self._refresh()
            yield self._reader

    @contextmanager
    def reading_beside(self) -> Iterator[tuple[sqlite3.Connection, Meta]]:
        """Another connection on the same store: it sees what was written since that other one began to read."""
        with self.file.mapped(), closing(self.file.connect("ro")) as connection:
            meta = read_meta(connection)
            self._check_same(meta)
            yield connection, meta

    @contextmanager
    def writing(self) -> Iterator[tuple[sqlite3.Connection, Meta]]:
        """A transaction in the store that is there."""
        with self.file.mapped():
            self._refresh()
            with self.file.transaction() as connection:
                meta = read_meta(connection)
                self._check_same(meta)
                yield connection, meta

    def close(self, *, wrote: bool) -> None:
        """Let go of the file, and leave all of it in one piece if this store wrote and nobody else has it open."""
        self._reader.close()
        if wrote:
            with suppress(sqlite3.Error, Unreachable):
                if self.file.identity() == self._identity:
                    with closing(self.file.connect("rw")) as connection:
                        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def recreated(self) -> Unreachable:
        """Another store is in its place."""
        return _recreated(self.file)

    def _refresh(self) -> None:
        """See that this is still the store, and turn to the one that is there if it is not."""
        if self.file.identity() == self._identity:
            # The pragma comes first: what commits between the two is seen, or makes the next call look again.
            version = _data_version(self._reader)
            if version == self._version:
                return
            meta = read_meta(self._reader)
            if self._is_same(meta):
                self._version, self.meta = version, meta
                return
        self._turn()

    def _turn(self) -> None:
        there = _open(self.file)
        if not _holds_rollouts(self.file, there.reader):
            there.reader.close()
            raise self.recreated()
        self._reader.close()
        self._reader, self._identity, self._version, self.meta = there
        self.turns.turn()

    def _check_same(self, meta: Meta) -> None:
        _check_still(self.file, self._identity)
        if not self._is_same(meta):
            raise self.recreated()

    def _is_same(self, meta: Meta) -> bool:
        """Whether ``meta`` is this store's, and no older copy's."""
        return meta.store_id == self.meta.store_id and meta.revision >= self.meta.revision


def _open(file: SqliteFile) -> _There:
    """Open what is there."""
    with file.mapped():
        identity = file.identity()
        reader = file.connect("ro")
        try:
            _check_kind(file, reader)
            there = _There(reader, identity, _data_version(reader), read_meta(reader))
            _check_still(file, identity)
        except BaseException:
            reader.close()
            raise
    return there


def _check_still(file: SqliteFile, identity: FileIdentity) -> None:
    if file.identity() != identity:
        raise _recreated(file)


def _recreated(file: SqliteFile) -> Unreachable:
    return file.unreachable("recreated", "another store took its place")


def read_meta(connection: sqlite3.Connection) -> Meta:
    """What a store says of itself. Raises ``Unreachable`` with ``store_corrupt``."""
    found = connection.execute("SELECT store_id, revision, documents, forgotten FROM meta").fetchone()
    if found is None or not all(isinstance(number, int) for number in found[1:]):
        raise Unreachable.of("store_corrupt", "the store's revision cannot be read")
    return Meta(*found)


def _check_kind(file: SqliteFile, connection: sqlite3.Connection) -> None:
    if is_empty(connection):
        raise file.unreachable("unreachable", "there is no store in it yet")
    found = kind_of(connection)
    if found == _VERSION_1:
        why = "it is of an earlier version; `dropout apply` or `serve` takes it over"
        raise file.unreachable("incompatible", why)
    if found.application != KIND.application or _min_reader(connection, found) > KIND.version:
        raise file.unreachable("incompatible", "this version of dropout does not read it")


def _min_reader(connection: sqlite3.Connection, kind: FileKind) -> int:
    """Which version reads a store of ``kind``: its own, unless it says that an earlier one does."""
    says = has_table(connection, "compatibility")
    found = connection.execute("SELECT max(min_reader) FROM compatibility").fetchone() if says else None
    return found[0] if found is not None and isinstance(found[0], int) else kind.version


def _data_version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


def _holds_rollouts(file: SqliteFile, connection: sqlite3.Connection) -> bool:
    with file.mapped():
        return connection.execute("SELECT 1 FROM rollouts WHERE deleted_at IS NULL LIMIT 1").fetchone() is not None
