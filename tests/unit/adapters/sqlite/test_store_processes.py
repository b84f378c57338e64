"""Several processes share one store: nothing is lost, and one that is killed leaves nothing half written."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

from extproc.adapters.sqlite.store import SqliteStore
from extproc.store.records import Write
from extproc.store.status import Status

COUNTING = """
import sys
from dataclasses import replace
from extproc.adapters.sqlite.store import SqliteStore
from extproc.errors import Refused
from extproc.store.records import HistoryEntry, Write

store = SqliteStore(sys.argv[1], wait=30)
for i in range(40):
    while True:
        row = store.get("default", "a")
        status = replace(row.status, weight=row.status.weight + 1)
        entry = HistoryEntry(0.0, "default", "a", sys.argv[2], "count", str(i))
        try:
            store.write([Write("default", "a", row.resource_version, status=status, history=[entry])])
            break
        except Refused:
            pass
"""

PAIRS = """
import sys
from extproc.adapters.sqlite.store import SqliteStore
from extproc.store.records import HistoryEntry, Write
from extproc.store.status import Status

store = SqliteStore(sys.argv[1])
at = {"a": None, "b": None}
for i in range(1, 1_000_000):
    entry = HistoryEntry(0.0, "default", "a", "writer", "count", str(i))
    rows = store.write([
        Write("default", name, at[name], document={"n": i, "pad": "x" * 5000}, status=Status("3", weight=i),
              history=[entry] if name == "a" else ())
        for name in at
    ])
    at = {row.name: row.resource_version for row in rows}
    print(i, flush=True)
"""

CREATING = """
import sys
from extproc.adapters.sqlite.store import SqliteStore
from extproc.store.records import Write
from extproc.store.status import Status

sys.stdin.readline()
store = SqliteStore(sys.argv[1], create=True, wait=30)
store.write([Write("default", sys.argv[2], None, document={}, status=Status("3"))])
"""


def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "dropout.db"
    store = SqliteStore(path, create=True)
    store.write([Write("default", "a", None, document={}, status=Status("3"))])
    writers = [start(COUNTING, path, actor) for actor in ("one", "two")]
    assert [writer.wait() for writer in writers] == [0, 0]
    row = store.get("default", "a")
    assert row is not None
    assert row.status.weight == 80
    entries = store.history("default", "a", 1000)
    for actor in ("one", "two"):
        assert [e.message for e in entries if e.actor == actor] == [str(i) for i in range(40)]


def test_processes_that_make_the_store_at_once_share_it(tmp_path: Path) -> None:
    path = tmp_path / "dropout.db"
    makers = [start(CREATING, path, f"r{i}") for i in range(4)]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.close()
    assert [maker.wait() for maker in makers] == [0] * 4
    assert [row.name for row in SqliteStore(path).documents().rollouts] == ["r0", "r1", "r2", "r3"]


def test_a_writer_killed_at_work_leaves_whole_transactions(tmp_path: Path) -> None:
    path = tmp_path / "dropout.db"
    SqliteStore(path, create=True).close()
    for _ in range(3):
        writer = start(PAIRS, path)
        assert writer.stdout is not None
        for _ in range(20):
            answered = int(writer.stdout.readline())
        writer.kill()
        writer.wait()

        store = SqliteStore(path)
        rows = store.documents().rollouts
        numbers = {row.document["n"] for row in rows} | {row.status.weight for row in rows}
        entries = [int(entry.message) for entry in store.history("default", "a", 1000)]
        assert len(rows) == 2
        assert len(numbers) == 1
        assert numbers.pop() == len(entries) >= answered
        assert entries == list(range(1, len(entries) + 1))
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        store.write([Write("default", row.name, row.resource_version, delete=True) for row in rows])
        forget_history(path)


def forget_history(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM history")
