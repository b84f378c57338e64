"""Another store in the place of the one that was opened: what an adapter keeps in mind when it turns to it."""

from __future__ import annotations

from typing import Final

_TURN: Final = 1 << 40
"""With each store that took another's place, resource versions lie this much higher than they are stored: those that
were read before are none that any row has."""


class Turns:
    """How often an adapter turned to another store, and whether its follower has all of the one that is there.

    ``base`` is to be added to every revision of a row that is given out, and of the last document. ``whole`` says that
    the follower of changes has to be given everything.
    """

    def __init__(self) -> None:
        self.base = 0
        self.whole = False

    def turn(self) -> None:
        """Another store is the one from now on."""
        self.base += _TURN
        self.whole = True

    def taken(self, base: int) -> None:
        """The follower has everything of the store whose ``base`` it was."""
        self.whole = self.whole and base != self.base

    def is_complete(self, since: int, revision: int, forgotten: int = 0) -> bool:
        """Whether the changes after ``since`` of a store at ``revision`` have to be everything that there is.

        Of what was deleted up to ``forgotten`` nobody knows any more.
        """
        return self.whole or since == 0 or since < forgotten or since > revision
