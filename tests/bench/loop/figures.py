"""What was measured of the loops, each figure with the bar that it must keep."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: ``value`` in ``unit`` is to be at most ``bar``, or at least if ``at_least``.

    ``name`` is its place in the report, parts of it with dots between; ``details`` stand there beside it.
    """

    name: str
    title: str
    value: float
    bar: float
    unit: str
    at_least: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether it keeps its bar."""
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def of_runs(name: str, title: str, runs: Sequence[float], bar: float, **details: Any) -> Figure:
    """Seconds of several runs: every one of them is to be at most ``bar``."""
    details |= {"median": round(statistics.median(runs), 3), "runs": [round(run, 3) for run in runs]}
    return Figure(name, title, max(runs), bar, "s", details=details)


def report(figures: Sequence[Figure]) -> dict[str, Any]:
    """The figures as JSON."""
    facts: dict[str, Any] = {}
    for figure in figures:
        *parts, last = figure.name.split(".")
        place = facts
        for part in parts:
            place = place.setdefault(part, {})
        value = round(figure.value, 4)
        place[last] = {"value": value, "bar": figure.bar, "unit": figure.unit, "met": figure.met, **figure.details}
    return facts


def show(console: Console, figures: Sequence[Figure]) -> None:
    """The table."""
    table = Table()
    for heading in ("the loops", "measured", "bar", ""):
        table.add_column(heading, justify="left" if heading in ("the loops", "") else "right", no_wrap=True)
    for figure in figures:
        bar = f"{'at least' if figure.at_least else 'at most'} {_shown(figure.bar)}"
        value = f"{_shown(figure.value)} {figure.unit}".rstrip()
        table.add_row(figure.title, value, bar, "" if figure.met else "missed")
    console.print(table)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
