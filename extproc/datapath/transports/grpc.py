"""ext_proc over gRPC: one stream per HTTP request, a reply for every message; what a peer does is no error of ours.

The service reads and writes raw bytes on the stream's context (no generated servicer, no serializer, no async
generator), because at a few hundred microseconds of grpc.aio per request everything else has to be small.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

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
    RequestHandler,
)

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
METHOD: Final = "Process"

ONE_MESSAGE: Final = ("dropout-phases", "request_headers")
"""Metadata of a stream that asks for a decision and for nothing else, as ``envoy/envoy.yaml`` has Envoy send it.

Such a stream ends with its reply. gRPC then sends reply and status as one, and hears of one event instead of three:
an eighth of the CPU of a request. To Envoy an end is that nothing more is to be done for the request's other phases.
"""

_PATH: Final = f"/{SERVICE}/{METHOD}"
_NOTHING: Final = b""
_TICKS: Final = 10

_Context = grpc.aio.ServicerContext[Any, Any]


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
        process: RequestHandler,
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
        return _Handler(
            of_one_message=grpc.stream_unary_rpc_method_handler(self._answer),
            of_any=grpc.stream_stream_rpc_method_handler(self._converse),
        )

    async def _converse(self, _messages: object, context: _Context) -> None:
        """One stream, from its first message to its end."""
        try:
            data = await self._next(context, self._before_first)
            while data is not EOF:
                reply = await self._exchange.reply(data)
                if reply is not None:
                    await context.write(reply)
                data = await self._next(context, self._between)
        except (MalformedMessage, _Silent) as error:
            await self._refuse(context, error)
        except grpc.aio.InternalError:
            # A write on a stream that the peer has just reset: the same normal end as a cancellation.
            raise asyncio.CancelledError from None

    async def _answer(self, _messages: object, context: _Context) -> bytes:
        """One stream of one message: it ends with the reply, all in one batch of gRPC's.

        Where there is nothing to say it is an empty one, because gRPC lets no such stream end well without.
        """
        try:
            data = await self._next(context, self._before_first)
            return _NOTHING if data is EOF else await self._exchange.reply(data) or _NOTHING
        except (MalformedMessage, _Silent) as error:
            await self._refuse(context, error)

    async def _next(self, context: _Context, silence: _Silence) -> Any:
        """The next message, ``EOF`` after the last.

        Raises:
            _Silent: when none came in time.
        """
        stream = cast("asyncio.Task[None]", asyncio.current_task())
        silence.begin(stream)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if not silence.cut_off(stream):
                raise
            raise _Silent("no message came in time") from None
        finally:
            silence.end(stream)

    async def _refuse(self, context: _Context, error: MalformedMessage | _Silent) -> NoReturn:
        """End the stream with the status that says what is wrong with it."""
        if isinstance(error, _Silent):
            code, fault = grpc.StatusCode.DEADLINE_EXCEEDED, FAULT_SILENT
        else:
            code, fault = grpc.StatusCode.INVALID_ARGUMENT, FAULT_MALFORMED
        self._exchange.on_fault(fault)
        await context.abort(code, str(error))
        raise AssertionError("a stream that was ended goes on")


class _Handler(grpc.GenericRpcHandler):
    """Has a stream served as its peer means it."""

    def __init__(
        self, *, of_one_message: grpc.RpcMethodHandler[bytes, bytes], of_any: grpc.RpcMethodHandler[bytes, bytes]
    ) -> None:
        self._of_one_message = of_one_message
        self._of_any = of_any

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """What serves a call, None for another method than ours."""
        if handler_call_details.method != _PATH:
            return None
        return self._of_one_message if ONE_MESSAGE in handler_call_details.invocation_metadata else self._of_any


class _Silent(Exception):
    """No message came in time."""


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
