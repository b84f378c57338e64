"""The supervisor's part in the workers' sockets: one that somebody took away is bound again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from extproc.net.endpoints import FolderLock
from extproc.net.sockets import SocketWatch
from extproc.serve.messages import ListenAgain, ListensAgain
from extproc.serve.supervisor.workers import Workers, WorkerSlot
from extproc.trouble import Troubles

_POLL_SECONDS: Final = 0.5
_ANSWER_SECONDS: Final = 1.0


class SocketKeeper:
    """Has ``workers`` that nobody finds any more listen again. ``lock`` is that of the sockets' folder, if any."""

    def __init__(self, workers: Workers, lock: FolderLock | None, warn: Callable[[str], None]) -> None:
        self._workers = workers
        self._sockets = SocketWatch(lock)
        self._troubles = Troubles(warn)

    def bound(self, slot: WorkerSlot) -> None:
        """The worker listens from now on."""
        self._sockets.bound(slot.config.endpoint)

    async def run(self) -> None:
        """Check again and again, until cancelled."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            await self._check()

    async def _check(self) -> None:
        """Connections that are open serve on, new ones find nobody until the worker has bound its socket again."""
        for slot in self._workers.slots:
            subject = f"worker {slot.config.index}"
            if not slot.serving or not self._sockets.lost(slot.config.endpoint):
                self._troubles.note(subject)
                continue
            missed = f"not found at {slot.config.endpoint.target} any more"
            hindrance = await self._bind_again(slot)
            self._troubles.note(subject, missed if hindrance is None else f"{missed}: {hindrance}")

    async def _bind_again(self, slot: WorkerSlot) -> str | None:
        """Why the worker still cannot be found; None if it can be."""
        hindrance = self._sockets.make_room(slot.config.endpoint, [each.child.pid for each in self._workers.slots])
        if hindrance is not None:
            return hindrance
        for answer in await self._workers.ask([slot], ListenAgain(), _ANSWER_SECONDS):
            assert isinstance(answer, ListensAgain)
            if answer.faults:
                return answer.faults[0].message
            self.bound(slot)
            return None
        return "it does not answer"
