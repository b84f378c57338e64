"""Who got version 2 over time, against the weight that was asked for."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Final

from matplotlib.axes import Axes

from extproc.demo.picture.style import AREAS, ASKED, FAINT, percent_axis

CHARACTERS: Final = 165
"""How many characters of a label fit side by side."""
SHORTEST_LABEL: Final = 8


def plot(axes: Axes, facts: dict[str, Any], acts: Sequence[dict[str, Any]]) -> None:
    """Draw what happened until the last of ``acts`` ended."""
    end = acts[-1]["ended"]
    _shares(axes, [part for part in facts["shares"] if part["to"] < end], end)
    _asked(axes, facts["weights"], end)
    _acts(axes, acts, end)
    axes.set_xlim(0, end)
    axes.set_xlabel("seconds", loc="right")
    percent_axis(axes, "share of requests")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=3, frameon=False)


def _shares(axes: Axes, shares: Sequence[dict[str, float]], end: float) -> None:
    edges = [*(part["from"] for part in shares), end]
    canary = [100 * part["version_2"] for part in shares]
    axes.axhspan(0, 100, color=AREAS["1"], linewidth=0, label="served by version 1")
    axes.stairs(canary, edges, fill=True, color=AREAS["2"], linewidth=0, label="served by version 2")


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


def _acts(axes: Axes, acts: Sequence[dict[str, Any]], end: float) -> None:
    """A line where each act begins, and its number and title above."""
    top = axes.get_xaxis_transform()
    for number, act in enumerate(acts, start=1):
        axes.axvline(act["began"], color="white" if number > 1 else FAINT, linewidth=1.2, alpha=0.9)
        axes.plot([act["began"]] * 2, [1.0, 1.27], transform=top, color=FAINT, linewidth=1, clip_on=False)
        room = max(SHORTEST_LABEL, int(CHARACTERS * (act["ended"] - act["began"]) / end))
        label = f"{number}\n{textwrap.fill(act['title'], room)}"
        axes.annotate(
            label,
            (act["began"], 1.27),
            xycoords=top,
            xytext=(5, 0),
            textcoords="offset points",
            va="top",
            fontsize=9,
            linespacing=1.25,
        )
