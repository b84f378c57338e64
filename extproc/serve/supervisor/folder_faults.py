"""What is wrong with a followed folder, as it is told to people."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from extproc.errors import Fault
from extproc.trouble import Troubles


class FolderFaults:
    """The faults of the folder of ``what``, as they are now: each is told once while it lasts, and so is their end.

    ``refused`` hears of each edit that is not taken over, ``warn`` writes why for people. Faults with one of the codes
    ``expected`` are told, and refuse nothing.
    """

    def __init__(
        self, what: str, *, refused: Callable[[], None], warn: Callable[[str], None], expected: Collection[str] = ()
    ) -> None:
        self._refused = refused
        self._expected = expected
        self._what = what
        self._troubles = Troubles(warn)
        self.faults: Sequence[Fault] = ()

    def note(self, faults: Sequence[Fault]) -> None:
        """These are all that there are now."""
        if list(faults) == list(self.faults):
            return
        before, after = self._refusals(self.faults), self._refusals(faults)
        self.faults = faults
        if after and after != before:
            self._refused()
        self._troubles.note(self._what, *map(str, faults))

    def _refusals(self, faults: Sequence[Fault]) -> Sequence[Fault]:
        return [fault for fault in faults if fault.code not in self._expected]
