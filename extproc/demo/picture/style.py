"""Colours, and what all panels have in common."""

from __future__ import annotations

from typing import Final

from matplotlib.axes import Axes

INK: Final = "#1f2933"
FAINT: Final = "#8a97a5"
ASKED: Final = "#e76f51"
AREAS: Final = {"1": "#d5dde5", "2": "#2a9d8f", "3": "#e9b44c", "4": "#8d6a9f"}
"""By version."""
LINES: Final = {**AREAS, "1": FAINT, "3": "#d18f1d"}


def percent_axis(axes: Axes, label: str) -> None:
    """Shares of 0 to 100 percent upwards, and no frame on the right."""
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 25, 50, 75, 100], ["0%", "25%", "50%", "75%", "100%"])
    axes.set_ylabel(label)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
