"""A clock that tests own."""

from __future__ import annotations


class FakeClock:
    """Stands still until a test moves it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._monotonic = now

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._monotonic += seconds

    def set_back(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._now -= seconds

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)
