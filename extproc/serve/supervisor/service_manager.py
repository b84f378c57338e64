"""What the service manager of the host is told, as ``sd_notify`` has it: ready, reloading, stopping, and alive.

One datagram each, to the socket that systemd names in the environment. Without one nobody is told.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress


class ServiceManager:
    """The one of this process, by its ``environment``. ``watchdog`` are the seconds in which it wants to hear, or 0."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        period = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(period) / 1e6 if address and mine and period.isdecimal() else 0.0

    def ready(self, status: str) -> None:
        """It serves, for the first time or again; ``status`` is shown to who asks how it is."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """It reads again what it serves; ``ready`` comes behind."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It ends in order."""
        self._tell("STOPPING=1")

    async def keep_alive(self) -> None:
        """Tell, twice in each period, that the event loop turns; until cancelled."""
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self.watchdog / 2)

    def _tell(self, *lines: str) -> None:
        """Who does not listen, or is slow, holds nobody up."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(OSError):
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), self._address)
