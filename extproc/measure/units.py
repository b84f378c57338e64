"""How many different units drew each arm: exact for few, and an even sample of them for many.

The units with the smallest hashes are kept, at most ``KEPT`` of them ("bottom-k" or KMV: Bar-Yossef et al., "Counting
distinct elements in a data stream", 2002). Which units those are depends on nothing but the hash, so the samples of two
workers add up to the sample of both, and the arms' shares among the kept are the shares among all. The hash must say
nothing about the bucket: ``unit_hash`` is the part of the unit's draw that the bucket leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Self

KEPT: Final = 4096
"""Units in a sample. A sample ratio off by 5 % of the smaller arm shows with as many."""


class UnitSample:
    """Hashes of different units, each with the arm that it drew."""

    __slots__ = ("_arms", "_limit")

    def __init__(self, units: Iterable[tuple[int, str]] = ()) -> None:
        self._arms = dict(units)
        self._limit: int | None = None
        self._trim()

    def add(self, unit_hash: int, arm: str) -> bool:
        """Count a unit; whether the sample changed. A unit that came before costs next to nothing."""
        if (self._limit is not None and unit_hash >= self._limit) or unit_hash in self._arms:
            return False
        self._arms[unit_hash] = arm
        if len(self._arms) >= 2 * KEPT:
            self._trim()
        return True

    def merge(self, other: UnitSample) -> None:
        """Count the units of ``other`` too."""
        self._arms |= other._arms
        if other._limit is not None:
            self._limit = other._limit if self._limit is None else min(self._limit, other._limit)
        self._trim()

    def counts(self) -> dict[str, int]:
        """Different units by arm, among those kept."""
        self._trim()
        counts: dict[str, int] = {}
        for arm in self._arms.values():
            counts[arm] = counts.get(arm, 0) + 1
        return counts

    def to_json(self) -> list[tuple[int, str]]:
        """The kept units, by their hash."""
        self._trim()
        return sorted(self._arms.items())

    @classmethod
    def from_json(cls, units: Iterable[tuple[int, str]]) -> Self:
        """The reverse of ``to_json``."""
        return cls((int(unit), str(arm)) for unit, arm in units)

    def _trim(self) -> None:
        """Leave the smallest hashes; with as many as are kept, larger ones have no place from now on."""
        if len(self._arms) >= KEPT:
            kept = sorted(self._arms)[:KEPT]
            self._limit = kept[-1] if self._limit is None else min(self._limit, kept[-1])
            self._arms = {unit: self._arms[unit] for unit in kept}
        if self._limit is not None:
            self._arms = {unit: arm for unit, arm in self._arms.items() if unit <= self._limit}
