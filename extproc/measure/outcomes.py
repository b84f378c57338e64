"""What became of a version's requests lately: counts in cells of one second of bounded size, and failures in a row."""

from __future__ import annotations

from enum import Enum, auto
from math import ceil, inf
from typing import Final, NamedTuple

MAX_CELLS: Final = 120


class Counts(NamedTuple):
    """Outcomes, and how many of them failed."""

    requests: int = 0
    failures: int = 0

    @property
    def rate(self) -> float:
        """The share that failed, 0 of none."""
        return self.failures / self.requests if self.requests else 0.0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(self.requests + other.requests, self.failures + other.failures)

    def since(self, earlier: Counts) -> Counts:
        """What came after ``earlier``, which was counted by the same."""
        return Counts(self.requests - earlier.requests, self.failures - earlier.failures)


class End(Enum):
    """How a request ended, as far as it is held for or against a version."""

    ANSWERED = auto()
    FAILED = auto()
    ABANDONED = auto()


class Ends(NamedTuple):
    """How requests ended: the outcomes that they came to, and beside them how many were abandoned by their clients."""

    outcomes: Counts = Counts()
    abandoned: int = 0

    @property
    def left(self) -> Counts:
        """All of them, of which those that were abandoned are what failed."""
        return Counts(self.outcomes.requests + self.abandoned, self.abandoned)

    def plus(self, other: Ends) -> Ends:
        """Both together."""
        return Ends(self.outcomes.plus(other.outcomes), self.abandoned + other.abandoned)

    def since(self, earlier: Ends) -> Ends:
        """What came after ``earlier``, which was counted by the same."""
        return Ends(self.outcomes.since(earlier.outcomes), self.abandoned - earlier.abandoned)


class FailureStreak:
    """Failures in a row: ``length`` is how many since the last success. Times are monotonic seconds."""

    __slots__ = ("_succeeded_at", "length")

    def __init__(self) -> None:
        self.length = 0
        self._succeeded_at = -inf

    def add(self, now: float, *, failed: bool, count: int, since: float | None = None) -> None:
        """Go on with ``count`` outcomes of one kind.

        Of failures that are told long after the requests, ``since`` says when those began: a success that came
        meanwhile stands between them and whatever else failed.
        """
        if not failed:
            self.length, self._succeeded_at = 0, now
        elif since is None or self._succeeded_at < since:
            self.length += count


class Window:
    """The outcomes of one version in the last ``seconds``, and its failures in a row. Times are monotonic seconds.

    The cell under way counts, so a window of ten seconds holds what came in the last nine to ten. One that is longer
    than ``MAX_CELLS`` seconds has as many cells, wider ones.
    """

    __slots__ = ("_all_failures", "_all_requests", "_cell", "_cells", "_failures", "_requests", "_width", "row")

    def __init__(self, seconds: float) -> None:
        self._width = max(1, ceil(seconds / MAX_CELLS))
        # Requests and failures of cell i are at 2 * i and 2 * i + 1.
        self._cells = [0, 0] * max(1, ceil(seconds / self._width))
        self._cell = 0
        self._requests = self._failures = self._all_requests = self._all_failures = 0
        self.row = FailureStreak()

    @property
    def total(self) -> Counts:
        """All that was ever counted."""
        return Counts(self._all_requests, self._all_failures)

    def add(self, now: float, *, failed: bool, count: int = 1, since: float | None = None) -> None:
        """Count ``count`` outcomes of one kind; ``since`` as in ``FailureStreak.add``."""
        failures = count if failed else 0
        at = 2 * (self._slide(now) % (len(self._cells) // 2))
        self._cells[at] += count
        self._cells[at + 1] += failures
        self._requests += count
        self._failures += failures
        self._all_requests += count
        self._all_failures += failures
        self.row.add(now, failed=failed, count=count, since=since)

    def counts(self, now: float) -> Counts:
        """The outcomes in the window that ends now."""
        self._slide(now)
        return Counts(self._requests, self._failures)

    def _slide(self, now: float) -> int:
        """Let the cells that are too old go; the number of the cell under way."""
        cell, cells = int(now) // self._width, len(self._cells) // 2
        if cell <= self._cell:
            return self._cell
        for passed in range(max(self._cell + 1, cell - cells + 1), cell + 1):
            at = 2 * (passed % cells)
            self._requests -= self._cells[at]
            self._failures -= self._cells[at + 1]
            self._cells[at] = self._cells[at + 1] = 0
        self._cell = cell
        return cell
