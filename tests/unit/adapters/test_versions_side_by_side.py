"""Two versions of Dropout on one store: what the newer one stops, the older one stops, and what it adds is kept.

The newer one is a copy of the package with one field of a status, one of a document, one column and one table more.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from extproc.adapters.sqlite.store import SqliteStore
from extproc.control.acting import act
from extproc.control.actions import Abort, Kill, Pause, Restore, SetWeight, Trip
from extproc.errors import InvalidInput
from extproc.snapshot.holder import SnapshotHolder
from tests.support.clock import FakeClock
from tests.support.paths import ROOT

NAME = ("default", "fraud-detector")
KEY = "default/fraud-detector"
MORE = [
    (
        "extproc/store/status.py",
        '    spec_stable: str = ""\n',
        '    spec_stable: str = ""\n    novel: str = "kept"\n',
    ),
    ("extproc/resources/rollout.py", "class RolloutSpec(Part):\n", "class RolloutSpec(Part):\n    novelty: int = 0\n"),
    ("extproc/adapters/sqlite/opened.py", "Kind(0x64726F70, 2)", "Kind(0x64726F70, 3)"),
    (
        "extproc/adapters/sqlite/opened.py",
        "CREATE TABLE compatibility",
        "ALTER TABLE rollouts ADD COLUMN novel TEXT NOT NULL DEFAULT 'kept';\n"
        "CREATE TABLE novelties (a INTEGER);\nCREATE TABLE compatibility",
    ),
]
DOCUMENT = """
apiVersion: dropout.dev/v1alpha1
kind: Rollout
metadata: {name: fraud-detector}
spec:
  model: fraud-detector
  match: [{path: {value: /v1/models/fraud-detector}}]
  unit: {header: x-user-id}
  stable: {version: "3"}
  canary: {version: "4"}
"""

Newer = Callable[..., str]


@pytest.fixture(scope="module")
def newer_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("newer")
    shutil.copytree(ROOT / "extproc", root / "extproc", ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in MORE:
        text = (root / name).read_text()
        assert text.count(old) == 1
        (root / name).write_text(text.replace(old, new))
    return root


@pytest.fixture
def newer(newer_package: Path, tmp_path: Path) -> Newer:
    """Runs ``dropout`` of the newer version on the store of the test."""

    def run(*arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "extproc.cli", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(newer_package), "DROPOUT_STORE": f"sqlite:{tmp_path}/dropout.db"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def column(path: Path, what: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute(f"SELECT {what} FROM rollouts").fetchone()[0])


@pytest.mark.slow
def test_a_store_that_a_newer_version_wrote_is_obeyed_and_kept(newer: Newer, tmp_path: Path) -> None:
    file = tmp_path / "dropout.db"
    newer("apply", "-f", "-", stdin=DOCUMENT)
    newer("rollout", "set-weight", "fraud-detector", "50")
    clock = FakeClock(4_000_000_000.0)
    store = SqliteStore(file, create=True, clock=clock)
    holder = SnapshotHolder(store, clock)
    holder.load()
    assert holder.current.rollouts[KEY].weight == 5000

    newer("apply", "-f", "-", stdin=DOCUMENT + "  novelty: 3\n")
    newer("kill", "fraud-detector")
    snapshot = holder.refresh()
    assert snapshot is not None
    assert snapshot.overlay_of(KEY).killed
    assert (snapshot.rollouts[KEY].weight, "novelty" in holder.errors[KEY].message) == (5000, True)

    act(store, "alice", Restore(*NAME), clock)
    with pytest.raises(InvalidInput, match="novelty"):
        act(store, "alice", SetWeight(*NAME, 6000), clock)
    act(store, "alice", Pause(*NAME), clock)
    act(store, "alice", Kill(*NAME), clock)
    act(store, "alice", Trip(*NAME, "4", 1, "it fails"), clock)
    act(store, "alice", Abort(*NAME), clock)
    row = store.get(*NAME)
    assert row is not None
    assert (row.status.killed, row.status.tripped, row.status.aborted) == (True, ("4",), ("4",))
    assert (row.document["spec"]["novelty"], row.status.unknown) == (3, {"novel": "kept"})
    assert column(file, "novel") == "kept"
    store.close()
    assert '"aborted"' in newer("rollout", "get", "fraud-detector", "-o", "json")
