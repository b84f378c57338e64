"""``build/demo.png``: who got version 2 over time, against the weight that was asked for.

Run as ``python -m extproc.demo.picture FACTS.json PICTURE.png``.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import orjson
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK: Final = "#1f2933"
FAINT: Final = "#8a97a5"
STABLE: Final = "#d5dde5"
CANARY: Final = "#2a9d8f"
ASKED: Final = "#e76f51"
CHARACTERS: Final = 165
"""How many characters of a label fit side by side."""
SHORTEST_LABEL: Final = 8


def draw(facts: dict[str, Any], file: Path) -> None:
    """Draw the facts of ``demo.json`` into a PNG file."""
    mpl.rc("font", family="DejaVu Sans", size=11)
    mpl.rc("text", color=INK)
    mpl.rc("axes", edgecolor=FAINT, labelcolor=INK)
    figure = Figure(figsize=(13, 6.4), dpi=150, facecolor="white")
    axes = figure.add_axes((0.07, 0.14, 0.91, 0.64))
    end = facts["acts"][-1]["ended"]
    _shares(axes, facts, end)
    _asked(axes, facts["weights"], end)
    _acts(axes, facts["acts"], end)
    _frame(axes, end)
    _titles(figure, facts)
    figure.savefig(file)


def _shares(axes: Axes, facts: dict[str, Any], end: float) -> None:
    edges = [*(part["from"] for part in facts["shares"]), end]
    canary = [100 * part["version_2"] for part in facts["shares"]]
    axes.axhspan(0, 100, color=STABLE, linewidth=0, label="served by version 1")
    axes.stairs(canary, edges, fill=True, color=CANARY, linewidth=0, label="served by version 2")


def _asked(axes: Axes, weights: list[dict[str, float]], end: float) -> None:
    seconds = [point["second"] for point in weights]
    asked = [point["weight"] for point in weights]
    axes.step([*seconds, end], [*asked, asked[-1]], where="post", color=ASKED, linewidth=2.4, label="weight asked for")
    for second, weight in zip(seconds[1:], asked[1:], strict=True):
        killed = weight == 0
        axes.annotate(
            "killed" if killed else f"{weight:g}%",
            (second, weight),
            xytext=(6 if killed else -6, -14 if weight > 85 else 7),
            textcoords="offset points",
            ha="left" if killed else "right",
            color=ASKED,
            fontweight="bold",
        )


def _acts(axes: Axes, acts: list[dict[str, Any]], end: float) -> None:
    """A line where each act begins, and its number and title above."""
    top = axes.get_xaxis_transform()
    for number, act in enumerate(acts, start=1):
        axes.axvline(act["began"], color="white" if number > 1 else FAINT, linewidth=1.2, alpha=0.9)
        axes.plot([act["began"]] * 2, [1.0, 1.17], transform=top, color=FAINT, linewidth=1, clip_on=False)
        room = max(SHORTEST_LABEL, int(CHARACTERS * (act["ended"] - act["began"]) / end))
        label = f"{number}\n{textwrap.fill(act['title'], room)}"
        axes.annotate(
            label,
            (act["began"], 1.17),
            xycoords=top,
            xytext=(5, 0),
            textcoords="offset points",
            va="top",
            fontsize=9,
            linespacing=1.25,
        )


def _frame(axes: Axes, end: float) -> None:
    axes.set_xlim(0, end)
    axes.set_ylim(0, 100)
    axes.set_xlabel("seconds")
    axes.set_yticks([0, 25, 50, 75, 100], ["0%", "25%", "50%", "75%", "100%"])
    axes.set_ylabel("share of requests")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False)


def _titles(figure: Figure, facts: dict[str, Any]) -> None:
    figure.text(0.06, 0.955, "Who gets version 2", fontsize=17, fontweight="bold", va="center")
    said = (
        f"{facts['requests']:,} requests of {facts['users']} users through Envoy, each decided by Dropout: "
        f"{facts['errors']} errors, {facts['fallbacks']} fallbacks"
    )
    figure.text(0.98, 0.955, said, color=FAINT, va="center", ha="right")


def main() -> None:
    """Draw the facts in the first file into the second."""
    facts, picture = Path(sys.argv[1]), Path(sys.argv[2])
    draw(orjson.loads(facts.read_bytes()), picture)


if __name__ == "__main__":
    main()
