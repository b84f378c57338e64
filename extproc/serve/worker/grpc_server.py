"""The gRPC server of a worker: ext_proc and grpc.health.v1 on one endpoint."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from extproc.datapath.transports.exchange import OnFault, RequestHandler
from extproc.datapath.transports.grpc import SERVICE, ExtProcService, server_options
from extproc.errors import Fault, InvalidInput
from extproc.net.endpoints import UnixEndpoint, private_sockets, take_place
from extproc.net.tls import Certificates
from extproc.serve.worker_config import WorkerConfig

HEALTH_SERVICES: Final = ("", SERVICE)
"""What grpc.health.v1 answers for, SERVING and then, while it drains, NOT_SERVING."""

ALIVE_SERVICE: Final = "dropout.alive"
"""SERVING for as long as the worker answers at all, while it drains too: what our Envoy configuration asks for.

Envoy takes a NOT_SERVING at its word and at once. When every worker of a host drains for a restart, that would send
requests past Dropout although there are workers to decide them.
"""

_CHECK_SECONDS: Final = 1.0
"""How long a server that is to stop waits for a health check; Envoy's come twice a second."""


class GrpcServer:
    """A ``serve.worker.server.Server``."""

    def __init__(self, config: WorkerConfig, process: RequestHandler, on_fault: OnFault) -> None:
        self._config = config
        self._not_grpcs = _threads()
        self._health = _Health()
        self._server = grpc.aio.server(options=server_options())
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._server.add_generic_rpc_handlers((ExtProcService(process, on_fault=on_fault).handler(),))

    async def start(self) -> None:
        """Bind and serve."""
        endpoint, tls = self._config.endpoint, self._config.tls
        if isinstance(endpoint, UnixEndpoint):
            bind(self._server, f"unix:{endpoint.temporary}", "--listen")
        else:
            bind(self._server, endpoint.target, "--listen", Certificates(tls).credentials() if tls else None)
        await self._server.start()
        _put_behind(_threads() - self._not_grpcs)
        for name in HEALTH_SERVICES:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if isinstance(endpoint, UnixEndpoint):
            take_place(endpoint, "--listen")

    async def say_draining(self) -> None:
        """NOT_SERVING."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """No new streams, from right after a health check on."""
        self._health.end_watches()
        await self._health.checked()
        await self._server.stop(grace)


def bind(server: grpc.aio.Server, target: str, flag: str, credentials: grpc.ServerCredentials | None = None) -> None:
    """Have ``server`` listen on ``target``; a Unix socket is its owner's alone.

    Raises:
        InvalidInput: ``address_in_use``.
    """
    try:
        with private_sockets():
            if credentials is None:
                server.add_insecure_port(target)
            else:
                server.add_secure_port(target, credentials)
    except RuntimeError as error:
        raise InvalidInput([Fault("address_in_use", f"{target} cannot be bound", field=flag)]) from error


def _threads() -> set[int]:
    """The threads of this process, by their ids."""
    return {int(thread.name) for thread in Path("/proc/self/task").iterdir()}


def _put_behind(threads: Iterable[int]) -> None:
    """Have threads that never hold the interpreter wait for whoever is running, instead of interrupting.

    gRPC's poller wakes for each event of a stream, and would take the processor from the event loop up to eleven times
    a request where they share one. As a batch thread (sched(7)) it hands over several events at once, one switch a
    request and a third less CPU; and its share, where others want the processor too, stays whole, which a lower
    priority would cost it.
    """
    for thread in threads:
        with suppress(OSError):  # it has just ended
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


class _Health(health.aio.HealthServicer):
    """grpc.health.v1, whose watches, endless by themselves, can be ended: draining must not wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Task[Any]] = set()
        self._checked = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        """The state of a service, or that there is somebody to answer."""
        if request.service == ALIVE_SERVICE:
            self._checked.set()
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        return await super().Check(request, context)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802  # gRPC's name
        """Tell of every change until the watcher or the server ends."""
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            await super().Watch(request, context)
        finally:
            self._watches.discard(task)

    async def checked(self) -> None:
        """Wait until somebody has asked whether the worker is alive, if anybody ever did.

        A call that reaches a server as it stops is ended by gRPC with UNAVAILABLE. Of a health check Envoy believes
        that at once, where it forgives ten refused connections, and sends requests past Dropout until it asks again.
        After a check the next one is farthest, and finds nobody to connect to.
        """
        if self._checked.is_set():
            self._checked.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._checked.wait(), _CHECK_SECONDS)

    def end_watches(self) -> None:
        """End what is being watched."""
        for watch in self._watches:
            watch.cancel()
