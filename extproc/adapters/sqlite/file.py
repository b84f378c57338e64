"""One SQLite file: how it is made, opened and told from another in its place, and what its errors are called.

SQLite deletes the write-ahead log *by name* when the last writing connection closes, so a writer that outlived its
file would take away the log of the file that was made in its place. A read-only connection never does: who stays hold
one, and open another for each write.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from extproc.errors import Unreachable
from extproc.files import why_not

# How a code ends that begins with what the file is: store_locked, feedback_store_locked, observations_locked ...
_PRIMARY_CODES: Final = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_PERM: "read_only",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "corrupt",
    sqlite3.SQLITE_ERROR: "corrupt",  # a table is missing
}
_EXTENDED_CODES: Final = {
    sqlite3.SQLITE_READONLY_DBMOVED: "recreated",
    sqlite3.SQLITE_IOERR_SHORT_READ: "corrupt",
    # A disk or a quota that is full while the log grows shows as a failed write.
    sqlite3.SQLITE_IOERR_WRITE: "full",
    sqlite3.SQLITE_IOERR_SHMSIZE: "full",
}
_SYSTEM_CODES: Final = {
    errno.EACCES: "read_only",
    errno.EPERM: "read_only",
    errno.EROFS: "read_only",
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
}

_MEANS: Final = {
    "locked": "another process has held it for too long",
    "read_only": "this user may not write it",
    "full": "there is no room for it",
    "corrupt": "it is damaged, or was never made by Dropout",
    "recreated": "another file took its place",
    "unreachable": "it cannot be used",
}
"""What a code says; SQLite's own words follow."""

_SHARED_FIRST: Final = 0x40000002
_SHARED_BYTES: Final = 510
"""Where a connection to a file with a write-ahead log holds a lock for as long as it lives: SQLite's file format."""


class FileIdentity(NamedTuple):
    """Which file this is: a path may name another one later."""

    device: int
    inode: int


class FileKind(NamedTuple):
    """Whose file it is, and in which version of its format."""

    application: int
    version: int


class SqliteFile:
    """The file ``path``. ``wait`` bounds, in seconds, how long an operation waits for another process.

    Within ``mapped`` everything that goes wrong is ``Unreachable``, with a code that begins with ``prefix``:
    ``..._unreachable``, ``_locked``, ``_read_only``, ``_full``, ``_corrupt``, ``_recreated``.
    """

    def __init__(self, path: str | Path, prefix: str, wait: float) -> None:
        self.path = Path(path)
        self._prefix = prefix
        self._wait = wait

    def make(self) -> None:
        """Make an empty file, for its owner alone, if there is none; several processes may try at once."""
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))

    def connect(self, mode: str) -> sqlite3.Connection:
        """A connection: ``ro`` or ``rw``. It begins no transaction by itself."""
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=self._wait,
            isolation_level=None,
            check_same_thread=False,
        )

    def _to_wal(self, connection: sqlite3.Connection) -> None:
        """Switch to a write-ahead log; SQLite does not wait here for another process that does the same."""
        deadline = time.monotonic() + self._wait
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def make_tables(self, connection: sqlite3.Connection, schema: str, kind: FileKind) -> None:
        """Make the tables of a file that has none, in one transaction; several processes may try at once."""
        self._to_wal(connection)
        connection.execute("BEGIN IMMEDIATE")
        if is_empty(connection):
            execute_all(connection, schema)
            connection.execute(f"PRAGMA application_id = {kind.application}")
            connection.execute(f"PRAGMA user_version = {kind.version}")
        connection.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes, on a connection of its own: all of it or nothing. It survives a loss of power."""
        with closing(self.connect("rw")) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def copy_to(self, path: Path) -> None:
        """Copy what is committed at one moment to the new file ``path``; whoever writes meanwhile waits for nothing.

        Raises:
            sqlite3.Error: also when what was copied is damaged.
        """
        copy = SqliteFile(path, self._prefix, self._wait)
        copy.make()
        with closing(self.connect("ro")) as source, closing(copy.connect("rw")) as target:
            source.backup(target)
            (found,) = target.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(f"the file is damaged: {found}")

    def is_in_use(self) -> bool:
        """Whether another process has the file open, if only to read. This process must not: its own locks would go."""
        with self.path.open("rb+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_BYTES, _SHARED_FIRST)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                return True
        return False

    def parts(self) -> tuple[Path, ...]:
        """The file, and what SQLite has beside it while it is in use."""
        return tuple(self.path.with_name(f"{self.path.name}{suffix}") for suffix in ("", "-wal", "-shm"))

    def identity(self) -> FileIdentity:
        """Which file is there now."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - a third of the cost, ten times a second in every worker
        except OSError as error:
            raise self._of_system("unreachable", error) from error
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for its other end
            raise self.unreachable("unreachable", "this is not a file")
        return FileIdentity(found.st_dev, found.st_ino)

    def unreachable(self, code: str, message: str) -> Unreachable:
        """What is wrong with the file."""
        return Unreachable.of(f"{self._prefix}_{code}", f"{self.path.absolute()}: {message}")

    @contextmanager
    def mapped(self) -> Iterator[None]:
        """SQLite's and the system's errors as faults with a stable code."""
        try:
            yield
        except sqlite3.Error as error:
            code = _code(error)
            raise self.unreachable(code, f"{_MEANS[code]}: {error}") from error
        except OSError as error:
            raise self._of_system(_SYSTEM_CODES.get(error.errno or 0, "unreachable"), error) from error

    def _of_system(self, code: str, error: OSError) -> Unreachable:
        return self.unreachable(code, f"{_MEANS[code]}: {why_not(error, self.path)}")


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether the file has no tables yet."""
    return connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is None


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether there is a table ``name``: those that later versions added are made when they are first needed."""
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (name,)).fetchone() is not None


def kind_of(connection: sqlite3.Connection) -> FileKind:
    """What the file says that it is."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return FileKind(application, version)


def execute_all(connection: sqlite3.Connection, statements: str) -> None:
    """Statements, each on lines of its own, within the transaction that there is."""
    for statement in statements.split(";\n"):
        connection.execute(statement)


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where Python raised without asking SQLite."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _code(error: sqlite3.Error) -> str:
    """The stable code of what SQLite says."""
    extended = getattr(error, "sqlite_errorcode", 0)
    if extended in _EXTENDED_CODES:
        return _EXTENDED_CODES[extended]
    return _PRIMARY_CODES.get(primary_code(error), "unreachable")
