"""Measure every case at one offered rate, saturated and at one connection, in turns; and then the loops.

Writes the table, ``build/bench.json`` and ``build/bench.png``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status

from tests.bench import report
from tests.bench.load import CONNECTIONS, Measured, offered_rate, resident_mb, run
from tests.bench.loop.figures import show
from tests.bench.loop.run import measure
from tests.bench.report import CASES, GRPC_FULL_MANY, HTTP_FULL, ONE_CONNECTION, RATE, SATURATED, Figures
from tests.bench.stack import (
    CACHED_FOR_LONG,
    NOTHING_REMEMBERED,
    ROOT,
    SERVER_CPU,
    Case,
    Stack,
    other_cpus,
    paths,
    set_weight,
)

SECONDS = {"rate": 2, "saturated": 2, "one_connection": 1}
WARM_UP_SECONDS = 2
REACH_SECONDS = 2
"""How long each shows what it reaches, once it is warm."""
SETTLE_SECONDS = 0.3
"""For health checks and what else waited while the others were measured."""
LEAD_SECONDS = 0.4
"""Load before what is measured: the first requests find nothing of theirs in the processor's caches."""
CHANGE_SECONDS = 6
CHANGE_RATE = 400
PASSES = (RATE, SATURATED, ONE_CONNECTION, RATE)
"""Of a round. CPU a request is what most ratios are of, so it is measured twice as often."""
ROUNDS = 5
"""Short ones: a machine that others share may be twice as fast a minute later, and what is compared must not be."""


def main() -> int:
    """Run the bench; 0 when the run is valid, 1 when it is void."""
    h2load = shutil.which("h2load")
    if h2load is None:
        print("make bench needs h2load, which Debian has in nghttp2-client: apt-get install nghttp2-client")
        return 1
    console = Console(highlight=False, width=120)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dropout-bench-")))
        status = stack.enter_context(console.status(""))
        bench = Bench(h2load, console, status, directory)
        stack.callback(bench.stop)
        figures = bench.run()
    loop = measure(h2load, console)
    facts = report.report(
        figures,
        {"connections": CONNECTIONS, "rate": bench.rate, "seconds": SECONDS, "rounds": ROUNDS},
        loop,
    )
    report.show(console, facts)
    show(console, loop)
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "bench.json").write_text(json.dumps(facts, indent=2) + "\n")
    _draw(build)
    console.print("Picture: build/bench.png   Facts: build/bench.json")
    if facts["void"]:
        console.print(f"The run is void: {facts['void']}")
        return 1
    return 0


class Bench:
    """One run of all cases. ``console`` gets a line for each part of it, ``status`` what is done at the moment.

    ``rate`` is what all are offered, in requests a second, once they are warm.
    """

    def __init__(self, h2load: str, console: Console, status: Status, directory: Path) -> None:
        self._h2load = h2load
        self._console = console
        self._status = status
        self._directory = directory
        self._stacks: dict[Case, Stack] = {}
        self._figures = Figures()
        self.rate = 0

    def run(self) -> Figures:
        """Start all, measure in turns so that a machine that drifts does so for all of them."""
        self._console.print(f"{len(CASES)} cases, {ROUNDS} rounds, about {self._minutes():.0f} minutes; then the loops")
        self._start()
        self.rate = offered_rate(self._warm_up())
        for number in range(1, ROUNDS + 1):
            self._console.print(f"round {number} of {ROUNDS}, {self.rate:,} requests a second at a rate ...")
            for turn, mode in enumerate(PASSES):
                # To and fro: what a drift gives to those that come late, the next pass gives to the others.
                for case in CASES if (number + turn) % 2 else reversed(CASES):
                    self._status.update(f"{mode.replace('_', ' ')}: {case.name}")
                    self._figures.add(case, mode, self._measure(case, mode))
            self._status.update("in process")
            self._figures.in_process.append(self._in_process(number))
        self._console.print("one change among 10 000 rollouts ...")
        with self._awake(GRPC_FULL_MANY):
            self._figures.one_change = self._one_change(GRPC_FULL_MANY)
        for case, stack in self._stacks.items():
            stack.wake()
            self._figures.undecided[case.name] = stack.envoy.failed_open()
            if stack.worker is not None:
                self._figures.resident_mb[case.name] = round(resident_mb(stack.worker), 1)
        return self._figures

    def stop(self) -> None:
        """End all that was started."""
        for stack in self._stacks.values():
            stack.stop()

    def _minutes(self) -> float:
        each = (
            WARM_UP_SECONDS
            + REACH_SECONDS
            + ROUNDS * sum(SECONDS[mode] + SETTLE_SECONDS + LEAD_SECONDS + 0.5 for mode in PASSES)
        )
        return (len(CASES) * each + 90) / 60

    def _start(self) -> None:
        for number, case in enumerate(CASES):
            self._status.update(f"starting {case.name}")
            stack = self._stacks[case] = Stack(case, self._directory / str(number))
            stack.start()

    def _warm_up(self) -> list[float]:
        """Caches and allocators as they are on a server that has run for a while; the requests/s that each reached."""
        reached = []
        for case in CASES:
            self._status.update(f"warming up {case.name}")
            self._load(case, WARM_UP_SECONDS, rate=None)
            reached.append(self._load(case, REACH_SECONDS, rate=None).requests_per_second)
            self._stacks[case].rest()
        return reached

    def _measure(self, case: Case, mode: str) -> Measured:
        rate = self.rate if mode == RATE else None
        connections = 1 if mode == ONE_CONNECTION else CONNECTIONS
        with self._awake(case):
            self._load(case, LEAD_SECONDS, rate, connections)
            return self._load(case, SECONDS[mode], rate, connections)

    @contextmanager
    def _awake(self, case: Case) -> Iterator[None]:
        """Only this case has the processors."""
        self._stacks[case].wake()
        time.sleep(SETTLE_SECONDS)
        try:
            yield
        finally:
            self._stacks[case].rest()

    def _load(self, case: Case, seconds: float, rate: int | None, connections: int = CONNECTIONS) -> Measured:
        stack = self._stacks[case]
        try:
            measured = run(
                self._h2load,
                port=stack.envoy.port,
                paths=paths(case),
                seconds=seconds,
                rate=rate,
                connections=connections,
                server=stack.worker,
                envoy=stack.envoy.pid,
                cpus=sorted(other_cpus()),
                directory=stack.directory,
            )
        except ProcessLookupError as error:
            raise RuntimeError(f"{case.name}: {error}; its log ends with\n{stack.log()[-2000:]}") from None
        self._figures.failed[case.name] += measured.failed
        return measured

    def _in_process(self, number: int) -> dict[str, float]:
        """The decision without servers, from the same stores and on the same processor."""
        directory = self._stacks[HTTP_FULL].directory
        stores = [f"sqlite:{directory / name}" for name in ("dropout.db", "features.db")]
        command = [sys.executable, "-m", "tests.bench.in_process", *stores, str(directory / f"in-process-{number}.log")]
        done = subprocess.run(
            ["taskset", "-c", str(SERVER_CPU), *command],
            cwd=ROOT,
            env={**os.environ, **CACHED_FOR_LONG, **NOTHING_REMEMBERED},
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        figures: dict[str, float] = json.loads(done.stdout)
        return figures

    def _one_change(self, case: Case) -> dict[str, float]:
        """The slowest request while one of ten thousand rollouts changes, every second."""

        def change() -> None:
            for percent in ("10", "20", "30"):
                time.sleep(1)
                set_weight(self._stacks[case].directory, 7, percent)

        changing = threading.Thread(target=change)
        changing.start()
        measured = self._load(case, CHANGE_SECONDS, CHANGE_RATE, connections=4)
        changing.join()
        return {"max_ms": round(measured.max_ms, 2), "p99_ms": round(measured.p99_ms, 2)}


def _draw(build: Path) -> None:
    """Draw the picture in a process of its own, whose font cache stays below the build folder."""
    command = [sys.executable, "-m", "tests.bench.picture", str(build / "bench.json"), str(build / "bench.png")]
    environment: dict[str, Any] = {**os.environ, "MPLCONFIGDIR": str(build / "matplotlib"), "MPLBACKEND": "Agg"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main())
