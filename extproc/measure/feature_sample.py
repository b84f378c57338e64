"""The values of features that decisions were made with: of few units all, of many an even sample of the units.

The units with the smallest hashes are kept with the values of their last decision ("bottom-k" or KMV: Bar-Yossef et
al., "Counting distinct elements in a data stream", 2002). Which units those are depends on nothing but the hash, so the
samples of two workers add up to the sample of both, without an error of their own. A unit counts once, however many
requests it sends: users, not requests, differ independently of one another. What is kept are the values themselves, so
ties stay ties, a year of birth is as sharp as a share, and texts need no list of those that are frequent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Final, Self

KEPT: Final = 2048
"""Units of one arm that are kept."""

MOST_FEATURES: Final = 16
"""Features of one rollout that are kept, the first in order."""

LONGEST_TEXT: Final = 64
"""Characters of a text that are kept."""

CountedValue = float | str | None
"""A number, a text, or None: there was none."""


def counted_value(value: Any) -> CountedValue:
    """What counts of a feature's value: a finite number, a truth value as a text, the beginning of a text.

    None for anything else: what is no number (NaN) and what is infinite is missing, and so are lists and objects.
    """
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, str):
        return value[:LONGEST_TEXT]
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) else None


class FeatureSample:
    """Hashes of different units, each with the values of the features ``names`` in its last decision."""

    __slots__ = ("_limit", "_units", "names")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._units: dict[int, tuple[CountedValue, ...]] = {}
        self._limit: int | None = None

    def takes(self, unit_hash: int) -> bool:
        """Whether the unit has a place in the sample; of most units of many, that is all that is ever asked."""
        return self._limit is None or unit_hash <= self._limit

    def add(self, unit_hash: int, values: tuple[CountedValue, ...]) -> bool:
        """Keep the values of a unit that ``takes``; whether they are others than were kept."""
        if self._units.get(unit_hash) == values:
            return False
        self._units[unit_hash] = values
        if len(self._units) >= 2 * KEPT:
            self._trim()
        return True

    def merge(self, other: FeatureSample) -> None:
        """Keep the units of ``other`` too, which has the same ``names`` and is the newer of the two."""
        self._units |= other._units
        if other._limit is not None:
            self._limit = other._limit if self._limit is None else min(self._limit, other._limit)
        self._trim()

    def units(self) -> dict[int, tuple[CountedValue, ...]]:
        """The values by unit: at most ``KEPT``."""
        self._trim()
        return dict(self._units)

    def to_json(self) -> dict[str, Any]:
        """The names, the units with their values, and the hash above which none are kept, if there is one."""
        self._trim()
        units = [[unit, *values] for unit, values in sorted(self._units.items())]
        return {"names": self.names, "limit": self._limit, "units": units}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """The reverse of ``to_json``."""
        sample = cls([str(name) for name in body["names"]])
        sample._units = {int(unit): tuple(values) for unit, *values in body["units"]}
        sample._limit = body["limit"]
        return sample

    @staticmethod
    def of_all(samples: Iterable[FeatureSample]) -> dict[int, tuple[CountedValue, ...]]:
        """An even sample of the units of all arms together, whose samples have the same ``names``.

        A small arm's sample reaches further than a large one's: all count as far as the one that reaches least far.
        """
        of_arms = list(samples)
        for sample in of_arms:
            sample._trim()
        limits = [sample._limit for sample in of_arms if sample._limit is not None]
        least = min(limits, default=None)
        return {
            unit: values
            for sample in of_arms
            for unit, values in sample._units.items()
            if least is None or unit <= least
        }

    def _trim(self) -> None:
        """Leave the smallest hashes; with as many as are kept, larger ones have no place from now on."""
        if len(self._units) >= KEPT:
            kept = sorted(self._units)[:KEPT]
            self._limit = kept[-1] if self._limit is None else min(self._limit, kept[-1])
        if self._limit is not None:
            self._units = {unit: values for unit, values in self._units.items() if unit <= self._limit}
