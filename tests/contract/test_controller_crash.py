"""A controller that is killed with -9 between any two of its writes is succeeded by one that comes to the same end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.adapters.sqlite.store import SqliteStore
from extproc.control.acting import act
from extproc.control.actions import Apply
from extproc.resources.loading import load_paths
from extproc.store.status import Status
from tests.support.clock import FakeClock
from tests.support.dying_controller import MOST_TICKS
from tests.support.paths import ROOT
from tests.support.rollouts import CANARY, EXPERIMENT, document
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

Run = Callable[[Path, int, str, str], int]

in_each_way = pytest.mark.parametrize(
    ("measured", "phase", "stable"), [("Successful", "Healthy", "4"), ("Failed", "Degraded", "3")]
)


@pytest.fixture(scope="module")
def lives() -> Iterator[subprocess.Popen[str]]:
    """What controllers that die come from."""
    command = [sys.executable, "-m", "tests.support.dying_controller"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


@pytest.fixture
def run(lives: subprocess.Popen[str]) -> Run:
    """A controller on the store of a folder that dies before or after its write ``at``: its exit status."""

    def run(folder: Path, at: int, when: str, measured: str) -> int:
        assert lives.stdin is not None
        assert lives.stdout is not None
        life = [str(folder / "dropout.db"), str(folder / "ticks"), at, when, measured]
        print(json.dumps(life), file=lives.stdin, flush=True)
        return int(lives.stdout.readline())

    return run


def prepared(folder: Path, spec: dict[str, Any] | None = None) -> Path:
    folder.mkdir()
    clock = FakeClock()
    store = SqliteStore(folder / "dropout.db", create=True, clock=clock)
    (folder / "a.yaml").write_text(yaml.safe_dump_all([document(spec or {**CANARY, "steps": STEPS}), HEALTH]))
    act(store, "alice", Apply(load_paths([folder / "a.yaml"]).documents), clock)
    store.close()
    (folder / "ticks").write_text("0")
    return folder


def end(folder: Path) -> tuple[Status, list[tuple[str, str]]]:
    """Where the rollout stands, without when and the numbers that were drawn, and what happened to it, in order."""
    assert int((folder / "ticks").read_text()) < MOST_TICKS
    store = SqliteStore(folder / "dropout.db")
    row = store.get("payments", "fraud-detector")
    assert row is not None
    history = [(entry.action, entry.message) for entry in store.history("payments", "fraud-detector")]
    store.close()
    previous = {**row.status.previous, "at": 0} if row.status.previous else {}
    applied = {**row.status.applied, "at": 0}
    counts = {
        kind: {name: metric["counts"] for name, metric in run["metrics"].items()}
        for kind, run in row.status.analysis.items()
        if isinstance(run, dict)
    }
    # Numbers are drawn anew in each store.
    left_out = {"effective_at": 0, "step_at": 0, "previous": previous, "applied": applied, "numbers": {}}
    return replace(row.status, **left_out, analysis=counts), history


@in_each_way
def test_killed_after_any_write_or_before_the_first_it_comes_to_the_same_end(
    tmp_path: Path, run: Run, measured: str, phase: str, stable: str
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
def test_killed_again_and_again_it_still_gets_there(
    tmp_path: Path, run: Run, measured: str, phase: str, stable: str
) -> None:
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


@pytest.mark.parametrize(("measured", "aborted"), [("Failed", ("4",)), ("Successful", ())])
def test_an_experiment_comes_to_the_same_end_wherever_its_controller_is_killed(
    tmp_path: Path, run: Run, measured: str, aborted: tuple[str, ...]
) -> None:
    spec = {**EXPERIMENT, "analysis": {"templates": [{"templateName": "health"}], "onFailed": "control"}}
    assert run(prepared(tmp_path / "undisturbed", spec), NEVER, "after", measured) == 0
    expected = end(tmp_path / "undisturbed")
    assert expected[0].aborted == aborted
    killed = 0
    for at, when in [(1, "before"), *((at, "after") for at in range(1, NEVER))]:
        folder = prepared(tmp_path / f"killed-{when}-{at}", spec)
        if run(folder, at, when, measured) == 0:
            break
        killed += 1
        assert run(folder, NEVER, when, measured) == 0
        assert end(folder) == expected
    assert killed > len(expected[1])
