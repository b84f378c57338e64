"""A control server for tests, on an event loop of its own in a thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

from extproc.adapters.sqlite.store import SqliteStore
from extproc.clock import Clock, SystemClock
from extproc.control.access import DirectControl
from extproc.control.actions import Lane
from extproc.control.api.server import ControlServer
from extproc.control.emergency import Hosts
from extproc.control.observer_reports import Hearing
from extproc.control.policy import ControlPolicy
from extproc.net.actor import Actor
from extproc.net.endpoints import UnixEndpoint
from extproc.net.listening import Listening


class ServedControl:
    """The control of the store at ``path``, served at ``target`` while the block runs."""

    def __init__(
        self,
        path: Path,
        socket: Path,
        clock: Clock | None = None,
        policy: ControlPolicy | None = None,
        listening: Listening | None = None,
        *,
        hosts: Hosts | None = None,
        hearing: Hearing | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.endpoint = UnixEndpoint(socket)
        self.target = self.endpoint.target
        self._listening = listening or Listening(self.endpoint, "--listen")
        self._path = path
        self._clock = clock or SystemClock()
        self._policy = policy
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._server: ControlServer | None = None
        self._stores: dict[Lane, SqliteStore] = {}
        self._hosts, self._hearing, self._wait = hosts, hearing, wait

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.call(self._start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self.call(self._server.stop(0))
        self._end()

    def check(self) -> str:
        """Have the server look after its socket; what is in the way."""
        return self.call(self._check())

    async def _check(self) -> str:
        assert self._server is not None
        self._server.listener.check()
        return self._server.listener.hindrance

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run ``coroutine`` on the server's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _start(self) -> None:
        self._stores = {lane: SqliteStore(self._path, create=True, clock=self._clock) for lane in Lane}
        self._server = ControlServer(self._listening, self._control)
        await self._server.start()

    def _control(self, who: Actor, lane: Lane) -> DirectControl:
        return DirectControl(
            self._stores[lane],
            who.name,
            self._clock,
            self._policy,
            hosts=self._hosts,
            hearing=self._hearing,
            wait=self._wait,
        )

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()
        for store in self._stores.values():
            store.close()
