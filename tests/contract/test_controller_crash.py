"""A controller that is killed with -9 between any two of its writes is succeeded by one that comes to the same end."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.adapters.sqlite_store import SqliteStore
from extproc.control.actions import Apply, act
from extproc.resources.loading import load_paths
from extproc.snapshot.store import Status
from tests.support.clock import FakeClock
from tests.support.dying_controller import MOST_TICKS
from tests.support.paths import ROOT
from tests.support.rollouts import CANARY, document
from tests.support.templates import metric, template

STEPS: list[dict[str, Any]] = [
    {"shadow": {"percent": 50}},
    {"setWeight": 5},
    {"pause": {"duration": "2s"}},
    {"analysis": {"templates": [{"templateName": "health"}]}},
    {"setWeight": 50},
]
HEALTH = template(metric(interval="1s", count=3, failureLimit=1))
NEVER = 10**6

in_each_way = pytest.mark.parametrize(
    ("measured", "phase", "stable"), [("Successful", "Healthy", "4"), ("Failed", "Degraded", "3")]
)


def run(folder: Path, at: int, when: str, measured: str) -> int:
    """A controller that dies at its write ``at``: its exit status."""
    command = [sys.executable, "-m", "tests.support.dying_controller"]
    command += [str(folder / "dropout.db"), str(folder / "ticks"), str(at), when, measured]
    return subprocess.run(command, cwd=ROOT, timeout=60).returncode


def prepared(folder: Path) -> Path:
    folder.mkdir()
    clock = FakeClock()
    store = SqliteStore(folder / "dropout.db", create=True, clock=clock)
    (folder / "a.yaml").write_text(yaml.safe_dump_all([document({**CANARY, "steps": STEPS}), HEALTH]))
    act(store, "alice", Apply(load_paths([folder / "a.yaml"]).documents), clock)
    store.close()
    (folder / "ticks").write_text("0")
    return folder


def end(folder: Path) -> tuple[Status, list[tuple[str, str]]]:
    """Where the rollout stands, without when, and what happened to it, in order."""
    assert int((folder / "ticks").read_text()) < MOST_TICKS
    store = SqliteStore(folder / "dropout.db")
    row = store.get("payments", "fraud-detector")
    assert row is not None
    history = [(entry.action, entry.message) for entry in store.history("payments", "fraud-detector")]
    store.close()
    previous = {**row.status.previous, "at": 0} if row.status.previous else {}
    return replace(row.status, effective_at=0, step_at=0, previous=previous), history


@in_each_way
def test_killed_after_any_write_or_before_the_first_it_comes_to_the_same_end(
    tmp_path: Path, measured: str, phase: str, stable: str
) -> None:
    assert run(prepared(tmp_path / "undisturbed"), NEVER, "after", measured) == 0
    expected = end(tmp_path / "undisturbed")
    assert (expected[0].phase, expected[0].stable) == (phase, stable)
    assert expected[0].aborted == (("4",) if phase == "Degraded" else ())
    killed = 0
    for at, when in [(1, "before"), *((at, "after") for at in range(1, NEVER))]:
        folder = prepared(tmp_path / f"killed-{when}-{at}")
        if run(folder, at, when, measured) == 0:
            break
        killed += 1
        assert run(folder, NEVER, when, measured) == 0
        assert end(folder) == expected
    assert killed > len(expected[1])  # it was killed at each step, and at each time that it took the lease


@in_each_way
def test_killed_again_and_again_it_still_gets_there(tmp_path: Path, measured: str, phase: str, stable: str) -> None:
    assert run(prepared(tmp_path / "undisturbed"), NEVER, "after", measured) == 0
    folder = prepared(tmp_path / "killed")
    lives = 1
    while run(folder, 8, "before", measured) == -signal.SIGKILL:
        lives += 1
        assert lives < 50
    found = end(folder)
    assert found == end(tmp_path / "undisturbed")
    assert (found[0].phase, found[0].stable) == (phase, stable)
    assert lives > 1
