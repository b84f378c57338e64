"""A clock that tests own."""

from __future__ import annotations


class FakeClock:
    """A ``Clock`` that stands still until a test moves it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._monotonic = now

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
        self._monotonic += seconds

    def set_back(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._now -= seconds

    def sleep(self, seconds: float) -> None:
        """Let time pass, instead of waiting for it."""
        self.advance(seconds)
