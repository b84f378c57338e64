"""What labels said about one arm: exact counts by group of units, from which every rate and its spread follow."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class LabelTotals:
    """The labels of one arm in one epoch.

    ``confusion`` are [true positives, false positives, true negatives, false negatives] by group of units.
    ``outcomes`` are [count, sum] of each numeric outcome, by its name and then by group.
    """

    confusion: dict[int, list[int]] = field(default_factory=dict)
    outcomes: dict[str, dict[int, list[float]]] = field(default_factory=dict)
