"""What a worker serves with: one interface for both transports. Only the chosen one is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from extproc.datapath.transports.exchange import OnFault, RequestHandler
from extproc.serve.worker_config import HTTP, WorkerConfig


class Server(Protocol):
    """A server of one endpoint, on the running loop."""

    async def start(self) -> None:
        """Bind, say that it serves, and serve.

        Raises:
            InvalidInput: ``address_in_use``, ``address_invalid`` or ``tls_invalid``; it may serve at a part of its
                endpoint until it is stopped.
        """
        ...

    async def say_draining(self) -> None:
        """Say to whoever asks that it will close, and go on serving."""
        ...

    async def stop(self, grace: float) -> None:
        """Take no more requests, and give those in flight ``grace`` seconds; also where ``start`` failed."""
        ...


MakeServer = Callable[[WorkerConfig, RequestHandler, OnFault], Server]


def server_maker(transport: str) -> MakeServer:
    """What makes servers of ``transport``, one of ``TRANSPORTS``."""
    if transport == HTTP:
        from extproc.serve.worker.http_server import HttpServer

        return HttpServer
    from extproc.serve.worker.grpc_server import GrpcServer

    return GrpcServer
