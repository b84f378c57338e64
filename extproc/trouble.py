"""What is wrong for a while, as the log tells it: once when it begins, and once when it is over.

Both are warnings: whoever has the log show no less must not be left with a trouble that ended long ago.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class _Lasting(NamedTuple):
    codes: frozenset[str]
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
        self.note_codes(subject, {fault: fault for fault in faults})

    def drop(self, subject: str, why: str) -> None:
        """Nothing can be wrong with ``subject`` any more, and it is not well either: ``why`` is told."""
        if self._lasting.pop(subject, None) is not None:
            self._warn(f"{subject}: {why}")

    def note_codes(self, subject: str, faults: Mapping[str, str]) -> None:
        """``note``, by code: what is told again in other words, such as other numbers, is the same trouble.

        A message that begins with the subject is a sentence of its own.
        """
        before = self._lasting.pop(subject, None)
        told, since = before or _Lasting(frozenset(), self._monotonic())
        for code, message in faults.items():
            if code not in told:
                self._warn(message if message.startswith(f"{subject} ") else f"{subject}: {message}")
        if faults:
            self._lasting[subject] = _Lasting(frozenset(faults), since)
        elif told:
            self._warn(f"{subject}: well again after {self._monotonic() - since:.1f} s")
