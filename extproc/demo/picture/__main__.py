"""``python -m extproc.demo.picture FACTS.json PICTURE.png``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import orjson
from matplotlib.figure import Figure

from extproc.demo.picture import by_hand, loops
from extproc.demo.picture.style import FAINT, INK

LEFT, WIDTH = 0.07, 0.91
HEIGHT_INCHES: Final = 13.6


def plot(facts: dict[str, Any], file: Path) -> None:
    """Draw the facts of ``demo.json`` into a PNG file."""
    mpl.rc("font", family="DejaVu Sans", size=11)
    mpl.rc("text", color=INK)
    mpl.rc("axes", edgecolor=FAINT, labelcolor=INK)
    figure = Figure(figsize=(13, HEIGHT_INCHES), dpi=150, facecolor="white")
    acts = facts["acts"]
    first = len(acts) - len(facts["rollouts"])
    _titles(figure, facts)
    by_hand.plot(figure.add_axes((LEFT, 0.69, WIDTH, 0.2)), facts, acts[:first])
    areas = [(LEFT, bottom, WIDTH, height) for bottom, height in ((0.36, 0.15), (0.205, 0.115), (0.05, 0.115))]
    loops.plot([figure.add_axes(area) for area in areas], facts, acts[first:], first)
    figure.savefig(file)


def _titles(figure: Figure, facts: dict[str, Any]) -> None:
    figure.text(0.02, 0.98, "Who gets which version", fontsize=17, fontweight="bold", va="center")
    said = (
        f"{facts['requests']:,} requests of {facts['users']} users through Envoy, each decided by Dropout: "
        f"{facts['fallbacks']} fallbacks"
    )
    figure.text(0.98, 0.98, said, color=FAINT, va="center", ha="right")
    figure.text(0.02, 0.95, "by hand: weights, a policy, features, a shadow, a kill", fontsize=12)
    figure.text(0.02, 0.625, "by itself: nobody touches anything but the documents", fontsize=12)


if __name__ == "__main__":
    plot(orjson.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]))
