"""The supervisor's part in the workers' sockets: one that somebody took away is bound again, by another worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from extproc.net.endpoints import FolderLock
from extproc.net.sockets import SocketWatch
from extproc.serve.messages import Drain
from extproc.serve.supervisor.workers import Workers, WorkerSlot
from extproc.trouble import Troubles

_POLL_SECONDS: Final = 0.5


class SocketKeeper:
    """Replaces ``workers`` that nobody finds any more. ``lock`` is that of the sockets' folder, if they have one."""

    def __init__(self, workers: Workers, lock: FolderLock | None, warn: Callable[[str], None]) -> None:
        self._workers = workers
        self._sockets = SocketWatch(lock)
        self._warn = warn

    def bound(self, slot: WorkerSlot) -> None:
        """The worker listens from now on."""
        self._sockets.bound(slot.config.endpoint)

    async def run(self) -> None:
        """Look again and again, until cancelled.

        Connections that are open serve on, new ones find nobody. One worker is replaced after another, so that those
        connections are of use until others can be made.
        """
        troubles = Troubles(self._warn)
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            lost = [slot for slot in self._workers.serving if self._sockets.lost(slot.config.endpoint)]
            under_way = any(slot.state in ("draining", "starting") for slot in self._workers.slots)
            if not lost and not under_way:
                troubles.note("sockets")
            if not lost or under_way:
                continue
            troubles.note("sockets", f"worker {lost[0].config.index} is {self._replaced(lost[0])}")

    def _replaced(self, slot: WorkerSlot) -> str:
        """What is wrong with a worker that is not found, and what became of it."""
        endpoint = slot.config.endpoint
        hindrance = self._sockets.make_room(endpoint, [each.child.pid for each in self._workers.slots])
        if hindrance is not None:
            return f"not found, and cannot be replaced: {hindrance}"
        self._workers.tell([slot], Drain())
        slot.state = "draining"
        return f"not found at {endpoint.target} any more: it is replaced"
