"""The decision log: one OPA decision-log event per decision, made on the loop and taken away by sinks.

The loop makes a decision an event soon (``BatchingSink``), while what it is made of may still be in the processor's
caches. A thread that made it would find it cold, and would hold up the loop for as long, since only one of them can run
Python at a time. Its time is that at which it is made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from extproc.clock import Clock
from extproc.datapath.ports import DecisionRecord
from extproc.datapath.sinks.decision_event import EventEncoder
from extproc.datapath.sinks.event_queue import Event, EventQueue

logger = logging.getLogger(__name__)


class DecisionLog:
    """Puts each decision's event, made once, into all ``queues``, each before a sink; a ``DecisionSink``.

    Events are numbered from 1 on, those too that find no room: what is missing in a log is missing among the numbers.
    """

    def __init__(self, encoder: EventEncoder, queues: Sequence[EventQueue], clock: Clock) -> None:
        self.queues = tuple(queues)
        self._encoder = encoder
        self._clock = clock
        self._number = 0
        self._refused = False

    def record(self, decided: DecisionRecord) -> None:
        """Queue one decision, or drop it where the queue is full."""
        event: Event | None = None
        self._number += 1
        for queue in self.queues:
            if queue.admit():
                try:
                    event = event or self._encoder.encode(self._clock.now(), decided, self._number)
                    queue.put(event)
                except Exception:
                    self._refuse(queue)

    def reopen(self) -> None:
        """Have sinks open again what they opened by name."""
        for queue in self.queues:
            queue.reopen()

    async def close(self, within: float) -> None:
        """Hand on what is queued, all sinks at once, within as many seconds."""
        await asyncio.gather(*(asyncio.to_thread(queue.close, within) for queue in self.queues))

    def _refuse(self, queue: EventQueue) -> None:
        """A bug that may meet every request: told once."""
        queue.drop()
        if not self._refused:
            self._refused = True
            logger.exception("a decision could not be written as JSON; others like it are only counted")
