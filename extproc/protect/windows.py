"""What became of a version's requests lately: counts in cells of one second, of bounded size."""

from __future__ import annotations

from math import ceil
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

    def since(self, earlier: Counts) -> Counts:
        """What came after ``earlier``, which was counted by the same."""
        return Counts(self.requests - earlier.requests, self.failures - earlier.failures)


class Window:
    """The outcomes of one version in the last ``seconds``, and its failures in a row. Times are monotonic seconds.

    The cell under way counts, so a window of ten seconds holds what came in the last nine to ten. One that is longer
    than ``MAX_CELLS`` seconds has as many cells, wider ones. ``run`` counts failures since the last success, ``total``
    all that was ever counted.
    """

    __slots__ = ("_cell", "_cells", "_failures", "_requests", "_width", "run", "total")

    def __init__(self, seconds: float) -> None:
        self._width = max(1, ceil(seconds / MAX_CELLS))
        # Requests and failures of cell i are at 2 * i and 2 * i + 1.
        self._cells = [0, 0] * max(1, ceil(seconds / self._width))
        self._cell = 0
        self._requests = self._failures = 0
        self.run = 0
        self.total = Counts()

    def add(self, now: float, *, failed: bool, count: int = 1) -> None:
        """Count ``count`` outcomes of one kind."""
        failures = count if failed else 0
        at = 2 * (self._slide(now) % (len(self._cells) // 2))
        self._cells[at] += count
        self._cells[at + 1] += failures
        self._requests += count
        self._failures += failures
        self.run = self.run + count if failed else 0
        self.total = Counts(self.total.requests + count, self.total.failures + failures)

    def counts(self, now: float) -> Counts:
        """The outcomes in the window that ends now."""
        self._slide(now)
        return Counts(self._requests, self._failures)

    def _slide(self, now: float) -> int:
        """Let the cells that are too old go; the number of the cell under way."""
        cell, cells = int(now) // self._width, len(self._cells) // 2
        for passed in range(max(self._cell + 1, cell - cells + 1), cell + 1):
            at = 2 * (passed % cells)
            self._requests -= self._cells[at]
            self._failures -= self._cells[at + 1]
            self._cells[at] = self._cells[at + 1] = 0
        self._cell = max(self._cell, cell)
        return self._cell
