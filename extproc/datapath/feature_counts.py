"""What is counted of each view that is read: hits, reads, how long they take, how old values are, and which are stale.

A job that brings values up to date and has stopped is seen here first: where a rollout has a ``maxAge``, ever more of
what is read of its view is too old.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import Final

from extproc.names import Reason

STALE_WINDOW_SECONDS: Final = 30.0
STALE_LEAST_READS: Final = 20
"""A window that has fewer reads goes on: they say nothing of a view."""

LATENCY_BOUNDS: Final = (*(1e-4, 2.5e-4, 5e-4), *(1e-3, 2.5e-3, 5e-3), *(1e-2, 2.5e-2, 5e-2), *(0.1, 0.25, 1.0, 5.0))
AGE_BOUNDS: Final = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0, 604_800.0)
"""Upper bounds in seconds: from what is written as it happens to what a weekly job writes."""


class Spread:
    """Counts of seconds by their upper ``bounds`` (the last count is of what is above all), and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def note(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


class ViewCounts:
    """Of one view, since it was first read. ``hits`` are requests, ``misses`` reads of the store.

    ``errors`` are of those the ones that brought nothing. ``aged`` are requests that got an answer and have a
    ``maxAge``, ``stale`` of those the ones to which a value was too old.
    ``latency`` is of reads that were answered, ``age`` that of values as the store gave them.
    ``is_stale`` says that in the last window too large a share of the requests met a value that was too old.
    """

    __slots__ = ("_before", "_began", "age", "aged", "errors", "hits", "is_stale", "latency", "misses", "stale")

    def __init__(self) -> None:
        self.hits = self.misses = self.errors = self.aged = self.stale = 0
        self.latency = Spread(LATENCY_BOUNDS)
        self.age = Spread(AGE_BOUNDS)
        self.is_stale = False
        self._began: float | None = None
        self._before = (0, 0)

    def note_age(self, fault: Reason | None) -> None:
        """Count a request with a ``maxAge``."""
        self.aged += 1
        if fault is Reason.FEATURE_STALE:
            self.stale += 1

    def look(self, now: float, share: float) -> None:
        """Judge the window, if it is over at ``now`` (monotonic seconds): stale is more than ``share``, 0 to 1."""
        if self._began is None:
            self._began = now
            return
        asked, stale = self.aged - self._before[0], self.stale - self._before[1]
        if now - self._began < STALE_WINDOW_SECONDS or asked < STALE_LEAST_READS:
            return
        self.is_stale = stale > share * asked
        self._began, self._before = now, (self.aged, self.stale)


class FeatureViews(dict[str, ViewCounts]):
    """The counts by the view's name: of as many views as documents name, and those alone after ``retain``."""

    def __missing__(self, name: str) -> ViewCounts:
        counts = self[name] = ViewCounts()
        return counts

    def retain(self, names: Collection[str]) -> None:
        """Have counts of these views, from 0 on if there were none, and of no others."""
        for gone in self.keys() - set(names):
            del self[gone]
        for name in names:
            self[name]
