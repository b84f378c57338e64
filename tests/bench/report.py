"""What the figures come to: medians by case, ratios of each round, the table."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.load import CONNECTIONS, Measured
from tests.bench.loop import figures as loops
from tests.bench.loop.figures import Figure
from tests.bench.stack import Case

ALONE = Case("Envoy alone")
GRPC_NOOP = Case("gRPC no-op", "grpc")
GRPC_NOOP_TUNED = Case("gRPC no-op, our settings", "grpc", tuned=True)
GRPC_PLAIN = Case("gRPC plain, 1 rollout", "grpc", rollouts=1)
GRPC_FULL = Case("gRPC full, 1 rollout", "grpc", rollouts=1, full=True)
GRPC_PLAIN_MANY = Case("gRPC plain, 10 000 rollouts", "grpc", rollouts=10_000)
GRPC_FULL_MANY = Case("gRPC full, 10 000 rollouts", "grpc", rollouts=10_000, full=True)
GRPC_FULL_ASKING = Case("gRPC full, every verdict asked for", "grpc", rollouts=1, full=True, unremembered=True)
HTTP_NOOP = Case("HTTP no-op", "http")
HTTP_PLAIN = Case("HTTP plain, 1 rollout", "http", rollouts=1)
HTTP_FULL = Case("HTTP full, 1 rollout", "http", rollouts=1, full=True)
HTTP_FULL_MANY = Case("HTTP full, 10 000 rollouts", "http", rollouts=10_000, full=True)
HTTP_FULL_ASKING = Case("HTTP full, every verdict asked for", "http", rollouts=1, full=True, unremembered=True)

CASES = (
    ALONE,
    *(HTTP_NOOP, GRPC_NOOP_TUNED, GRPC_NOOP),
    *(GRPC_FULL, HTTP_FULL, GRPC_FULL_MANY, HTTP_FULL_MANY, GRPC_FULL_ASKING, HTTP_FULL_ASKING),
    *(GRPC_PLAIN, HTTP_PLAIN, GRPC_PLAIN_MANY),
)
"""In the order in which they take turns: what is compared is measured one after the other."""

SHOWN = (
    ALONE,
    *(GRPC_NOOP, GRPC_NOOP_TUNED, GRPC_PLAIN, GRPC_PLAIN_MANY, GRPC_FULL, GRPC_FULL_ASKING, GRPC_FULL_MANY),
    *(HTTP_NOOP, HTTP_PLAIN, HTTP_FULL, HTTP_FULL_ASKING, HTTP_FULL_MANY),
)

KEPT_UP = 0.95
"""The share of the offered requests that is as good as all: at the end of a run some are under way."""

RATE, SATURATED, ONE_CONNECTION = "rate", "saturated", "one_connection"


@dataclass
class Figures:
    """All that was measured: by case and mode one ``Measured`` for each round, and what else there is.

    ``failed`` counts requests by case, those of the load that is not measured too.
    """

    rounds: dict[str, dict[str, list[Measured]]] = field(default_factory=dict)
    in_process: list[dict[str, float]] = field(default_factory=list)
    one_change: dict[str, float] = field(default_factory=dict)
    resident_mb: dict[str, float] = field(default_factory=dict)
    undecided: dict[str, int] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, case: Case, mode: str, measured: Measured) -> None:
        """One more round."""
        self.rounds.setdefault(case.name, {}).setdefault(mode, []).append(measured)

    def of(self, case: Case, mode: str, figure: str) -> list[float]:
        """One figure, round by round."""
        return [getattr(measured, figure) for measured in self.rounds[case.name][mode]]

    def added(self, case: Case) -> list[float]:
        """The mean milliseconds that a request takes longer than through Envoy alone, at one connection."""
        alone = self.of(ALONE, ONE_CONNECTION, "mean_ms")
        return [a - b for a, b in zip(self.of(case, ONE_CONNECTION, "mean_ms"), alone, strict=True)]


def report(figures: Figures, load: Mapping[str, Any], loop: Sequence[Figure]) -> dict[str, Any]:
    """``bench.json``. ``void`` says what makes the run void, and is empty when nothing does."""
    return {
        "machine": {"processors": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
        "load": dict(load),
        "void": _void(figures, load["rate"]),
        "ratios": {"grpc": _grpc_ratios(figures), "http": _http_ratios(figures)},
        "loop": loops.report(loop),
        "one_change_among_10000": figures.one_change,
        "in_process": {name: _middle([run[name] for run in figures.in_process]) for name in figures.in_process[0]},
        "cases": {case.name: _case(figures, case) for case in SHOWN},
        "rounds": {
            name: {mode: [asdict(measured) for measured in rounds] for mode, rounds in modes.items()}
            for name, modes in figures.rounds.items()
        },
    }


def _void(figures: Figures, rate: float) -> str:
    """What was not decided was cheaper than what was, and those who could not keep up did less work."""
    wrong = []
    for name, modes in figures.rounds.items():
        failed, undecided = figures.failed[name], figures.undecided[name]
        if failed or undecided:
            wrong.append(f"{name}: {undecided} undecided, {failed} failed")
        served = statistics.fmean(measured.requests_per_second for measured in modes[RATE])
        if served < KEPT_UP * rate:
            wrong.append(f"{name}: {served:.0f}/s when {rate}/s were offered")
    return "; ".join(wrong)


def _case(figures: Figures, case: Case) -> dict[str, Any]:
    medians = {
        mode: {figure.name: _middle([getattr(measured, figure.name) for measured in rounds]) for figure in _FIGURES}
        for mode, rounds in figures.rounds[case.name].items()
    }
    return medians | {
        "mean_ms_one_connection": medians[ONE_CONNECTION]["mean_ms"],
        "added_ms_one_connection": _middle(figures.added(case)),
        "resident_mb": figures.resident_mb.get(case.name),
        "failure_mode_allowed": figures.undecided[case.name],
    }


def _grpc_ratios(figures: Figures) -> dict[str, float]:
    def cpu(over: Case, under: Case) -> float:
        return _ratio(figures.of(over, RATE, "server_cpu_us"), figures.of(under, RATE, "server_cpu_us"))

    def throughput(over: Case, under: Case) -> float:
        figure = "requests_per_second"
        return _ratio(figures.of(over, SATURATED, figure), figures.of(under, SATURATED, figure))

    return {
        "cpu_over_noop": cpu(GRPC_FULL, GRPC_NOOP),
        "throughput_over_noop": throughput(GRPC_FULL, GRPC_NOOP),
        "cpu_10000_rollouts_over_1": cpu(GRPC_FULL_MANY, GRPC_FULL),
        "cpu_over_tuned_noop": cpu(GRPC_FULL, GRPC_NOOP_TUNED),
        "throughput_over_tuned_noop": throughput(GRPC_FULL, GRPC_NOOP_TUNED),
        "plain_cpu_over_noop": cpu(GRPC_PLAIN, GRPC_NOOP),
        "asking_cpu_over_noop": cpu(GRPC_FULL_ASKING, GRPC_NOOP),
        "asking_throughput_over_noop": throughput(GRPC_FULL_ASKING, GRPC_NOOP),
    }


def _http_ratios(figures: Figures) -> dict[str, float]:
    full, asking = (figures.of(case, RATE, "server_cpu_us") for case in (HTTP_FULL, HTTP_FULL_ASKING))
    return {
        "cpu_over_grpc": _ratio(full, figures.of(GRPC_FULL, RATE, "server_cpu_us")),
        "cpu_over_grpc_noop": _ratio(full, figures.of(GRPC_NOOP, RATE, "server_cpu_us")),
        "throughput_over_grpc": _ratio(
            figures.of(HTTP_FULL, SATURATED, "requests_per_second"),
            figures.of(GRPC_FULL, SATURATED, "requests_per_second"),
        ),
        "latency_over_grpc": _ratio(figures.added(HTTP_FULL), figures.added(GRPC_FULL)),
        "pipeline_over_policy": _middle([run["pipeline_over_policy"] for run in figures.in_process]),
        "cpu_10000_rollouts_over_1": _ratio(figures.of(HTTP_FULL_MANY, RATE, "server_cpu_us"), full),
        "cpu_over_tuned_grpc_noop": _ratio(full, figures.of(GRPC_NOOP_TUNED, RATE, "server_cpu_us")),
        "asking_cpu_over_grpc": _ratio(asking, figures.of(GRPC_FULL_ASKING, RATE, "server_cpu_us")),
        "asking_cpu_over_grpc_noop": _ratio(asking, figures.of(GRPC_NOOP, RATE, "server_cpu_us")),
        "cpu_over_noop": _ratio(full, figures.of(HTTP_NOOP, RATE, "server_cpu_us")),
        "cpu_with_envoy_over_grpc": _ratio(_with_envoy(figures, HTTP_FULL), _with_envoy(figures, GRPC_FULL)),
    }


def _with_envoy(figures: Figures, case: Case) -> list[float]:
    server, envoy = (figures.of(case, RATE, figure) for figure in ("server_cpu_us", "envoy_cpu_us"))
    return [a + b for a, b in zip(server, envoy, strict=True)]


def _ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the ratios of each round: what the machine did in a round it did to both."""
    return _middle([a / b for a, b in zip(over, under, strict=True)])


def _middle(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def show(console: Console, report: Mapping[str, Any]) -> None:
    """The table and the ratios."""
    load = report["load"]
    console.print(
        f"\nMedians of {load['rounds']} rounds, {CONNECTIONS} connections. Full: policy, cached feature, decision log, "
        "metrics; the policy's inputs repeat, unless every verdict is asked for. Plain: no policy, no feature."
    )
    at_rate = f"at {load['rate']}/s"
    table = Table()
    for heading in (
        "",
        f"server µs\n{at_rate}",
        f"Envoy µs\n{at_rate}",
        f"p50 ms\n{at_rate}",
        f"p99 ms\n{at_rate}",
        "requests/s\nsaturated",
        "mean ms, one\nconnection",
        "MB\n",
    ):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, case in report["cases"].items():
        rate, memory = case[RATE], case["resident_mb"]
        table.add_row(
            name,
            f"{rate['server_cpu_us']:.0f}" if memory else "-",
            f"{rate['envoy_cpu_us']:.0f}",
            f"{rate['p50_ms']:.2f}",
            f"{rate['p99_ms']:.2f}",
            f"{case[SATURATED]['requests_per_second']:.0f}",
            f"{case['mean_ms_one_connection']:.3f}",
            f"{memory:.0f}" if memory else "-",
        )
    console.print(table)
    for transport, ratios in report["ratios"].items():
        for name, value in ratios.items():
            console.print(f"ratios.{transport}.{name}: {value}")
    alone = report["in_process"]
    console.print(f"in process, over HTTP: {alone['decision_us']} µs, of it evaluation {alone['evaluation_us']} µs")
    console.print(f"one change among 10 000 rollouts: slowest request {report['one_change_among_10000']['max_ms']} ms")


_FIGURES = fields(Measured)
