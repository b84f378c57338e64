"""``build/bench.png``: what a request costs and how long it takes, by transport, no-op against full.

Run as ``python -m tests.bench.picture FACTS.json PICTURE.png``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import orjson
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from extproc.demo.picture.style import AREAS, ASKED, FAINT, INK
from tests.bench.load import PERCENTILES
from tests.bench.report import (
    ALONE,
    GRPC_FULL,
    GRPC_NOOP,
    GRPC_NOOP_TUNED,
    HTTP_FULL,
    HTTP_NOOP,
    ONE_CONNECTION,
    RATE,
)
from tests.bench.stack import Case

STABLE, CANARY = AREAS["1"], AREAS["2"]

BARS = {
    ALONE: (0.0, "Envoy alone", FAINT),
    GRPC_NOOP: (1.4, "gRPC, no-op", ASKED),
    GRPC_NOOP_TUNED: (2.4, "gRPC, no-op,\nour settings", ASKED),
    GRPC_FULL: (3.4, "gRPC, full", ASKED),
    HTTP_NOOP: (4.8, "HTTP, no-op", CANARY),
    HTTP_FULL: (5.8, "HTTP, full", CANARY),
}
"""Where each bar is, what it is called, and the colour of its server. No-op servers decide nothing."""

LINES = {
    GRPC_FULL: ("gRPC, full", ASKED, "-"),
    GRPC_NOOP: ("gRPC, no-op", ASKED, ":"),
    HTTP_FULL: ("HTTP, full", CANARY, "-"),
    HTTP_NOOP: ("HTTP, no-op", CANARY, ":"),
    ALONE: ("Envoy alone", FAINT, "-"),
}


def draw(facts: dict[str, Any], file: Path) -> None:
    """Draw the facts of ``bench.json`` into a PNG file."""
    mpl.rc("font", family="DejaVu Sans", size=11)
    mpl.rc("text", color=INK)
    mpl.rc("axes", edgecolor=FAINT, labelcolor=INK)
    figure = Figure(figsize=(13, 6.4), dpi=150, facecolor="white")
    cases = {case: facts["cases"][case.name] for case in BARS}
    load = facts["load"]
    busy = f"CPU time of one request, at {load['rate']:,}/s over {load['connections']} connections"
    _cost(figure.add_axes((0.115, 0.12, 0.37, 0.63)), {case: figures[RATE] for case, figures in cases.items()}, busy)
    idle = "Time that a request takes, one after the other, Envoy included"
    one = {case: figures[ONE_CONNECTION] for case, figures in cases.items()}
    _latency(figure.add_axes((0.575, 0.12, 0.4, 0.63)), one, idle)
    _titles(figure, facts)
    figure.savefig(file)


def _cost(axes: Axes, cases: dict[Case, dict[str, float]], title: str) -> None:
    for case, (at, _, colour) in BARS.items():
        server, envoy = cases[case]["server_cpu_us"], cases[case]["envoy_cpu_us"]
        axes.barh(at, server, color=colour, height=0.8, linewidth=0)
        axes.barh(at, envoy, left=server, color=STABLE, height=0.8, linewidth=0)
        said = f"{server:.0f} + {envoy:.0f}" if server else f"{envoy:.0f}"
        axes.annotate(said, (server + envoy, at), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_yticks([at for at, *_ in BARS.values()], [label for _, label, _ in BARS.values()])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.26 * max(case["server_cpu_us"] + case["envoy_cpu_us"] for case in cases.values()))
    axes.set_xlabel("microseconds")
    named = {"server, gRPC": ASKED, "server, HTTP": CANARY, "Envoy": STABLE}
    _head(axes, title, [Patch(color=colour, label=label) for label, colour in named.items()])
    axes.spines["left"].set_visible(False)


def _latency(axes: Axes, cases: dict[Case, dict[str, float]], title: str) -> None:
    places = range(len(PERCENTILES))
    lines = [
        axes.plot(places, [cases[case][name] for name in PERCENTILES], style, color=colour, marker="o", label=label)[0]
        for case, (label, colour, style) in LINES.items()
    ]
    for line in lines:
        line.set(linewidth=2.4, markersize=5)
    axes.set_xticks(list(places), [f"{100 * share:g}%" for share in PERCENTILES.values()])
    axes.set_xlabel("of the requests take no longer")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    axes.grid(axis="y", which="both", color=STABLE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_ylabel("milliseconds")
    _head(axes, title, lines)


def _head(axes: Axes, title: str, named: list[Any]) -> None:
    """The title, and below it what the colours mean."""
    axes.set_title(title, loc="left", fontsize=12, pad=50)
    axes.legend(
        handles=named,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.01),
        ncols=3,
        frameon=False,
        fontsize=10,
        columnspacing=1.4,
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _titles(figure: Figure, facts: dict[str, Any]) -> None:
    figure.text(0.03, 0.955, "What a decision costs", fontsize=17, fontweight="bold", va="center")
    said = f"Medians of {facts['load']['rounds']} rounds. Full: policy, cached feature, decision log, metrics"
    figure.text(0.975, 0.955, said, color=FAINT, va="center", ha="right")


def main() -> None:
    """Draw the facts in the first file into the second."""
    facts, picture = Path(sys.argv[1]), Path(sys.argv[2])
    draw(orjson.loads(facts.read_bytes()), picture)


if __name__ == "__main__":
    main()
