"""Taking note of decisions when their replies are on the way, and of all that were made meanwhile at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from extproc.datapath.model import Decision, Facts, Request
from extproc.datapath.ports import DecisionSink
from extproc.snapshot.model import CompiledRollout, Overlay


class _Note(NamedTuple):
    decision: Decision
    request: Request
    facts: Facts | None
    rollout: CompiledRollout | None
    overlay: Overlay


class Later:
    """Hands decisions on to ``sinks`` in the event loop's next turn; a ``DecisionSink``.

    A server that waits for each message runs everything cold. What the sinks need of code and data is fetched into
    the processor's caches once for all requests of a turn: under load that is a twentieth of what a request costs.
    As many decisions wait as the server has requests in hand. Belongs to one event loop.
    """

    def __init__(self, sinks: Sequence[DecisionSink]) -> None:
        self._sinks = tuple(sinks)
        self._notes: list[_Note] = []

    def record(
        self,
        decision: Decision,
        request: Request,
        facts: Facts | None,
        rollout: CompiledRollout | None,
        overlay: Overlay,
    ) -> None:
        """Take note of one decision, soon."""
        if not self._notes:
            asyncio.get_running_loop().call_soon(self.flush)
        self._notes.append(_Note(decision, request, facts, rollout, overlay))

    def flush(self) -> None:
        """Hand on now what waits."""
        notes, self._notes = self._notes, []
        for sink in self._sinks:
            for note in notes:
                sink.record(*note)
