"""Room in the decision log, asked for before a decision is made: where a full log is more than a matter of counting.

``wait`` has the decision wait until its event finds room, and lets it go on when time is up: then the event is dropped
and counted. ``stable`` has it go to stable, because what cannot be written down may not be exposed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from extproc.datapath.sinks.event_queue import EventQueue

MAX_WAITING: Final = 4096
"""Decisions of a worker that wait for room; more are dropped from the log at once."""


class _Room:
    """``noted`` are the decisions that were made and have not been handed to ``queues``."""

    def __init__(self, queues: Sequence[EventQueue], noted: Callable[[], int]) -> None:
        self._queues = queues
        self._noted = noted

    def _left(self) -> int:
        """For how many more events every queue has room."""
        return min(queue.room for queue in self._queues) - self._noted()


class StableIfFull(_Room):
    """A ``LogRoom`` that exposes nothing without room for its event."""

    async def may_expose(self, within: float) -> bool:
        """Whether there is room; without waiting."""
        return self._left() > 0


class WaitIfFull(_Room):
    """A ``LogRoom`` in which decisions wait, those first that came first. Belongs to one event loop."""

    def __init__(self, queues: Sequence[EventQueue], noted: Callable[[], int]) -> None:
        super().__init__(queues, noted)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._called = 0  # whose turn it is, and who did not go on yet
        self._loop: asyncio.AbstractEventLoop | None = None
        for queue in queues:
            queue.on_room = self._made

    async def may_expose(self, within: float) -> bool:
        """Always, but maybe later."""
        if not self._waiting and self._left() > self._called:
            return True
        if len(self._waiting) < MAX_WAITING:
            try:
                async with asyncio.timeout(within):
                    await self._wait()
            except TimeoutError:
                pass  # the queue drops and counts it
        return True

    async def _wait(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        while True:
            turn = loop.create_future()
            self._waiting.append(turn)
            # Room may have been made since this was found to have none, when nobody was there to be told.
            if self._waiting[0] is turn and self._left() > self._called:
                self._waiting.popleft()
                return
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._called -= 1
                    self._call()  # its turn goes to the next
                raise
            self._called -= 1
            if self._left() > 0:
                return

    def _made(self) -> None:
        """A queue's thread made room."""
        if self._waiting and self._loop is not None:
            self._loop.call_soon_threadsafe(self._call)

    def _call(self) -> None:
        """Let go on as many as there is room for."""
        while self._waiting and self._called < self._left():
            turn = self._waiting.popleft()
            self._called += 1
            if not turn.done():  # else it is on its way out, and gives its turn on
                turn.set_result(None)
