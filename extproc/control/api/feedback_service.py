"""Feedback as a controller serves it: over HTTP here, and over gRPC on the controller's own socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import grpc

from extproc.control.api.feedback_grpc import FeedbackRpc
from extproc.control.api.feedback_http import AUTHORIZATION, FeedbackApplication
from extproc.control.api.feedback_thread import FeedbackThread
from extproc.control.feedback import Code, Feedback
from extproc.errors import InvalidInput
from extproc.serve.asgi import AsgiServer
from extproc.serve.endpoints import TcpEndpoint, bind_tcp, tcp_fault
from extproc.serve.http_protocol import Connections, Door, HttpLimits
from extproc.snapshot.store import EpochRecord

LIMITS: Final = HttpLimits(head_bytes=16 * 1024, body_bytes=1024 * 1024, idle_seconds=60.0, connections=64)
"""What a caller may do: all that show the token can make the controller hold 128 MiB, and others next to nothing."""

_FLAG: Final = "--feedback"


class FeedbackService:
    """Serves ``feedback`` to who shows ``token``. Belongs to one event loop; the composition root starts and stops it.

    ``count`` is told, on that loop, how many records got which code. ``address`` is where it listens, once it has
    started.
    """

    def __init__(self, feedback: Feedback, token: bytes, count: Callable[[Code, int], None]) -> None:
        self._thread = FeedbackThread(feedback, count)
        app = FeedbackApplication(self._thread.record, token)
        self._connections = Connections(app, LIMITS, lambda _fault: None, Door(frozenset({AUTHORIZATION}), app.knows))
        self._server = AsgiServer(self._connections)
        self._started = False
        self.address = ""

    def handler(self) -> grpc.GenericRpcHandler:
        """The gRPC service, for the controller's server."""
        return FeedbackRpc(self._thread).handler()

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes any free port.

        Raises:
            InvalidInput: ``address_in_use`` or ``address_invalid``.
        """
        try:
            listener = bind_tcp(host, port)
        except OSError as error:
            raise InvalidInput([tcp_fault(error, TcpEndpoint(host, port).target, _FLAG)]) from error
        self.address = TcpEndpoint(*listener.getsockname()[:2]).target
        await self._server.start(listener)
        self._started = True

    async def mark_fallbacks(self, ids: Sequence[str]) -> list[EpochRecord]:
        """See ``Feedback``. Raises ``Unreachable``."""
        return await self._thread.mark_fallbacks(ids)

    async def stop(self, grace: float) -> None:
        """Take no more requests, and give those under way ``grace`` seconds."""
        self._connections.draining = True
        if self._started:
            await self._server.stop(grace)
        self._thread.close()
