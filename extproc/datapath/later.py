"""Taking note of decisions when their replies are on the way, and of all that were made meanwhile at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from extproc.datapath.ports import Decided, DecisionSink


class Later:
    """Hands decisions on to ``sinks`` in the event loop's next turn; a ``DecisionSink``.

    A server that waits for each message runs everything cold. What the sinks need of code and data is fetched into
    the processor's caches once for all requests of a turn: under load that is a twentieth of what a request costs.
    As many decisions wait as the server has requests in hand. Belongs to one event loop.
    """

    def __init__(self, sinks: Sequence[DecisionSink]) -> None:
        self._sinks = tuple(sinks)
        self._waiting: list[Decided] = []

    def record(self, decided: Decided) -> None:
        """Take note of one decision, soon."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append(decided)

    def flush(self) -> None:
        """Hand on now what waits."""
        waiting, self._waiting = self._waiting, []
        for sink in self._sinks:
            for decided in waiting:
                sink.record(decided)
