"""Taking note of decisions when their replies are on the way, several at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from extproc.datapath.ports import DecisionRecord, DecisionSink

MANY: Final = 16
"""Decisions that are enough: more would hold up the next request for longer than they save."""

LONGEST_SECONDS: Final = 0.01
"""How long a decision waits for others."""


class BatchingSink:
    """Hands decisions on to ``sinks`` when there are ``MANY``, or after ``LONGEST_SECONDS``; a ``DecisionSink``.

    A server that waits for each message runs everything cold. What the sinks need of code and data is fetched into
    the processor's caches once for all that wait, and takes the place of what replies need as seldom: a twenty-fifth of
    what a request costs over gRPC, where requests come one by one. A process that is killed takes what waits with it.
    Belongs to one event loop.
    """

    def __init__(self, sinks: Sequence[DecisionSink]) -> None:
        self._sinks = tuple(sinks)
        self._waiting: list[DecisionRecord] = []
        self._due: asyncio.Handle | None = None

    @property
    def waiting(self) -> int:
        """Decisions that were not handed on yet."""
        return len(self._waiting)

    def record(self, decided: DecisionRecord) -> None:
        """Take note of one decision, soon."""
        self._waiting.append(decided)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(LONGEST_SECONDS, self.flush)
        elif len(self._waiting) == MANY:
            self._due.cancel()
            self._due = asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Hand on now what waits."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        waiting, self._waiting = self._waiting, []
        for sink in self._sinks:
            for decided in waiting:
                sink.record(decided)
