"""The supervisor's part in metrics: what every process counted is brought together."""

from __future__ import annotations

import asyncio
from typing import Final

from extproc.metrics.counting import Metrics
from extproc.metrics.merging import Totals
from extproc.serve.messages import WantMetrics
from extproc.serve.supervisor.protection import Protection
from extproc.serve.supervisor.workers import Workers

_COLLECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 1.0


class CountKeeper:
    """Has in ``totals`` what ``workers``, the observer and this process, by its ``own`` metrics, counted."""

    def __init__(self, workers: Workers, protection: Protection | None, own: Metrics, totals: Totals) -> None:
        self._workers = workers
        self._protection = protection
        self._own = own
        self._totals = totals

    async def run(self) -> None:
        """Gather again and again, so that a worker that is killed takes no more than a few seconds of its counts."""
        while True:
            await self.gather()
            await asyncio.sleep(_COLLECT_SECONDS)

    async def gather(self) -> None:
        """Bring the totals up to date; who does not answer soon is passed over."""
        await self._workers.ask(self._workers.serving, WantMetrics(), _ANSWER_SECONDS)
        if self._protection is not None:
            await self._protection.gather_metrics()
        if self._workers.serving:
            self._totals.retain(self._workers.rollouts)
        self._totals.update("supervisor", self._own.dump())
