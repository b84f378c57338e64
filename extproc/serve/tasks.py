"""What a process does in the background, of which nothing ends it: a surprise is said and counted, and work goes on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from extproc.serve.supervisor.children import Backoff

logger = logging.getLogger(__name__)

MOST_SECONDS: Final = 5.0
"""Before work that fails again and again begins once more."""


class Tasks:
    """The background of one event loop.

    Failures that are expected are for the work itself to handle. One that is not is a bug, or a file or row that
    nobody thought of; to end for it would take everything else away, at each start again. ``failed`` is told the name
    of the work, for the metrics; the log has each failure of a row of the same once.
    """

    def __init__(self, failed: Callable[[str], None]) -> None:
        self._failed = failed
        self._running: set[asyncio.Task[None]] = set()

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work`` until it returns. When it fails, it begins again, at once and then later and later."""
        self._start(self._keep(name, work))

    def once(self, name: str, work: Awaitable[None]) -> None:
        """Do ``work``, and not again when it fails."""
        self._start(self._once(name, work))

    def cancel(self) -> None:
        """End all of it."""
        for task in self._running:
            task.cancel()

    async def end(self) -> None:
        """End all of it, and wait until it has ended."""
        self.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        backoff, said = Backoff(most=MOST_SECONDS), ""
        while True:
            began = time.monotonic()
            try:
                await work()
                return
            except Exception as error:
                said = self._note(name, error, said)
            await asyncio.sleep(backoff.after(time.monotonic() - began))

    async def _once(self, name: str, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            self._note(name, error, "")

    def _note(self, name: str, error: Exception, said: str) -> str:
        self._failed(name)
        what = repr(error)
        if what != said:
            logger.error("the work on %s failed, which is a bug; the rest goes on", name, exc_info=error)
        return what
