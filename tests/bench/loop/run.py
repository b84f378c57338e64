"""All of it, one part after the other, in about five minutes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from tests.bench import observer
from tests.bench.loop import cost, overload, trip, verdict
from tests.bench.loop.controller import ROLLOUTS, Controller
from tests.bench.loop.figures import Figure, of_runs
from tests.bench.stack import Case, Stack

CASE = Case("the loops", "http", rollouts=2, full=True, observed=True, workers=2)
TRIP_RATES = (20, 2000)
TRIP_RUNS = 3

TRIP_BAR = 2.0
VERDICT_BAR = verdict.INTERVAL_SECONDS + 1.0
CONTROLLER_BAR = 0.20
OBSERVER_BAR = 15_000
COST_BAR = 1.03


def measure(h2load: str, console: Console) -> list[Figure]:
    """Every figure of the loops; ``console`` gets a line for each part of it."""
    with tempfile.TemporaryDirectory(prefix="dropout-loop-") as name:
        directory = Path(name)
        return [
            *_of_an_environment(directory / "environment", h2load, console),
            _controller(directory / "controller", console),
            _cost(directory, h2load, console),
        ]


def _of_an_environment(directory: Path, h2load: str, console: Console) -> Iterator[Figure]:
    """What is measured of two workers, their observer and an Envoy together."""
    stack = Stack(CASE, directory, trip.routes(), overload.SETTINGS)
    try:
        stack.start()
        yield _observer(stack, h2load, console)
        for rate in TRIP_RATES:
            yield _trip(stack, h2load, rate, console)
        yield _verdict(stack, console)
    finally:
        stack.stop()


def _observer(stack: Stack, h2load: str, console: Console) -> Figure:
    console.print("loop: what the observer takes ...")
    with tempfile.TemporaryDirectory(prefix="dropout-observer-") as folder:
        taken = observer.measure(Path(folder))
    beyond = overload.overload(stack, h2load)
    name, title = "observer_entries_per_second", "entries a second of one observer on one core"
    value = 1e6 / taken["observer_cpu_us_per_entry"]
    return Figure(name, title, value, OBSERVER_BAR, "", at_least=True, details={**taken, "beyond": beyond})


def _trip(stack: Stack, h2load: str, rate: int, console: Console) -> Figure:
    console.print(f"loop: a canary that fails at {rate} requests/s ...")
    runs = [trip.trip_seconds(stack, h2load, rate) for _ in range(TRIP_RUNS)]
    title = f"breaker's condition to last bad request, {rate}/s"
    return of_runs(f"trip_seconds.at_{rate}", title, runs, TRIP_BAR)


def _verdict(stack: Stack, console: Console) -> Figure:
    console.print("loop: labels of a canary that is worse ...")
    runs = verdict.verdict_seconds(stack)
    title = "failed analysis to weight 0 in every worker"
    return of_runs("verdict_seconds", title, runs, VERDICT_BAR, interval=verdict.INTERVAL_SECONDS)


def _controller(directory: Path, console: Console) -> Figure:
    console.print(f"loop: a controller of {ROLLOUTS:,} rollouts ...")
    found = Controller(directory).core_share()
    title = f"share of a core for {ROLLOUTS:,} active rollouts"
    return Figure("controller_1000_active", title, found.pop("core_share"), CONTROLLER_BAR, "", details=found)


def _cost(directory: Path, h2load: str, console: Console) -> Figure:
    console.print("loop: a decision with and without an observer ...")
    found = cost.on_over_off(directory, h2load)
    title = "server CPU a request, observer on over off"
    return Figure("cost_observer_on_over_off", title, found.pop("ratio"), COST_BAR, "", details=found)
