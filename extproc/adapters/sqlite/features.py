"""The embedded feature store: one SQLite file, keyed by view, entity and name.

Write-ahead logging, so that a load never makes a reader wait. A file that was replaced (another inode) is opened
again by the next read: a connection to the old one would go on answering old values for ever.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from extproc.datapath.blocking_features import ThreadedCatalogue
from extproc.datapath.ports import FeatureRow
from extproc.errors import Fault, InvalidInput, Unreachable
from extproc.files import why_not
from extproc.plugins import FEATURES, Plugin
from extproc.snapshot.model import FeatureView
from extproc.suggestions import did_you_mean
from extproc.urls import path_in

READ_WAIT_SECONDS: Final = 0.05
WRITE_WAIT_SECONDS: Final = 5.0
SEARCH_SECONDS: Final = 2.0
"""How long all values of a view are looked through for a feature that may not be there."""

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


_VIEW_AFTER: Final = "SELECT view FROM feature WHERE view > ? ORDER BY view LIMIT 1"
_ONE_OF: Final = "SELECT 1 FROM feature WHERE view = ? AND name = ? LIMIT 1"
_SOME_VALUE: Final = "SELECT value FROM feature WHERE view = ? AND name = ? LIMIT 1"
_SOME_NAMES: Final = "SELECT DISTINCT name FROM (SELECT name FROM feature WHERE view = ? LIMIT 1000)"
_MOST_VIEWS: Final = 100
_INSTRUCTIONS: Final = 100_000
"""Of SQLite's virtual machine, between two looks at the clock."""

DELETE: Final = "DELETE FROM feature WHERE view = ? AND entity = ? AND name = ? AND event_time <= ?"

ABSENT: Final = object()
"""In place of a value: there is none any more."""


class FeatureRecord(NamedTuple):
    """One value to store: any JSON value or ``ABSENT``, and its event time in Unix seconds."""

    view: str
    entity: str
    name: str
    value: Any
    event_time: float


class SqliteFeatureStore:
    """A feature store in one SQLite file; implements ``BlockingFeatures``.

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
            InvalidInput: ``feature_type`` for a value that is not JSON.
        """
        marks = ",".join("?" * len(names))
        query = f"SELECT name, value, event_time FROM feature WHERE view = ? AND entity = ? AND name IN ({marks})"  # noqa: S608 - only question marks
        return self._select(query, (view, entity, *names))

    def read_entity(self, view: str, entity: str) -> Mapping[str, FeatureRow]:
        """Every value of an entity, by name; raises like ``read``."""
        query = "SELECT name, value, event_time FROM feature WHERE view = ? AND entity = ? ORDER BY name"
        return self._select(query, (view, entity))

    def lacking(self, view: FeatureView) -> Sequence[Fault]:
        """Of what no value is stored; implements ``BlockingCatalogue``. Join keys have no names here.

        Raises:
            Unreachable: as ``read`` does, and when there are too many values to look through.
        """
        with self._faults():
            self.path.stat()
            connection = self._opened()
            try:
                end = time.monotonic() + SEARCH_SECONDS
                connection.set_progress_handler(lambda: time.monotonic() > end, _INSTRUCTIONS)
                return list(_lacking(connection, view))
            finally:
                connection.close()

    def some_value(self, view: str, name: str) -> Any:
        """A value of the feature ``name``, whosever it is; None without one, and where there is no such file yet.

        Raises:
            Unreachable: as ``read`` does, and when there are too many values to look through.
        """
        if not self.path.exists():
            return None
        with self._faults(), closing(self._opened()) as connection:
            end = time.monotonic() + SEARCH_SECONDS
            connection.set_progress_handler(lambda: time.monotonic() > end, _INSTRUCTIONS)
            row = connection.execute(_SOME_VALUE, (view, name)).fetchone()
        return orjson.loads(row[0]) if row is not None else None

    def load(self, records: Iterable[FeatureRecord]) -> int:
        """Store all records or none, making the file if need be; the number of values that were not out of date.

        A record older than what is stored changes nothing. What is ``ABSENT`` is taken away.

        Raises:
            Unreachable: the codes of ``read``, ``features_read_only`` or ``features_full``; nothing is then stored.
        """
        batches = [
            (absent, [_row(record, absent=absent) for record in batch])
            for absent, batch in groupby(records, lambda record: record.value is ABSENT)
        ]
        with self._faults():
            with suppress(OSError):  # made for its owner alone; what is wrong with the place, SQLite says
                os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK, 0o600))
            self._see_a_file()
            connection = sqlite3.connect(self.path, timeout=WRITE_WAIT_SECONDS, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(SCHEMA)
                written = 0
                for absent, rows in batches:
                    before = connection.total_changes
                    connection.executemany(DELETE if absent else UPSERT, rows)
                    written += 0 if absent else connection.total_changes - before
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
        try:
            return {name: FeatureRow(orjson.loads(value), event_time) for name, value, event_time in rows}
        except orjson.JSONDecodeError as error:
            message = f"a stored value is not JSON: {error}"
            raise InvalidInput.of("feature_type", message, file=str(self.path)) from error

    def _connected(self) -> sqlite3.Connection:
        found = os.stat(self.path)  # noqa: PTH116 - on every read, and Path.stat costs twice as much
        inode = (found.st_dev, found.st_ino)
        if self._connection is not None and inode == self._inode:
            return self._connection
        self._disconnect()
        self._connection = self._opened()
        self._inode = inode
        return self._connection

    def _opened(self) -> sqlite3.Connection:
        self._see_a_file()
        # mode=rw: reading never makes an empty file where the real one is missing.
        return sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw", uri=True, timeout=READ_WAIT_SECONDS, check_same_thread=False
        )

    def _see_a_file(self) -> None:
        """SQLite would wait for the other end of a pipe."""
        if self.path.exists() and not self.path.is_file():
            raise Unreachable.of("features_unreachable", "the feature store is not a file", file=str(self.path))

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._inode = None

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise Unreachable.of(
                "features_missing",
                "there is no such feature store; dropout features load makes one",
                file=str(self.path),
            ) from None
        except OSError as error:
            raise Unreachable.of(
                "features_unreachable",
                f"the feature store cannot be reached: {why_not(error, self.path)}",
                file=str(self.path),
            ) from error
        except sqlite3.Error as error:
            raise _unreachable(error, str(self.path)) from error


def _lacking(connection: sqlite3.Connection, view: FeatureView) -> Iterator[Fault]:
    def exists(query: str, *parameters: str) -> bool:
        return connection.execute(query, parameters).fetchone() is not None

    if not exists("SELECT 1 FROM feature WHERE view = ? LIMIT 1", view.name):
        message = f"nothing is stored of view {view.name!r}{did_you_mean(view.name, _views(connection))}"
        yield Fault("feature_view_unknown", message)
        return
    for name in view.features:
        if not exists(_ONE_OF, view.name, name):
            names = [found for (found,) in connection.execute(_SOME_NAMES, (view.name,))]
            message = f"nothing is stored of {name!r} in view {view.name!r}{did_you_mean(name, names)}"
            yield Fault("feature_unknown", message, field=name)


def _views(connection: sqlite3.Connection) -> Iterator[str]:
    """The first of them; each is found by the index, however many values lie between."""
    name = ""
    for _ in range(_MOST_VIEWS):
        found = connection.execute(_VIEW_AFTER, (name,)).fetchone()
        if found is None:
            return
        (name,) = found
        yield name


def _row(record: FeatureRecord, *, absent: bool) -> tuple[Any, ...]:
    key = (record.view, record.entity, record.name)
    return (*key, record.event_time) if absent else (*key, orjson.dumps(record.value).decode(), record.event_time)


def open_features(url: str, flag: str = "--features") -> SqliteFeatureStore:
    """The store that ``sqlite:PATH`` names, which can be written too.

    Raises:
        InvalidInput: ``features_url`` for anything else.
    """
    path = path_in(url, "sqlite")
    if path is None:
        raise InvalidInput.of("features_url", f"{url!r} names no feature store of ours; use sqlite:PATH", field=flag)
    return SqliteFeatureStore(path)


def _on_a_thread(url: str, flag: str) -> ThreadedCatalogue:
    store = open_features(url, flag)
    return ThreadedCatalogue([store], store)


PLUGIN: Final = Plugin(FEATURES.version, _on_a_thread)


def _unreachable(error: sqlite3.Error, file: str) -> Unreachable:
    """What SQLite said of ``file``; its primary result code is the low byte."""
    match (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unreachable.of("features_locked", "the feature store is locked by somebody else", file=file)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return Unreachable.of("features_read_only", "the feature store may not be written", file=file)
        case sqlite3.SQLITE_FULL:
            return Unreachable.of("features_full", "the disk of the feature store is full", file=file)
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_ERROR:
            return Unreachable.of("features_corrupt", f"this is not a sound feature store: {error}", file=file)
        case sqlite3.SQLITE_INTERRUPT:
            message = f"it has too many values to be looked through in {SEARCH_SECONDS:g} s"
            return Unreachable.of("features_unsearched", message, file=file)
        case _:
            return Unreachable.of("features_unreachable", f"the feature store cannot be reached: {error}", file=file)
