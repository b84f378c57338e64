"""Who may have a connection: so many who are known, so many strangers, and who goes when one more comes.

Strangers take the place of strangers alone. Nobody who is being answered goes, but of one who has more places than
another who asks for one. Whoever lets us wait for longer than the phase that they are in allows is sent away.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import Enum, auto
from typing import Final, Protocol

TICK_SECONDS: Final = 1.0

_DESCRIPTORS_FOR_ONE: Final = 16
"""So many there must be for each who is known, and as many for each stranger: a connection that is relayed has three,
a process up to three listeners, and some are for everything else."""


class Phase(Enum):
    """What a connection is at."""

    ENTERING = auto()
    """It has not said yet who it is: a handshake, or a request's head."""
    IDLE = auto()
    RECEIVING = auto()
    DECIDING = auto()
    """It waits for us."""
    ANSWERING = auto()
    CLOSING = auto()


class Guest(Protocol):
    """A connection. ``since`` is the tick at which its phase began."""

    since: int

    @property
    def phase(self) -> Phase:
        """What it is at."""
        ...

    def turn_away(self) -> None:
        """There is no place for it: say so and close."""
        ...

    def give_up(self) -> None:
        """It let us wait for too long: say so and close."""
        ...

    def shutdown(self) -> None:
        """What it is at is the last."""
        ...

    def make_way(self) -> None:
        """Its place is somebody else's: close, and wait for nothing."""
        ...

    def abort(self) -> None:
        """Close now."""
        ...


class Admission:
    """All open connections of one server. Belongs to one event loop.

    ``strangers``: as many may wait that are not known yet; 0 where everybody is known. ``seconds`` is what each phase
    may take, looked at every ``tick_seconds``.
    """

    def __init__(
        self, places: int, strangers: int, seconds: Mapping[Phase, float], tick_seconds: float = TICK_SECONDS
    ) -> None:
        self._places = places
        self._places_of_strangers = strangers
        self._known: dict[Guest, str] = {}
        self._strangers: dict[Guest, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._seconds = seconds
        self._tick_seconds = tick_seconds
        self._emptied = asyncio.Event()
        self.tick = 0

    def __len__(self) -> int:
        """Open connections."""
        return len(self._known) + len(self._strangers)

    def __iter__(self) -> Iterator[Guest]:
        """Open connections, as they are now."""
        return iter([*self._known, *self._strangers])

    def admit(self, guest: Guest) -> bool:
        """Count a new connection; at the limit it takes the place of an older one, or is turned away."""
        among, places = (
            (self._strangers, self._places_of_strangers) if self._places_of_strangers else (self._known, self._places)
        )
        if not self._make_room(among, places):
            guest.turn_away()
            return False
        among[guest] = ""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick_seconds, self._on_time)
        return True

    def introduce(self, guest: Guest, who: str = "") -> bool:
        """A stranger is known from now on, as ``who`` if that is said; False while there is no place for them."""
        if guest not in self._strangers:
            return guest in self._known
        if not (self._make_room(self._known, self._places) or self._share(who)):
            return False
        del self._strangers[guest]
        self._known[guest] = who
        return True

    def knows(self, guest: Guest) -> bool:
        """Whether it was introduced."""
        return guest in self._known

    def forget(self, guest: Guest) -> None:
        """It is closed."""
        self._known.pop(guest, None)
        self._strangers.pop(guest, None)
        if not len(self):
            self._emptied.set()

    def fit(self, descriptors: int) -> None:
        """Have no more places than this process may have descriptors for."""
        places = max(1, descriptors // _DESCRIPTORS_FOR_ONE)
        self._places = min(self._places, places)
        self._places_of_strangers = min(self._places_of_strangers, places)

    async def empty(self, seconds: float) -> None:
        """Have every connection end: what it is at is the last, and after ``seconds`` nothing is waited for."""
        for guest in self:
            guest.shutdown()
        if len(self):
            self._emptied.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), seconds)
        for guest in self:
            guest.abort()
            self.forget(guest)

    def sweep(self) -> None:
        """One tick is over: give up those who let us wait for too long."""
        self.tick += 1
        for guest in self:
            limit = self._seconds.get(guest.phase)
            if limit is not None and (self.tick - guest.since) * self._tick_seconds > limit:
                guest.give_up()

    def _on_time(self) -> None:
        self.sweep()
        self._timer = asyncio.get_running_loop().call_later(self._tick_seconds, self._on_time) if len(self) else None

    def _share(self, who: str) -> bool:
        """Whether the oldest of whoever has the most places gave up its own, and ``who`` has no more than they then."""
        places = Counter(self._known.values())
        ((most, number),) = places.most_common(1)
        if number < places[who] + 2:
            return False
        self._send_away(next(guest for guest, owner in self._known.items() if owner == most))
        return True

    def _make_room(self, among: dict[Guest, str], places: int) -> bool:
        """Whether there is a place; the oldest of ``among`` that waits for its peer gives up its own."""
        if len(among) < places:
            return True
        oldest = next((other for other in among if other.phase is not Phase.DECIDING), None)
        if oldest is None:
            return False
        self._send_away(oldest)
        return True

    def _send_away(self, guest: Guest) -> None:
        self.forget(guest)
        guest.make_way()
