"""What labels said about one arm: exact counts by group of units, from which every rate and its spread follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

TRUE_POSITIVE: Final = 0
FALSE_POSITIVE: Final = 1
TRUE_NEGATIVE: Final = 2
FALSE_NEGATIVE: Final = 3
"""Where each count stands in ``LabelTotals.confusion``."""


class Confusion(NamedTuple):
    """Predictions against what was true. A rate is None where there is nothing to divide by.

    The names and formulas are the usual ones: Fawcett, "An introduction to ROC analysis", 2006, figure 1.
    """

    true_positives: int = 0
    false_positives: int = 0
    true_negatives: int = 0
    false_negatives: int = 0

    @property
    def labels(self) -> int:
        """All of them."""
        return sum(self)

    @property
    def false_positive_rate(self) -> float | None:
        """FP / (FP + TN): the share of what is negative that was called positive."""
        return _ratio(self.false_positives, self.false_positives + self.true_negatives)

    @property
    def false_negative_rate(self) -> float | None:
        """FN / (FN + TP): the share of what is positive that was called negative."""
        return _ratio(self.false_negatives, self.false_negatives + self.true_positives)

    @property
    def precision(self) -> float | None:
        """TP / (TP + FP): the share of what was called positive that is."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """TP / (TP + FN): the share of what is positive that was called so."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)


@dataclass(frozen=True, slots=True)
class NumericOutcome:
    """A numeric outcome: how often, and the sum."""

    count: int = 0
    sum: float = 0.0

    @property
    def mean(self) -> float | None:
        """sum / count."""
        return _ratio(self.sum, self.count)


RATES: Final[Mapping[str, tuple[int, tuple[int, int]]]] = {
    "false_positive_rate": (FALSE_POSITIVE, (FALSE_POSITIVE, TRUE_NEGATIVE)),
    "false_negative_rate": (FALSE_NEGATIVE, (FALSE_NEGATIVE, TRUE_POSITIVE)),
    "precision": (TRUE_POSITIVE, (TRUE_POSITIVE, FALSE_POSITIVE)),
    "recall": (TRUE_POSITIVE, (TRUE_POSITIVE, FALSE_NEGATIVE)),
}
"""The rates by name: what is looked for, and among what."""


@dataclass(slots=True)
class LabelTotals:
    """The labels of one arm in one epoch.

    ``confusion`` are [true positives, false positives, true negatives, false negatives] by group of units.
    ``outcomes`` are [count, sum] of each numeric outcome, by its name and then by group.
    """

    confusion: dict[int, list[int]] = field(default_factory=dict)
    outcomes: dict[str, dict[int, list[float]]] = field(default_factory=dict)

    def total(self) -> Confusion:
        """The labels of all groups."""
        return Confusion(*(sum(column) for column in zip(*self.confusion.values(), strict=True)))

    @property
    def labels(self) -> int:
        """How many records counted: those that say what was true, or those with the outcome that most of them have.

        Exact where all records of an arm say the same kind of thing; at least so many where they do not.
        """
        return max(self.total().labels, *(self.outcome(name).count for name in self.outcomes), 0)

    def of_rate(self, name: str) -> Mapping[int, tuple[int, int]]:
        """By group of units: how many labels one of ``RATES`` is about, and how many of them are what it looks for."""
        part, among = RATES[name]
        return {
            group: (sum(counts[place] for place in among), counts[part]) for group, counts in self.confusion.items()
        }

    def outcome(self, name: str) -> NumericOutcome:
        """A numeric outcome over all groups; none of it if there is no such name."""
        groups = self.outcomes.get(name, {}).values()
        return NumericOutcome(int(sum(count for count, _ in groups)), sum(total for _, total in groups))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
