"""When somebody who is asked is left alone for a while: a circuit, as in electrical ones, and the probes that close it.

Whoever is asked over the network, policy engine or feature store, is left alone when it does not answer in time, until
a probe, off the way of any request, is answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable
from typing import Final, Generic, TypeVar

WINDOW: Final = 16
"""The latest questions that a circuit goes by. No time is in it: at any rate of requests as many are spoilt."""

MOST_FAILED: Final = 8
"""So many of them without an answer in time open it."""

PROBE_SECONDS: Final = 0.5
"""Between two probes of who is left alone."""

_MAX_PROBES: Final = 16

Who = TypeVar("Who", bound=Hashable)
Sampled = TypeVar("Sampled")


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


class Sample(Generic[Sampled]):
    """What a probe asks: the last ``question`` that was answered in time, else the last that was not.

    One that takes for ever, which anybody may send, says nothing of who is asked.
    """

    __slots__ = ("_is_answered", "question")

    def __init__(self, question: Sampled) -> None:
        self.question = question
        self._is_answered = False

    def answered(self, question: Sampled) -> None:
        """In time."""
        self.question, self._is_answered = question, True

    def unanswered(self, question: Sampled) -> None:
        """Nobody has answered or will answer it."""
        if not self._is_answered:
            self.question = question


class Probes(Generic[Who]):
    """Probes of all that are left alone, several at most at a time: who comes back is not met by all at once.

    Belongs to one event loop.
    """

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._sleep = sleep
        self._probing: dict[Who, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(_MAX_PROBES)

    @property
    def left_alone(self) -> Collection[Who]:
        """Whom nobody asks but the probes."""
        return self._probing.keys()

    def begin(self, who: Who, is_well: Callable[[], Awaitable[bool]], over: Callable[[], None]) -> None:
        """Try ``is_well`` again and again until it is so, then call ``over``.

        That is called too when ``is_well`` raises, by a bug, or is cancelled: requests would find out again.
        """
        self._probing[who] = asyncio.get_running_loop().create_task(self._probe(who, is_well, over))

    async def close(self) -> None:
        """End them."""
        ending = [*self._probing.values()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _probe(self, who: Who, is_well: Callable[[], Awaitable[bool]], over: Callable[[], None]) -> None:
        answered = False
        try:
            while not answered:
                await self._sleep(PROBE_SECONDS)
                async with self._room:
                    answered = await is_well()
        finally:
            del self._probing[who]
            over()
