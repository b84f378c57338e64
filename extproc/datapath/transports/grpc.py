"""ext_proc over gRPC: one stream per HTTP request, a reply for every message; what a peer does is no error of ours.

The service reads and writes raw bytes on the stream's context (no generated servicer, no serializer, no async
generator), because at a few hundred microseconds of grpc.aio per request everything else has to be small.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc
import grpc.aio
from grpc.aio import EOF

from extproc.datapath.attributes import AttributeReader
from extproc.datapath.transports import grpc_codec
from extproc.datapath.transports.exchange import (
    FAULT_MALFORMED,
    FAULT_SILENT,
    Exchange,
    MalformedMessage,
    OnFault,
    Process,
)

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
METHOD: Final = "Process"

_TICKS: Final = 10


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What a peer may do.

    A stream says something within ``first_message_seconds`` (Envoy sends the headers as it opens one), and then within
    ``next_message_seconds`` of our last reply: longer than Envoy takes for any request, because a peer that asks for
    the response's phases too waits for its model in between. Of streams that have said nothing at most
    ``silent_streams`` are held, of those between two messages ``idle_streams``; the oldest go first. A message has at
    most ``message_bytes``. A connection has at most ``streams_per_connection`` streams at a time; further ones wait in
    the peer (Envoy opens another connection), because gRPC drops streams at random, anyone's, once 1 000 are waiting
    to be accepted.
    """

    first_message_seconds: float = 10.0
    next_message_seconds: float = 3600.0
    silent_streams: int = 4096
    idle_streams: int = 4096
    message_bytes: int = 1024 * 1024
    streams_per_connection: int = 256


def server_options(limits: StreamLimits | None = None) -> list[tuple[str, int]]:
    """The options of a ``grpc.aio.server`` that carries an ``ExtProcService`` with these limits."""
    limits = limits or StreamLimits()
    return [
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        # An endpoint belongs to one worker: a second process on the same port is a mistake, not load balancing.
        ("grpc.so_reuseport", 0),
        # Peers that ping every second must not be cut off, which is what the default of five minutes would do.
        ("grpc.http2.min_ping_interval_without_data_ms", 500),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


class ExtProcService:
    """Answers ext_proc streams with what ``process`` decides. Belongs to one event loop.

    ``process`` and ``on_fault`` are those of ``Exchange``. A half-close and a cancellation are normal ends and are
    neither counted nor logged.
    """

    def __init__(
        self,
        process: Process,
        *,
        limits: StreamLimits | None = None,
        reader: AttributeReader | None = None,
        on_fault: OnFault = lambda _fault: None,
    ) -> None:
        limits = limits or StreamLimits()
        self._exchange = Exchange(grpc_codec, process, reader=reader, on_fault=on_fault)
        self._before_first = _Silence(limits.first_message_seconds, limits.silent_streams)
        self._between = _Silence(limits.next_message_seconds, limits.idle_streams)

    def handler(self) -> grpc.GenericRpcHandler:
        """What a ``grpc.aio.server`` is given in ``add_generic_rpc_handlers``."""
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._serve)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    async def _serve(self, _messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """One stream, from its first message to its end."""
        stream = cast("asyncio.Task[None]", asyncio.current_task())
        silence = self._before_first
        silence.begin(stream)
        try:
            data = await context.read()
            silence.end(stream)
            silence = self._between
            while data is not EOF:
                reply = await self._exchange.reply(data)
                if reply is not None:
                    await context.write(reply)
                silence.begin(stream)
                data = await context.read()
                silence.end(stream)
        except asyncio.CancelledError:
            if not silence.cut_off(stream):
                raise
            self._refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, FAULT_SILENT, "no message came in time")
        except MalformedMessage as error:
            self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, FAULT_MALFORMED, str(error))
        except grpc.aio.InternalError:
            # A write on a stream that the peer has just reset: the same normal end as a cancellation.
            raise asyncio.CancelledError from None
        finally:
            silence.end(stream)

    def _refuse(
        self, context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, fault: str, details: str
    ) -> None:
        """End the stream with ``code``. By returning, since an abort would be an exception of its own."""
        self._exchange.on_fault(fault)
        context.set_code(code)
        context.set_details(details)


class _Silence:
    """Streams that a message is expected of, oldest first, and those cut off because none came.

    Time is counted in ticks of a timer that runs only while such streams exist, so that a stream costs two
    operations on a dictionary and no look at a clock.
    """

    def __init__(self, seconds: float, most: int) -> None:
        self._tick_seconds = seconds / _TICKS
        self._most = most
        self._tick = 0
        self._began: dict[asyncio.Task[None], int] = {}
        self._cut_off: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, stream: asyncio.Task[None]) -> None:
        """Expect a message of ``stream``, the task that serves it."""
        self._began[stream] = self._tick
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick_seconds, self._sweep)
        if len(self._began) > self._most:
            self._cut(next(iter(self._began)))

    def end(self, stream: asyncio.Task[None]) -> None:
        """Expect nothing more: the stream has spoken, or is over."""
        self._began.pop(stream, None)

    def cut_off(self, stream: asyncio.Task[None]) -> bool:
        """Whether the cancellation that ``stream`` just met came from here; if so it is taken back."""
        if stream not in self._cut_off:
            return False
        self._cut_off.remove(stream)
        stream.uncancel()
        return True

    def _cut(self, stream: asyncio.Task[None]) -> None:
        del self._began[stream]
        self._cut_off.add(stream)
        stream.cancel()

    def _sweep(self) -> None:
        """One tick: cut off the streams that have been silent for all of them."""
        self._tick += 1
        overdue = [stream for stream, began in self._began.items() if self._tick - began > _TICKS]
        for stream in overdue:
            self._cut(stream)
        self._timer = asyncio.get_running_loop().call_later(self._tick_seconds, self._sweep) if self._began else None
