"""How many different units drew each arm: exact for few, and an even sample of them for many.

The units with the smallest hashes are kept, at most ``KEPT`` of them ("bottom-k" or KMV: Bar-Yossef et al., "Counting
distinct elements in a data stream", 2002). Which units those are depends on nothing but the hash, so the samples of two
workers add up to the sample of both, and the arms' shares among the kept are the shares among all. The hash must say
nothing about the bucket: ``unit_hash`` is the part of the unit's draw that the bucket leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

KEPT: Final = 4096
"""Units in a sample. A sample ratio off by 5 % of the smaller arm shows with as many."""


_BUDGET: Final = 64 * KEPT
_FEWEST: Final = KEPT // 16


def units_each(samples: int) -> int:
    """How many units each of so many samples in one process may keep: all ``KEPT`` until there are more than 64."""
    return min(KEPT, max(_FEWEST, _BUDGET // max(samples, 1)))


class UnitSample:
    """Hashes of different units, each with the arm that it drew."""

    __slots__ = ("_arms", "_limit")

    def __init__(self, units: Iterable[tuple[int, str]] = ()) -> None:
        self._arms = dict(units)
        self._limit: int | None = None
        self._trim()

    def __len__(self) -> int:
        """How many units are held at the moment: up to twice as many as are kept."""
        return len(self._arms)

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

    def shrink(self, kept: int) -> None:
        """Keep ``kept`` units at most from among those met so far, where many samples share the memory."""
        self._trim(kept)

    def to_json(self) -> dict[str, Any]:
        """The kept units, by their hash, and the hash above which none are kept, if there is one."""
        self._trim()
        return {"limit": self._limit, "units": sorted(self._arms.items())}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """The reverse of ``to_json``."""
        sample = cls((int(unit), str(arm)) for unit, arm in body["units"])
        sample._limit = body["limit"]
        return sample

    def _trim(self, most: int = KEPT) -> None:
        """Leave the smallest hashes; with as many as are kept, larger ones have no place from now on."""
        if len(self._arms) >= most:
            kept = sorted(self._arms)[:most]
            self._limit = kept[-1] if self._limit is None else min(self._limit, kept[-1])
            self._arms = {unit: self._arms[unit] for unit in kept}
        if self._limit is not None:
            self._arms = {unit: arm for unit, arm in self._arms.items() if unit <= self._limit}
