"""Envoy's gRPC access log: streams of batches, which want no answer and are never told to wait for one.

What the observer cannot keep up with stays in the connection until its flow control holds Envoy back; Envoy then drops
entries, counts them in ``access_logs.grpc_access_log.logs_dropped``, and lets no request wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc.aio import EOF

from extproc._gen.envoy.data.accesslog.v3.accesslog_pb2 import (
    AccessLogType,
    HTTPAccessLogEntry,
    HTTPResponseProperties,
)
from extproc._gen.envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from extproc.names import HEADER_DECISION_ID, HEADER_ROLLOUT, HEADER_VERSION
from extproc.protect.outcome import NO_GRPC_STATUS, RequestEnd

SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"
METHOD: Final = "StreamAccessLogs"

MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""A batch is as large as the logger's ``buffer_size_bytes``, by default 16 KiB, and one entry more."""

_STREAM_WINDOW_BYTES: Final = 256 * 1024
_STREAMS_PER_CONNECTION: Final = 64

_ENDS: Final = frozenset((AccessLogType.NotSet, AccessLogType.DownstreamEnd))
"""What an entry at a request's end is called; one that is called anything else tells of it before, or of a part."""

_GRPC: Final = "application/grpc"
_GRPC_WEB: Final = "application/grpc-web"
_UNKNOWN: Final = 2
_LAST_STATUS: Final = 16


class LogEntry(NamedTuple):
    """One request: what was decided, by its headers, and how it ended, or how it stands if it has not ``ended``."""

    decision_id: str
    rollout: str
    version: str
    answer: RequestEnd
    ended: bool = True


TakeEntries = Callable[[Sequence[LogEntry]], None]
OnMalformed = Callable[[], None]


def decode(data: bytes) -> list[LogEntry]:
    """The entries of a StreamAccessLogsMessage.

    Raises:
        DecodeError: when it is none.
    """
    return [_entry(entry) for entry in StreamAccessLogsMessage.FromString(data).http_logs.log_entry]


def _entry(entry: HTTPAccessLogEntry) -> LogEntry:
    headers, common = entry.request.request_headers, entry.common_properties
    duration = common.duration
    answer = RequestEnd(
        entry.response.response_code.value,
        [field.name for field, _ in common.response_flags.ListFields()],
        common.upstream_cluster,
        common.route_name,
        common.upstream_request_attempt_count,
        duration.seconds * 1e3 + duration.nanos / 1e6,
        _grpc_status(entry.response),
    )
    get = headers.get
    ended = not common.intermediate_log_entry and common.access_log_type in _ENDS
    return LogEntry(get(HEADER_DECISION_ID, ""), get(HEADER_ROLLOUT, ""), get(HEADER_VERSION, ""), answer, ended)


def _grpc_status(response: HTTPResponseProperties) -> int | None:
    """How a gRPC call ended; None if it was none. What is no number of ours is UNKNOWN, as gRPC has it.

    That of gRPC-Web is in the body, where Envoy's log does not look.
    """
    kind = response.response_headers.get("content-type", "")
    if not kind.startswith(_GRPC) or kind.startswith(_GRPC_WEB):
        return None
    status = response.response_trailers.get("grpc-status") or response.response_headers.get("grpc-status")
    if not status:
        return NO_GRPC_STATUS
    return int(status) if status.isdecimal() and int(status[:3]) <= _LAST_STATUS else _UNKNOWN


def server_options() -> list[tuple[str, int]]:
    """The options of a ``grpc.aio.server`` that carries an ``AccessLogService``."""
    return [
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.max_concurrent_streams", _STREAMS_PER_CONNECTION),
        ("grpc.so_reuseport", 0),
        # A small window, so that Envoy drops what is too much soon, and what is taken is not seconds old.
        ("grpc.http2.lookahead_bytes", _STREAM_WINDOW_BYTES),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 500),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


class AccessLogService:
    """Hands every batch to ``take``, on the event loop. ``on_malformed`` hears of messages that are none."""

    def __init__(self, take: TakeEntries, on_malformed: OnMalformed) -> None:
        self._take = take
        self._on_malformed = on_malformed

    def handler(self) -> grpc.GenericRpcHandler:
        """What a ``grpc.aio.server`` is given in ``add_generic_rpc_handlers``."""
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(self._serve)
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})

    async def _serve(self, _messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        """One stream, to its end. One bad message is no reason to miss those after it."""
        while (data := await context.read()) is not EOF:
            try:
                entries = decode(cast(bytes, data))
            except DecodeError:
                self._on_malformed()
                continue
            self._take(entries)
        return b""
