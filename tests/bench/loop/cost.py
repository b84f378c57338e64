"""What the observer adds to a decision: the same server with one and without, side by side.

Both are loaded at the same time, their workers on one processor: what else goes on there, on a machine that others
share, goes on for both, and a difference of hundredths is not lost in it.
"""

from __future__ import annotations

import math
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.bench.load import Measured, cpu_seconds, run
from tests.bench.stack import Case, Stack, other_cpus, paths

OFF = Case("HTTP full, no observer", "http", rollouts=1, full=True)
ON = Case("HTTP full, observed", "http", rollouts=1, full=True, observed=True)

RATE = 800
"""Requests a second of each."""
SECONDS = 2
ROUNDS = 60
"""Many and short: which of the two finds the processor's caches warm depends on who begins, which chance decides."""


def on_over_off(directory: Path, h2load: str) -> dict[str, Any]:
    """The ratio of the worker's processor time for a request, and what Envoy and the observer use beside it."""
    stacks = [Stack(case, directory / f"cost-{number}") for number, case in enumerate((OFF, ON))]
    try:
        for stack in stacks:
            stack.start()
        _round(stacks, h2load)
        observer = stacks[1].observer
        began = cpu_seconds(observer)
        rounds = [_round(stacks, h2load) for _ in range(ROUNDS)]
        observed = sum(on.requests for _, on in rounds)
        ratios = [on.server_cpu_us / off.server_cpu_us for off, on in rounds]
        return {
            "ratio": statistics.geometric_mean(ratios),
            "standard_error": round(statistics.stdev(ratios) / math.sqrt(len(ratios)), 4),
            "worker_cpu_us": {"off": _middle(rounds, 0, "server_cpu_us"), "on": _middle(rounds, 1, "server_cpu_us")},
            "envoy_cpu_us": {"off": _middle(rounds, 0, "envoy_cpu_us"), "on": _middle(rounds, 1, "envoy_cpu_us")},
            "observer_cpu_us": round((cpu_seconds(observer) - began) / observed * 1e6, 1),
        }
    finally:
        for stack in stacks:
            stack.stop()


def _round(stacks: list[Stack], h2load: str) -> tuple[Measured, Measured]:
    """Off and on, at the same time."""
    with ThreadPoolExecutor() as both:
        off, on = both.map(lambda stack: _load(stack, h2load), stacks)
    if off.failed or on.failed or any(stack.envoy.failed_open() for stack in stacks):
        raise RuntimeError("requests failed or went undecided")
    return off, on


def _load(stack: Stack, h2load: str) -> Measured:
    return run(
        h2load,
        port=stack.envoy.port,
        paths=paths(stack.case),
        seconds=SECONDS,
        rate=RATE,
        server=stack.worker,
        envoy=stack.envoy.pid,
        cpus=sorted(other_cpus()),
        directory=stack.directory,
    )


def _middle(rounds: list[tuple[Measured, Measured]], which: int, figure: str) -> float:
    middle: float = statistics.median(getattr(pair[which], figure) for pair in rounds)
    return round(middle, 1)
