"""Requests as nobody's client sends them: every byte as it is given, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import h2.config
import h2.connection
import h2.events

RawHeaders = Sequence[tuple[bytes, bytes]]


class RawAnswer(NamedTuple):
    """What came back; the status is 0 where the connection or the stream was ended without an answer."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


NO_ANSWER = RawAnswer(0, {}, b"")


def http1(
    port: int,
    method: bytes,
    target: bytes,
    headers: RawHeaders,
    body: bytes = b"",
    *,
    after_continue: bool = False,
) -> RawAnswer:
    """One request on a connection of its own; the headers, host among them, in this order.

    The body is sent as it is, ``after_continue`` once it was asked for.
    """
    lines = [b"%s %s HTTP/1.1" % (method, target), *(b"%s: %s" % pair for pair in headers), b"connection: close"]
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        if after_continue:
            said = client.recv(1 << 16)
            assert said == b"HTTP/1.1 100 Continue\r\n\r\n", said
        with suppress(ConnectionResetError, BrokenPipeError):  # who has answered already may hear no more
            client.sendall(body)
        head, _, body = _until_closed(client).partition(b"\r\n\r\n")
    if not head:
        return NO_ANSWER
    status, *fields = head.split(b"\r\n")
    return RawAnswer(int(status.split()[1]), {name.lower(): value for name, value in map(_field, fields)}, body)


def http2(port: int, headers: RawHeaders) -> RawAnswer:
    """One stream on a connection of its own; the pseudo-headers are among the headers."""
    config = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=None
    )
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    connection.send_headers(1, list(headers), end_stream=True)
    answer = NO_ANSWER
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client, suppress(ConnectionResetError):
        client.sendall(connection.data_to_send())
        while data := client.recv(1 << 16):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    fields = dict(event.headers)
                    answer = RawAnswer(int(fields.pop(b":status")), fields, b"")
                elif isinstance(event, h2.events.DataReceived):
                    answer = answer._replace(body=answer.body + event.data)
                elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return answer
            client.sendall(connection.data_to_send())
    return answer


def _until_closed(client: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while data := client.recv(1 << 16):
            received += data
    return received


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip()
