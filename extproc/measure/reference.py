"""What a feature's values are held against: those of a reference, once read."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

from extproc.measure.feature_sample import CountedValue

BINS: Final = 10
"""Into how many parts the numbers of a reference fall, each with about as many values."""

MOST_CATEGORIES: Final = 20
"""How many texts of a reference are told apart, the most frequent. So many different numbers are no more than that."""


@dataclass(frozen=True, slots=True)
class ReferenceValues:
    """The values of one feature in ``rows`` rows, of which ``present`` have one.

    ``numbers`` are they in order, if all are numbers. ``edges`` part those into bins: each is the largest value of its
    bin, and what is above the last is one more. Texts, and numbers of which few are different, are ``categories`` by
    how often each came; beside those that are told apart there is one rest.
    """

    rows: int
    present: int
    numbers: Sequence[float]
    edges: Sequence[float]
    categories: Mapping[str, int]

    @classmethod
    def of(cls, values: Iterable[CountedValue]) -> Self:
        """The reference that ``values`` are, as ``counted_value`` has them."""
        found = list(values)
        there = [value for value in found if value is not None]
        numbers = sorted(value for value in there if not isinstance(value, str))
        if len(numbers) < len(there):
            numbers = []
        if len(set(numbers)) > MOST_CATEGORIES:
            return cls(len(found), len(there), array("d", numbers), _edges(numbers), {})
        told_apart = Counter(as_text(value) for value in there).most_common(MOST_CATEGORIES)
        return cls(len(found), len(there), array("d", numbers), (), dict(told_apart))

    @property
    def missing(self) -> int:
        """In how many rows there is no value."""
        return self.rows - self.present

    @property
    def is_constant(self) -> bool:
        """Whether there is one value, or none."""
        return len(self.categories) == 1 and self.categories[next(iter(self.categories))] == self.present

    def by_bin(self) -> list[int]:
        """How many values are in each bin."""
        if self.categories:
            return [*self.categories.values(), self.present - sum(self.categories.values())]
        below = [0, *(bisect_right(self.numbers, edge) for edge in self.edges), len(self.numbers)]
        return [end - start for start, end in pairwise(below)]

    def binned(self, values: Iterable[float | str]) -> list[int]:
        """How many of ``values`` are in each bin. A text is above all numbers."""
        counts = [0] * (len(self.categories or self.edges) + 1)
        places = {text: place for place, text in enumerate(self.categories)}
        last = len(counts) - 1
        for value in values:
            if places:
                place = places.get(as_text(value), last)
            else:
                place = last if isinstance(value, str) else bisect_left(self.edges, value)
            counts[place] += 1
        return counts


def as_text(value: float | str) -> str:
    """A value among texts: 3.0 is ``3``."""
    return value if isinstance(value, str) else f"{value:.15g}"


def _edges(numbers: Sequence[float]) -> list[float]:
    """The largest value of each bin but the last, which is open.

    A value is never parted: where one came often its bin is larger, and there are fewer.
    """
    edges: list[float] = []
    for part in range(1, BINS):
        edge = numbers[len(numbers) * part // BINS]
        if edge != numbers[-1] and (not edges or edge > edges[-1]):
            edges.append(edge)
    return edges
