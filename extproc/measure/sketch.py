"""Latencies as counts in buckets that grow geometrically: mergeable, bounded, and exact to a known share.

Bucket i holds the values in ``(GROWTH**(i-1), GROWTH**i]`` milliseconds; its middle differs from any of them by at most
``RELATIVE_ERROR``. The construction is that of DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable
quantile sketch with relative-error guarantees", VLDB 2019), with limits in place of its collapsing.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, log
from typing import Final, Self

RELATIVE_ERROR: Final = 0.05
"""How far a quantile may be from the value that has it."""

GROWTH: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
LOWEST_MS: Final = 0.1
HIGHEST_MS: Final = 1_000_000.0

_LOG_GROWTH: Final = log(GROWTH)


def _bucket(milliseconds: float) -> int:
    return ceil(log(min(max(milliseconds, LOWEST_MS), HIGHEST_MS)) / _LOG_GROWTH)


class LatencySketch:
    """How often each latency was seen. Values below ``LOWEST_MS`` or above ``HIGHEST_MS`` count as those."""

    __slots__ = ("_counts",)

    def __init__(self, counts: Iterable[tuple[int, int]] = ()) -> None:
        self._counts = dict(counts)

    def add(self, milliseconds: float, count: int = 1) -> None:
        """Count a latency, or ``count`` of the same."""
        bucket = _bucket(milliseconds)
        self._counts[bucket] = self._counts.get(bucket, 0) + count

    def merge(self, other: LatencySketch) -> None:
        """Count all that ``other`` has counted."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    @property
    def count(self) -> int:
        """How many latencies were counted."""
        return sum(self._counts.values())

    def quantile(self, share: float) -> float | None:
        """The latency in milliseconds that ``share`` (0 to 1) of all do not exceed; None before the first."""
        rank = share * max(self.count - 1, 0)
        seen = 0
        for bucket, count in sorted(self._counts.items()):
            seen += count
            if seen > rank:
                return float(2 * GROWTH**bucket / (GROWTH + 1))
        return None

    def to_json(self) -> list[tuple[int, int]]:
        """The counts by bucket, in order."""
        return sorted(self._counts.items())

    @classmethod
    def from_json(cls, pairs: Iterable[tuple[int, int]]) -> Self:
        """The reverse of ``to_json``."""
        return cls((int(bucket), int(count)) for bucket, count in pairs)
