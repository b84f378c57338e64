"""What is wrong for a while, as the log tells it: once when it begins, and once when it is over.

Both are warnings: whoever has the log show no less must not be left with a trouble that ended long ago.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple


class _Lasting(NamedTuple):
    faults: frozenset[str]
    since: float


class Troubles:
    """What is wrong, by its subject; ``warn`` writes a line, and the clock gives ``monotonic`` seconds.

    A subject that nothing is wrong with takes no room.
    """

    def __init__(self, warn: Callable[[str], None], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._warn = warn
        self._monotonic = monotonic
        self._lasting: dict[str, _Lasting] = {}

    @property
    def subjects(self) -> list[str]:
        """Those that something is wrong with."""
        return list(self._lasting)

    def note(self, subject: str, *faults: str) -> None:
        """These are all that there are now: each is told once while it lasts, the end of the last with how long."""
        before = self._lasting.pop(subject, None)
        told, since = before or _Lasting(frozenset(), self._monotonic())
        for fault in dict.fromkeys(faults):
            if fault not in told:
                self._warn(f"{subject}: {fault}")
        if faults:
            self._lasting[subject] = _Lasting(frozenset(faults), since)
        elif told:
            self._warn(f"{subject}: well again after {self._monotonic() - since:.1f} s")
