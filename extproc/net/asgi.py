"""An ASGI application served over HTTP/1.1: uvicorn's server with the connections of ``http_protocol``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn

from extproc.net.endpoints import allow_descriptors
from extproc.net.http_protocol import Connections

_POLL_SECONDS: Final = 0.005
_OTHER_DESCRIPTORS: Final = 512


class AsgiServer:
    """Serves the application of ``connections``, on the event loop that starts it."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        allow_descriptors(connections.limits.connections + _OTHER_DESCRIPTORS)
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                connections.app,
                http=connections.protocol,  # type: ignore[arg-type]  # called, as a class would be
                loop="none",
                ws="none",
                lifespan="off",
                interface="asgi3",
                proxy_headers=False,
                log_config=None,
                log_level="critical",
                access_log=False,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self, listener: socket.socket) -> None:
        """Serve on a socket that is bound."""
        self._serving = asyncio.create_task(self._uvicorn.serve(sockets=[listener]))
        while not self._uvicorn.started:
            if self._serving.done():
                await self._serving
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self, grace: float) -> None:
        """No new connections, no further request on the old ones, which get ``grace`` seconds.

        What was never started is stopped already.
        """
        if self._serving is None:
            return
        self._uvicorn.should_exit = True
        await asyncio.wait({self._serving}, timeout=grace)
        self._connections.abort()
        self._uvicorn.force_exit = True
        await asyncio.wait({self._serving}, timeout=1.0)


class _Uvicorn(uvicorn.Server):
    """uvicorn's server, whose signals are the process's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield
