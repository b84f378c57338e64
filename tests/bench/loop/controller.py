"""What the controller takes of a processor while a thousand rollouts are under way, and all of them are observed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from extproc.adapters.sqlite.observations import ObservationsWriter, Observed, observed
from extproc.adapters.stores import open_store
from extproc.measure import UNIT_GROUPS, ArmTotals, EpochTotals, LatencySketch, UnitSample, units_each
from extproc.metrics.catalogue import CONTROLLER_ROLLOUTS, CONTROLLER_TRANSITIONS
from extproc.state import StateFolder
from extproc.store.records import StoredRollout
from tests.bench.load import cpu_seconds
from tests.bench.stack import document, dropout
from tests.support.envoy import free_port
from tests.support.paths import ROOT
from tests.support.process import end, wait_for

ROLLOUTS = 1000
SECONDS = 20
INTERVALS = (30, 45, 60)
"""Seconds between two measurements. Templates differ in it and in when they begin, so that no second has them all."""

DELAYS = range(1, 31, 2)
REQUESTS_EACH_ARM = 20_000
QUIET_SECONDS = 3


class Controller:
    """A controller on a store of its own, in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store = f"sqlite:{directory / 'dropout.db'}"
        self._admin = free_port()
        self._exit = ExitStack()

    def core_share(self) -> dict[str, Any]:
        """The share of one processor that it uses once every rollout is at the step where it waits."""
        self._directory.mkdir()
        with self._exit:
            self._apply()
            process = self._start()
            wait_for(lambda: self._metric(CONTROLLER_ROLLOUTS.name) == ROLLOUTS, "a controller that leads", 60)
            self._settle()
            self._exit.enter_context(_Reports(self._store))
            time.sleep(QUIET_SECONDS)
            before, transitions = cpu_seconds(process.pid), self._metric(CONTROLLER_TRANSITIONS.name)
            measured = self._measurements()
            time.sleep(SECONDS)
            used = cpu_seconds(process.pid) - before
            return {
                "core_share": used / SECONDS,
                "seconds": SECONDS,
                "measurements": self._measurements() - measured,
                "transitions": int(self._metric(CONTROLLER_TRANSITIONS.name) - transitions),
            }

    def _apply(self) -> None:
        folder = self._directory / "documents"
        folder.mkdir()
        (folder / "templates.yaml").write_text(_yaml(_templates()))
        for start in range(0, ROLLOUTS, 250):
            (folder / f"{start}.yaml").write_text(_yaml(map(_rollout, range(start, start + 250))))
        dropout("apply", "-f", str(folder), "--store", self._store, directory=self._directory)

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = ["--store", self._store, "--listen", f"unix:{self._directory / 'control.sock'}"]
        arguments += ["--admin", f"127.0.0.1:{self._admin}"]
        with (self._directory / "controller.log").open("ab") as log:
            command = [sys.executable, "-m", "extproc.cli", "controller", *arguments]
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self._exit.callback(end, process)
        return process

    def _settle(self) -> None:
        """Wait until no rollout takes a step any more."""
        seen = -1.0
        while (now := self._metric(CONTROLLER_TRANSITIONS.name)) != seen or now == 0:
            seen = now
            time.sleep(QUIET_SECONDS)

    def _metric(self, name: str) -> float:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{self._admin}/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split(" ")[1])
        return 0.0

    def _measurements(self) -> int:
        """How many were taken so far, by what stands in the store."""
        runs = [run for row in _rows(self._store) for run in row.status.analysis.values() if isinstance(run, dict)]
        return sum(sum(metric["counts"].values()) for run in runs for metric in run["metrics"].values())


class _Reports:
    """Writes, while it is entered, what an observer would of all rollouts each second."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _write(self) -> None:
        draw = random.Random(1)
        rows = [_observed(row.key, row.status.epoch_id_at(time.time()), draw) for row in _rows(self._store)]
        writer = ObservationsWriter(StateFolder.of(self._store, None).observed, "bench")
        while not self._stopping.is_set():
            now = time.time()
            writer.write([row._replace(updated_at=now) for row in rows], (), now)
            rows = [row._replace(units=None) for row in rows]
            self._stopping.wait(max(0.0, now + 1 - time.time()))
        writer.close()


def _rows(url: str) -> list[StoredRollout]:
    store = open_store(url)
    try:
        changes = store.changes(0)
        return [row for row in changes.rollouts if isinstance(row, StoredRollout)] if changes is not None else []
    finally:
        store.close()


def _observed(key: str, epoch: int, draw: random.Random) -> Observed:
    """An epoch in which both arms had many requests of many units, and fared alike."""
    units = UnitSample((draw.getrandbits(63), draw.choice(("canary", "control"))) for _ in range(units_each(ROLLOUTS)))
    arms = {}
    for arm in ("canary", "control"):
        each = REQUESTS_EACH_ARM // UNIT_GROUPS
        groups = {group: [each, draw.randrange(3)] for group in range(UNIT_GROUPS)}
        latency = LatencySketch((bucket, 10 * bucket) for bucket in range(5, 60))
        requests, failures = each * UNIT_GROUPS, sum(failed for _, failed in groups.values())
        arms[arm] = ArmTotals(requests, requests, failures, latency=latency, groups=groups)
    return observed(EpochTotals(key, epoch, arms=arms, units=units), units=True)


def _rollout(number: int) -> dict[str, Any]:
    """Half of them wait in a pause, with an analysis in the background; half in an analysis of their own."""
    templates = {"templates": [{"templateName": f"health-{number % (len(INTERVALS) * len(DELAYS))}"}]}
    body = document(number, full=False)
    body["spec"]["steps"] = [{"setWeight": 50}, {"pause": {}} if number % 2 else {"analysis": templates}]
    body["spec"]["breaker"] = {}
    if number % 2:
        body["spec"]["analysis"] = templates
    return body


def _templates() -> Iterator[dict[str, Any]]:
    for number, (interval, delay) in enumerate((interval, delay) for interval in INTERVALS for delay in DELAYS):
        metrics = [
            _metric("errors", interval, delay, "result.lower > 0", {"metric": "error_rate"}),
            _metric("slow", interval, delay, "result.ratio > 1.5", {"metric": "latency", "quantile": 0.95}),
        ]
        metadata = {"namespace": "bench", "name": f"health-{number}"}
        yield {
            "apiVersion": "dropout.dev/v1alpha1",
            "kind": "AnalysisTemplate",
            "metadata": metadata,
            "spec": {"metrics": metrics},
        }


def _metric(name: str, interval: int, delay: int, failure: str, provider: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "interval": f"{interval}s",
        "count": 1000,
        "initialDelay": f"{delay}s",
        "inconclusiveLimit": 1000,
        "failureCondition": failure,
        "provider": {"observed": provider},
    }


def _yaml(documents: Any) -> str:
    return "\n---\n".join(map(json.dumps, documents))
