"""What entities may take of a worker together: those that somebody vouches for apart from those that anybody sends.

Whoever sends a million entities has a million reads to cause, and as many answers to be remembered. What comes from a
header that a client may write takes a part of the cache and of the reads that is its own, so that it costs the others
nothing, and the store no more than a stated number of reads a second.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from extproc.datapath.feature_cache import FeatureCache


class ReadRate:
    """At most ``per_second`` reads a second, and as many at once after a second without any; 0 is no limit."""

    def __init__(self, per_second: float, monotonic: Callable[[], float]) -> None:
        self._per_second = per_second or inf
        self._monotonic = monotonic
        self._left = self._per_second
        self._at = monotonic()

    def take(self) -> bool:
        """Whether there may be one more now."""
        now = self._monotonic()
        if self._per_second < inf:
            self._left = min(self._per_second, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class FeatureShare:
    """A part of the cache, how many reads may be under way, how many there may be a second. ``limited``: too many.

    ``pending`` is how many are under way.
    """

    __slots__ = ("cache", "limited", "max_pending", "pending", "rate")

    def __init__(self, cache: FeatureCache, max_pending: int, rate: ReadRate) -> None:
        self.cache = cache
        self.max_pending = max_pending
        self.rate = rate
        self.pending = 0
        self.limited = 0
