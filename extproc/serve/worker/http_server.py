"""The HTTP server of a worker: ext_proc and its health on one endpoint."""

from __future__ import annotations

import socket

from extproc.datapath.transports.exchange import FAULT_MALFORMED, FAULT_SILENT, OnFault, RequestHandler
from extproc.datapath.transports.http import ExtProcApplication
from extproc.errors import InvalidInput
from extproc.net.asgi import AsgiServer
from extproc.net.endpoints import UnixEndpoint, bind_tcp, bind_unix, take_place, tcp_fault
from extproc.net.http_protocol import TOO_SLOW, Connections, HttpLimits
from extproc.serve.worker_config import WorkerConfig


class HttpServer:
    """A ``serve.worker.server.Server``."""

    def __init__(
        self, config: WorkerConfig, process: RequestHandler, on_fault: OnFault, limits: HttpLimits | None = None
    ) -> None:
        self._endpoint = config.endpoint
        self._app = ExtProcApplication(process, on_fault=on_fault)
        self._connections = Connections(self._app, limits or HttpLimits(), lambda code: on_fault(_fault(code)))
        self._server = AsgiServer(self._connections)

    async def start(self) -> None:
        """Bind, serve, and only then take the place of whoever had the socket before."""
        endpoint = self._endpoint
        await self._server.start(self._bind())
        if isinstance(endpoint, UnixEndpoint):
            take_place(endpoint, "--listen")

    async def say_draining(self) -> None:
        """503 to health checks; and every answer is the last on its connection, which Envoy then opens elsewhere."""
        self._app.serving = False
        self._connections.draining = True

    async def stop(self, grace: float) -> None:
        """No new connections, no further request on the old ones."""
        await self._server.stop(grace)

    def _bind(self) -> socket.socket:
        endpoint = self._endpoint
        try:
            if isinstance(endpoint, UnixEndpoint):
                return bind_unix(endpoint)
            return bind_tcp(endpoint.host, endpoint.port)
        except OSError as error:
            raise InvalidInput([tcp_fault(error, endpoint.target, "--listen")]) from error


def _fault(code: str) -> str:
    """What a request that was refused is to Envoy's transports."""
    return FAULT_SILENT if code == TOO_SLOW else FAULT_MALFORMED
