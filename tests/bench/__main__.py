"""Measure every case at one offered rate and saturated, in turns, and write the table and ``build/bench.json``."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.load import CONNECTIONS, Measured, resident_mb, run
from tests.bench.stack import ROOT, Case, Stack, other_cpus, paths

RATE = 1600
SECONDS = 8
ROUNDS = 3
NOOP = Case("no-op")
NOOP_TUNED = Case("no-op, our gRPC settings", tuned=True)
PLAIN = Case("plain, 1 rollout", rollouts=1)
FULL = Case("full, 1 rollout", rollouts=1, full=True)
PLAIN_MANY = Case("plain, 10 000 rollouts", rollouts=10_000)
FULL_MANY = Case("full, 10 000 rollouts", rollouts=10_000, full=True)
CASES = (NOOP, NOOP_TUNED, PLAIN, FULL, PLAIN_MANY, FULL_MANY)


def main() -> int:
    """Run the bench; 0 when the run is valid, 1 when it is void."""
    h2load = shutil.which("h2load")
    if h2load is None:
        print("make bench needs h2load, which Debian has in nghttp2-client: apt-get install nghttp2-client")
        return 1
    console = Console(highlight=False, width=120)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dropout-bench-")))
        stacks = []
        for number, case in enumerate(CASES):
            console.print(f"starting {case.name} ...")
            started = Stack(case, directory / str(number))
            stack.callback(started.stop)
            stacks.append(started.start())

        def load(target: Stack, rate: int | None, seconds: int, connections: int = CONNECTIONS) -> Measured:
            assert target.envoy is not None
            return run(
                h2load,
                port=target.envoy.port,
                paths=paths(target.case),
                seconds=seconds,
                rate=rate,
                connections=connections,
                server=target.worker,
                envoy=target.envoy_pid,
                cpus=sorted(other_cpus()),
                directory=target.directory,
            )

        for target in stacks:  # caches and allocators as they are on a server that has run for a while
            load(target, RATE, 3)
        figures = _measure(console, stacks, load)
        change = _one_change(stacks[-1], load)
        memory = {target.case.name: round(resident_mb(target.worker), 1) for target in stacks}
        undecided = {target.case.name: _envoy_of(target).failed_open() for target in stacks}
    report = _report(figures, change, memory, undecided)
    _show(console, report)
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "bench.json").write_text(json.dumps(report, indent=2) + "\n")
    console.print("every figure is in build/bench.json")
    if report["void"]:
        console.print(f"The run is void: {report['void']}")
        return 1
    return 0


def _measure(
    console: Console, stacks: list[Stack], load: Callable[[Stack, int | None, int], Measured]
) -> dict[str, dict[str, list[Measured]]]:
    """All cases in turns, so that a machine that drifts does so for all of them."""
    figures: dict[str, dict[str, list[Measured]]] = {
        target.case.name: {"rate": [], "saturated": []} for target in stacks
    }
    for number in range(1, ROUNDS + 1):
        for target in stacks:
            console.print(f"round {number} of {ROUNDS}: {target.case.name}")
            figures[target.case.name]["rate"].append(load(target, RATE, SECONDS))
            figures[target.case.name]["saturated"].append(load(target, None, SECONDS))
    return figures


def _one_change(target: Stack, load: Callable[..., Measured]) -> dict[str, float]:
    """The slowest request while one of ten thousand rollouts changes, every second."""

    def change() -> None:
        for percent in ("10", "20", "30"):
            time.sleep(1)
            target.set_weight(7, percent)

    changing = threading.Thread(target=change)
    changing.start()
    measured = load(target, RATE // 4, 6, connections=4)
    changing.join()
    return {"max_ms": round(measured.max_ms, 2), "p99_ms": round(measured.p99_ms, 2), "failed": measured.failed}


def _envoy_of(target: Stack) -> Any:
    assert target.envoy is not None
    return target.envoy


def _report(
    figures: dict[str, dict[str, list[Measured]]],
    change: dict[str, float],
    memory: dict[str, float],
    undecided: dict[str, int],
) -> dict[str, Any]:
    cases = {
        name: {mode: _median(rounds) for mode, rounds in modes.items()}
        | {"resident_mb": memory[name], "undecided": undecided[name]}
        for name, modes in figures.items()
    }

    def ratio(over: str, under: str, mode: str, figure: str) -> float:
        """The median of the ratios of each round: what the machine did in a round it did to both."""
        pairs = zip(figures[over][mode], figures[under][mode], strict=True)
        return round(statistics.median(getattr(a, figure) / getattr(b, figure) for a, b in pairs), 3)

    void = "; ".join(
        f"{name}: {undecided[name]} undecided, {failed} failed"
        for name, modes in figures.items()
        if (failed := sum(m.failed for rounds in modes.values() for m in rounds)) or undecided[name]
    )
    return {
        "machine": {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
        "load": {"connections": CONNECTIONS, "rate": RATE, "seconds": SECONDS, "rounds": ROUNDS},
        "void": void,
        "ratios": {
            "grpc": {
                "cpu_over_noop": ratio(FULL.name, NOOP.name, "rate", "server_cpu_us"),
                "throughput_over_noop": ratio(FULL.name, NOOP.name, "saturated", "requests_per_second"),
                "cpu_10000_rollouts_over_1": ratio(FULL_MANY.name, FULL.name, "rate", "server_cpu_us"),
                "cpu_over_tuned_noop": ratio(FULL.name, NOOP_TUNED.name, "rate", "server_cpu_us"),
                "throughput_over_tuned_noop": ratio(FULL.name, NOOP_TUNED.name, "saturated", "requests_per_second"),
                "plain_cpu_over_noop": ratio(PLAIN.name, NOOP.name, "rate", "server_cpu_us"),
            }
        },
        "one_change_among_10000": change,
        "cases": cases,
        "rounds": {
            name: {mode: [asdict(m) for m in rounds] for mode, rounds in modes.items()}
            for name, modes in figures.items()
        },
    }


def _median(rounds: list[Measured]) -> dict[str, float]:
    return {
        figure.name: round(statistics.median(getattr(measured, figure.name) for measured in rounds), 3)
        for figure in fields(Measured)
    }


def _show(console: Console, report: dict[str, Any]) -> None:
    table = Table(title=f"Medians of {ROUNDS} rounds; full: policy, cached feature, decision log, metrics")
    for heading in ("", "server µs/request", "Envoy µs/request", "requests/s", "p50 ms", "p99 ms", "resident MB"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, case in report["cases"].items():
        for mode, label in (("rate", f"{RATE}/s"), ("saturated", "saturated")):
            m = case[mode]
            table.add_row(
                f"{name}, {label}",
                f"{m['server_cpu_us']:.0f}",
                f"{m['envoy_cpu_us']:.0f}",
                f"{m['requests_per_second']:.0f}",
                f"{m['p50_ms']:.2f}",
                f"{m['p99_ms']:.2f}",
                f"{case['resident_mb']:.0f}",
            )
    console.print(table)
    for name, value in report["ratios"]["grpc"].items():
        console.print(f"ratios.grpc.{name}: {value}")
    change = report["one_change_among_10000"]
    console.print(f"one change among 10 000 rollouts: slowest request {change['max_ms']} ms")


if __name__ == "__main__":
    sys.exit(main())
