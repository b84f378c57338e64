"""A control server for tests, on an event loop of its own in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

from extproc.adapters.sqlite_store import SqliteStore
from extproc.clock import Clock, SystemClock
from extproc.control.access import DirectControl
from extproc.control.api.server import ControlServer
from extproc.control.policy import ControlPolicy
from extproc.serve.endpoints import UnixEndpoint


class ServedControl:
    """The control of the store at ``path``, served at ``target`` while the block runs."""

    def __init__(
        self, path: Path, socket: Path, clock: Clock | None = None, policy: ControlPolicy | None = None
    ) -> None:
        self.endpoint = UnixEndpoint(socket)
        self.target = self.endpoint.target
        self._path = path
        self._clock = clock or SystemClock()
        self._policy = policy
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._server: ControlServer | None = None
        self._store: SqliteStore | None = None

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

    def look(self) -> str:
        """Have the server look after its socket; what is in the way."""
        assert self._server is not None
        self.call(self._server.look())
        return self._server.hindrance

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run ``coroutine`` on the server's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _start(self) -> None:
        store = self._store = SqliteStore(self._path, create=True, clock=self._clock)
        self._server = ControlServer(
            self.endpoint, lambda actor: DirectControl(store, actor, self._clock, self._policy)
        )
        await self._server.start()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        if self._store is not None:
            self._store.close()
