"""The HTTP server of a worker: ext_proc and its health on one endpoint, on uvicorn with a protocol of our own."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn

from extproc.datapath.transports.exchange import OnFault, Process
from extproc.datapath.transports.http import ExtProcApplication
from extproc.errors import InvalidInput
from extproc.serve.endpoints import UnixEndpoint, bind_tcp, tcp_fault
from extproc.serve.http_protocol import Connections, HttpLimits
from extproc.serve.server import private_sockets
from extproc.serve.worker_config import WorkerConfig

_LOOK_SECONDS: Final = 0.005
_OTHER_DESCRIPTORS: Final = 512


class HttpServer:
    """A ``serve.server.Server``."""

    def __init__(
        self, config: WorkerConfig, process: Process, on_fault: OnFault, limits: HttpLimits | None = None
    ) -> None:
        self._endpoint = config.endpoint
        self._app = ExtProcApplication(process, on_fault=on_fault)
        limits = limits or HttpLimits()
        self._connections = Connections(self._app, limits, on_fault)
        _allow_descriptors(limits.connections + _OTHER_DESCRIPTORS)
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                self._app,
                http=self._connections.protocol,  # type: ignore[arg-type]  # called, as a class would be
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

    async def start(self) -> None:
        """Bind, serve, and only then take the place of whoever had the socket before."""
        endpoint = self._endpoint
        listener = self._bind()
        self._serving = asyncio.create_task(self._uvicorn.serve(sockets=[listener]))
        while not self._uvicorn.started:
            if self._serving.done():
                await self._serving
            await asyncio.sleep(_LOOK_SECONDS)
        if isinstance(endpoint, UnixEndpoint):
            endpoint.temporary.rename(endpoint.path)

    async def say_draining(self) -> None:
        """503 to health checks; and every answer is the last on its connection, which Envoy then opens elsewhere."""
        self._app.serving = False
        self._connections.draining = True

    async def stop(self, grace: float) -> None:
        """No new connections, no further request on the old ones."""
        assert self._serving is not None
        self._uvicorn.should_exit = True
        await asyncio.wait({self._serving}, timeout=grace)
        self._connections.abort()
        self._uvicorn.force_exit = True
        await asyncio.wait({self._serving}, timeout=1.0)

    def _bind(self) -> socket.socket:
        endpoint = self._endpoint
        try:
            if not isinstance(endpoint, UnixEndpoint):
                return bind_tcp(endpoint.host, endpoint.port)
            endpoint.temporary.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            with private_sockets():
                listener.bind(str(endpoint.temporary))
        except OSError as error:
            raise InvalidInput([tcp_fault(error, endpoint.target, "--listen")]) from error
        return listener


class _Uvicorn(uvicorn.Server):
    """uvicorn's server, whose signals are the worker's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _allow_descriptors(wanted: int) -> None:
    """A connection is a descriptor, and a process may be started with few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
