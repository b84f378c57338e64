"""When somebody who is asked is left alone for a while: a circuit, as in electrical ones."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW: Final = 16
"""The latest questions that a circuit goes by. No time is in it: at any rate of requests as many are spoilt."""

MOST_FAILED: Final = 8
"""So many of them without an answer in time open it."""


class Circuit:
    """Open, nobody is asked; whoever opened it closes it when a probe was answered."""

    __slots__ = ("_latest", "is_open")

    def __init__(self) -> None:
        self._latest: deque[bool] = deque(maxlen=WINDOW)
        self.is_open = False

    def note(self, *, in_time: bool) -> bool:
        """Count a question that was answered in time, or was not; whether that opened the circuit."""
        self._latest.append(in_time)
        if in_time or self.is_open or self._latest.count(False) < MOST_FAILED:
            return False
        self.is_open = True
        return True

    def close(self) -> None:
        """Ask again, and begin to count anew."""
        self._latest.clear()
        self.is_open = False
