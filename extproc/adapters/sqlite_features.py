"""The embedded feature store: one SQLite file, keyed by view, entity and name.

Write-ahead logging, so that a load never makes a reader wait. A file that was replaced (another inode) is opened
again by the next read: a connection to the old one would go on answering old values for ever.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from extproc.datapath.ports import FeatureRow
from extproc.errors import InvalidInput, Unreachable

READ_WAIT_SECONDS: Final = 0.05
WRITE_WAIT_SECONDS: Final = 5.0

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS feature (
    view TEXT NOT NULL,
    entity TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    event_time REAL NOT NULL,
    PRIMARY KEY (view, entity, name)
) WITHOUT ROWID
"""

UPSERT: Final = """
INSERT INTO feature (view, entity, name, value, event_time) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (view, entity, name) DO UPDATE SET value = excluded.value, event_time = excluded.event_time
WHERE excluded.event_time >= feature.event_time
"""


class FeatureRecord(NamedTuple):
    """One value to store: any JSON value, and its event time in Unix seconds."""

    view: str
    entity: str
    name: str
    value: Any
    event_time: float


class SqliteFeatureStore:
    """A feature store in one SQLite file; implements ``extproc.datapath.ports.FeatureStore``.

    Opens on first use, so a worker may start before the file exists. Calls may come from any thread, one at a time.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    def read(self, view: str, entity: str, names: Sequence[str]) -> Mapping[str, FeatureRow]:
        """The values of ``names`` that exist.

        Raises:
            Unreachable: ``features_missing``, ``features_locked``, ``features_corrupt`` or ``features_unreachable``.
        """
        marks = ",".join("?" * len(names))
        query = f"SELECT name, value, event_time FROM feature WHERE view = ? AND entity = ? AND name IN ({marks})"  # noqa: S608 - only question marks
        return self._select(query, (view, entity, *names))

    def read_entity(self, view: str, entity: str) -> Mapping[str, FeatureRow]:
        """Every value of an entity, by name; raises like ``read``."""
        query = "SELECT name, value, event_time FROM feature WHERE view = ? AND entity = ? ORDER BY name"
        return self._select(query, (view, entity))

    def load(self, records: Iterable[FeatureRecord]) -> int:
        """Store all records or none, making the file if need be; the number of those that were not out of date.

        A record older than what is stored changes nothing.

        Raises:
            Unreachable: the codes of ``read``, ``features_read_only`` or ``features_full``; nothing is then stored.
        """
        rows = [(r.view, r.entity, r.name, orjson.dumps(r.value).decode(), r.event_time) for r in records]
        with self._faults():
            with suppress(OSError):  # made for its owner alone; what is wrong with the place, SQLite says
                os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK, 0o600))
            self._see_a_file()
            connection = sqlite3.connect(self.path, timeout=WRITE_WAIT_SECONDS, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(SCHEMA)
                before = connection.total_changes
                connection.executemany(UPSERT, rows)
                written = connection.total_changes - before
                connection.execute("COMMIT")
                return written
            finally:
                connection.close()

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            self._disconnect()

    def _select(self, query: str, parameters: Sequence[str]) -> dict[str, FeatureRow]:
        with self._lock, self._faults():
            rows = self._connected().execute(query, parameters).fetchall()
            return {name: FeatureRow(orjson.loads(value), event_time) for name, value, event_time in rows}

    def _connected(self) -> sqlite3.Connection:
        found = os.stat(self.path)  # noqa: PTH116 - on every read, and Path.stat costs twice as much
        inode = (found.st_dev, found.st_ino)
        if self._connection is not None and inode == self._inode:
            return self._connection
        self._disconnect()
        self._see_a_file()
        # mode=rw: reading never makes an empty file where the real one is missing.
        self._connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw", uri=True, timeout=READ_WAIT_SECONDS, check_same_thread=False
        )
        self._inode = inode
        return self._connection

    def _see_a_file(self) -> None:
        """SQLite would wait for the other end of a pipe."""
        if self.path.exists() and not self.path.is_file():
            raise Unreachable.of("features_unreachable", "This is not a file.", file=str(self.path))

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._inode = None

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise Unreachable.of("features_missing", "There is no such feature store.", file=str(self.path)) from None
        except OSError as error:
            raise Unreachable.of("features_unreachable", f"{error.strerror}.", file=str(self.path)) from error
        except (sqlite3.Error, orjson.JSONDecodeError) as error:
            raise Unreachable.of(*_explain(error), file=str(self.path)) from error


def open_features(url: str) -> SqliteFeatureStore:
    """The store that ``--features`` names: ``sqlite:PATH``.

    Raises:
        InvalidInput: ``features_url`` for anything else.
    """
    scheme, _, path = url.partition(":")
    if scheme != "sqlite" or not path:
        raise InvalidInput.of("features_url", f"{url!r} names no feature store; use sqlite:PATH.", field="--features")
    return SqliteFeatureStore(path)


def _explain(error: Exception) -> tuple[str, str]:
    """The code and the sentence for what SQLite said; its primary result code is the low byte."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    match code:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "features_locked", "The feature store is locked by somebody else."
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return "features_read_only", "The feature store may not be written."
        case sqlite3.SQLITE_FULL:
            return "features_full", "The disk of the feature store is full."
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_ERROR:
            return "features_corrupt", f"This is not a sound feature store: {error}."
        case 0 if isinstance(error, orjson.JSONDecodeError):
            return "features_corrupt", f"A stored value is not JSON: {error}."
        case _:
            return "features_unreachable", f"The feature store cannot be reached: {error}."
