"""What is wrong with a followed folder, as it is told to people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from extproc.errors import Fault


class Refusals:
    """The faults of the folder of ``what``, as they are now: each is told once while it lasts.

    ``refused`` hears of each edit that is not taken over, ``say`` writes why for people.
    """

    def __init__(self, what: str, *, refused: Callable[[], None], say: Callable[[str], None]) -> None:
        self._what = what
        self._refused = refused
        self._say = say
        self.faults: Sequence[Fault] = ()

    def note(self, faults: Sequence[Fault]) -> None:
        """These are all that there are now."""
        if list(faults) == list(self.faults):
            return
        told, self.faults = set(self.faults), faults
        if faults:
            self._refused()
        for fault in faults:
            if fault not in told:
                self._say(f"{self._what}: {fault}")
