"""Feedback as a controller serves it: over HTTP here, and over gRPC on the controller's own socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import grpc

from extproc.control.api.feedback_grpc import FeedbackRpc
from extproc.control.api.feedback_http import FeedbackApplication
from extproc.control.api.feedback_thread import FeedbackThread
from extproc.control.feedback import Code, Feedback
from extproc.net.http_protocol import HttpLimits
from extproc.net.http_service import HttpService
from extproc.net.listening import Listening
from extproc.store.epoch_records import EpochRecord

LIMITS: Final = HttpLimits(head_bytes=16 * 1024, body_bytes=1024 * 1024, idle_seconds=60.0, connections=64)
"""What a caller may do: all that show the token can make the controller hold 128 MiB, and others next to nothing."""


class FeedbackService:
    """Serves ``feedback``. Belongs to one event loop; the composition root starts and stops it.

    ``count`` is told, on that loop, how many records got which code.
    """

    def __init__(self, feedback: Feedback, count: Callable[[Code, int], None]) -> None:
        self._thread = FeedbackThread(feedback, count)
        self._http: HttpService | None = None

    def handler(self) -> grpc.GenericRpcHandler:
        """The gRPC service, for the controller's server."""
        return FeedbackRpc(self._thread).handler()

    async def start(self, listening: Listening) -> HttpService:
        """Take feedback over HTTP; what serves it.

        Raises:
            InvalidInput: as ``HttpService`` and its ``start``.
        """
        self._http = http = HttpService(listening, FeedbackApplication(self._thread.record), LIMITS)
        await http.start()
        return http

    async def mark_fallbacks(self, ids: Sequence[str]) -> list[EpochRecord]:
        """See ``Feedback``. Raises ``Unreachable``."""
        return await self._thread.mark_fallbacks(ids)

    async def stop(self, grace: float) -> None:
        """Take no more requests, and give those under way ``grace`` seconds."""
        if self._http is not None:
            await self._http.stop(grace)
        self._thread.close()
