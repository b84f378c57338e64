"""The supervisor's part in telling the store of the kills and trips that its host holds by itself.

The store is slow or away at times, so it has a thread of its own, and nothing waits for it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from extproc.serve.supervisor.safety import HostSafety, Register

TELL_SECONDS: Final = 0.5
"""How often the store is told what it does not have, and asked which kills were ended."""


class SafetyStoreKeeper:
    """Has ``register`` told what it does not have of ``safety``. Belongs to one event loop."""

    def __init__(self, safety: HostSafety, register: Register) -> None:
        self._safety = safety
        self._register = register
        self._thread = ThreadPoolExecutor(1, "safety-store")

    async def run(self) -> None:
        """Tell it again and again, at once where there is something new, until cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._safety.news_for_store.wait(), TELL_SECONDS)
            await self.tell()

    async def tell(self) -> None:
        """Tell it what it does not have, and take over what it made of that."""
        self._safety.news_for_store.clear()
        asked = self._safety.asked
        if not asked:
            self._safety.store_fault = None
            return
        answer = await asyncio.get_running_loop().run_in_executor(self._thread, self._register.tell, asked)
        self._safety.answered(asked, answer)
