"""HTTP/1.1 under uvicorn's server: the protocol of its connections, with the limits that uvicorn's own lacks.

It differs from uvicorn's in two more things that make a request several times cheaper: the application is called
when a request is complete, and it runs at once, without a task, for as long as it waits for nothing; and headers of
requests are checked but not kept, except those that the application reads. Headers, bodies and clients that are too
large or too slow are refused; pipelined requests are answered one after the other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, MutableSet
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import httptools

from extproc.net.admission import TICK_SECONDS, Admission, Phase
from extproc.net.answers import fault_body

Headers = tuple[tuple[bytes, bytes], ...]
AsgiApplication = Callable[..., Coroutine[Any, Any, None]]

TOO_SLOW: Final = "request_timeout"
"""The code of a request that did not come in time."""

_LINGER_SECONDS: Final = 2.0
"""How long a peer gets to read the last answer and close; what it still sends is not read as a request."""

_SLICE: Final = 16 * 1024
"""Limits are looked at after so many bytes."""

_PIECE: Final = 256 * 1024
"""Bytes of an answer that are written at a time."""

_HEADS_KEPT: Final = 256

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus if status >= 200
}
_ASGI: Final = {"version": "3.0"}


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What a peer may do.

    ``head_bytes`` and ``body_bytes`` are those of one request, which is received within ``request_seconds`` of its
    first byte, and whose answer is taken within as many. An idle connection is kept for ``idle_seconds``: longer than
    the hour that Envoy keeps one in its pool, so that Envoy is not the one who finds it closed. Of more than
    ``connections`` the oldest that waits for its peer goes. Where they are asked, a stranger has ``head_seconds`` from
    its connection on to show who it is.
    """

    head_bytes: int = 64 * 1024
    body_bytes: int = 1024 * 1024
    head_seconds: float = 5.0
    request_seconds: float = 10.0
    idle_seconds: float = 3700.0
    connections: int = 1024


class Refusal(NamedTuple):
    """The last answer on a connection."""

    status: int
    code: str
    message: str
    headers: Headers = ()


NO_PLACE: Final = Refusal(503, "too_many_connections", "the server has all the connections that it takes")


class _Asked(NamedTuple):
    """A request that is complete."""

    method: str
    target: bytes
    body: bytes
    keep: bool
    headers: Headers


class Connections:
    """All open connections of one server. ``protocol`` is what uvicorn makes each of them with.

    ``app`` is begun without a task, and gets one when it first waits: until then it can use nothing of asyncio's that
    wants one, its timeouts say. ``on_refusal`` is told the code of each request that the application never sees.
    ``strangers`` see ``Admission``.
    """

    def __init__(
        self, app: AsgiApplication, limits: HttpLimits, on_refusal: Callable[[str], None], strangers: int = 0
    ) -> None:
        self.app = app
        self.limits = limits
        self.on_refusal = on_refusal
        self.draining = False
        """Every answer is the last on its connection, so that none is cut off when the server closes."""
        self._asking: dict[Connection, None] = {}
        self.room = Admission(
            limits.connections,
            strangers,
            {
                Phase.ENTERING: limits.head_seconds,
                Phase.IDLE: limits.idle_seconds,
                Phase.RECEIVING: limits.request_seconds,
                Phase.ANSWERING: limits.request_seconds,
                Phase.CLOSING: min(_LINGER_SECONDS, limits.request_seconds),
            },
            min(TICK_SECONDS, limits.request_seconds / 4),
        )

    def protocol(self, *, server_state: Any, **_: Any) -> asyncio.Protocol:
        """A connection, with the arguments that uvicorn gives its protocols."""
        return Connection(self, server_state.connections)

    def answer_soon(self, connection: Connection) -> None:
        """Have it go on in the event loop's next turn, after all that came in this turn was read.

        Reading and answering in turns, request by request, would each find the processor's caches full of the other:
        a twentieth of what a request costs under load.
        """
        if not self._asking:
            asyncio.get_running_loop().call_soon(self._answer)
        self._asking[connection] = None

    def _answer(self) -> None:
        asking, self._asking = self._asking, {}
        for connection in asking:
            connection.go_on()

    def abort(self) -> None:
        """Close all, whatever they do."""
        for connection in self.room:
            connection.abort()


class Connection(asyncio.Protocol):
    """One connection. ``since`` is the tick at which its present phase began."""

    def __init__(self, connections: Connections, of_uvicorn: MutableSet[Any]) -> None:
        self._all = connections
        self._of_uvicorn = of_uvicorn
        self._limits = connections.limits
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self.since = connections.room.tick
        # What it is at.
        self._in_message = self._deciding = self._stuck = self._closing = False
        self._paused = self._eof = False
        # The request that is being received.
        self._headers: Headers = ()
        self._in_head = True
        self._received = self._size = 0
        self._target = b""
        self._parts: list[bytes] = []
        self._unread = b""
        # Those that are complete, the one that is being answered, and the last words.
        self._asked: deque[_Asked] = deque()
        self._now: _Asked | None = None
        self._start: Mapping[str, Any] = {}
        self._refusal: Refusal | None = None
        self._rest = memoryview(b"")
        self._last = False

    @property
    def phase(self) -> Phase:
        """What it is at."""
        if self._closing:
            return Phase.CLOSING
        if self._deciding:
            return Phase.DECIDING
        if self._stuck:
            return Phase.ANSWERING
        if len(self._asked) == 1:  # it is answered in the loop's next turn
            return Phase.DECIDING
        return Phase.RECEIVING if self._in_message or self._asked or self._unread else Phase.IDLE

    # -- asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open."""
        self._transport = transport
        self._of_uvicorn.add(self)
        self._all.room.admit(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Closed, by whomever."""
        del error
        self._all.room.forget(self)
        self._of_uvicorn.discard(self)
        self._closing = True
        self._asked.clear()
        self._parser = None  # they refer to each other

    def data_received(self, data: bytes) -> None:
        """Take what came, as far as there is a request to answer."""
        if self._unread or len(data) > _SLICE:
            self._unread += data
            self._read()
        else:
            self._feed(data)
        if self._asked:
            self._all.answer_soon(self)
        else:
            self.go_on()

    def eof_received(self) -> bool:
        """The peer sends no more; it may still read."""
        self._eof = self._last = True
        if self._in_message:
            self._refuse(400, "incomplete_request", "the request ends before it is complete")
            self.go_on()
        return self.phase in (Phase.DECIDING, Phase.ANSWERING)

    def pause_writing(self) -> None:
        """The peer does not read its answers: it gets no further ones."""
        self._stuck = True
        self.since = self._all.room.tick
        self._pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self._stuck = False
        self.since = self._all.room.tick
        self._write_on()
        self.go_on()

    # -- the parser's calls, which note and do nothing

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._in_message = self._in_head = True
        self._target = b""
        self.since = self._all.room.tick

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._target += url

    def on_headers_complete(self) -> None:
        """The body follows, if there is one."""
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._size += len(body)
        if self._size <= self._limits.body_bytes:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """A request's last byte."""
        self._in_message = False
        self.since = self._all.room.tick
        if self._size > self._limits.body_bytes:
            return
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        method = self._parser.get_method().decode("ascii")
        self._asked.append(_Asked(method, self._target, body, self._parser.should_keep_alive(), self._headers))
        parts.clear()
        self._received = self._size = 0
        self._in_head = True

    # -- what others want of it

    def shutdown(self) -> None:
        """The server closes: this answer is the last."""
        self._last = True
        if self.phase is Phase.IDLE:
            self.close()

    def close(self) -> None:
        """Close as soon as everything is written."""
        self._closing = True
        self.since = self._all.room.tick
        self._transport.close()

    def make_way(self) -> None:
        """Its place is somebody else's: what its peer did not take by now is lost."""
        self.close()
        if self._transport.get_write_buffer_size():
            self.abort()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    def turn_away(self) -> None:
        """There is no room for it."""
        self._last = True
        self._say(NO_PLACE)
        self.close()

    def give_up(self) -> None:
        """The peer let us wait for too long."""
        phase = self.phase
        if phase is Phase.IDLE:
            self.close()
        elif phase in (Phase.RECEIVING, Phase.ENTERING):
            self._refuse(408, TOO_SLOW, "the request did not come in time")
            self.go_on()
        else:
            self.abort()

    # -- receiving

    def _read(self) -> None:
        """Parse what is unread until a request is complete: of many that came at once, the others wait."""
        start = 0
        while start < len(self._unread) and not self._asked:
            self._feed(self._unread[start : start + _SLICE])
            start += _SLICE
        self._unread = self._unread[start:]

    def _feed(self, data: bytes) -> None:
        """Parse. What follows a refusal, or the last request, is not read."""
        if self._refusal is not None or self._last or self._parser is None:
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request is answered as it is, if it is taken; what follows would be another protocol.
            if self._refusal is None:
                self._asked[-1] = self._asked[-1]._replace(keep=False)
            return
        except httptools.HttpParserError as error:
            self._refuse(400, "bad_request", f"this is no HTTP/1.1 request: {error}")
            return
        limits = self._limits
        if self._size > limits.body_bytes or self._received > limits.head_bytes + 2 * limits.body_bytes:
            self._refuse(413, "body_too_large", f"a body has at most {limits.body_bytes} bytes")
        elif self._in_head and self._received > limits.head_bytes:
            self._refuse(431, "headers_too_large", f"a request's head has at most {limits.head_bytes} bytes")

    def _refuse(self, status: int, code: str, message: str, headers: Headers = ()) -> None:
        """Answer what came before, then this, and close."""
        if self._refusal is None:
            self._refusal = Refusal(status, code, message, headers)
            self._in_message = False
            self._parts.clear()
            self._all.on_refusal(code)

    # -- answering

    def go_on(self) -> None:
        """Answer what is asked, in order, one request in a turn of the loop: others are in it, too."""
        if self._deciding or self._stuck or self._closing:
            return
        if self._unread and not self._asked:
            self._read()
        if self._asked:
            self._now = asked = self._asked.popleft()
            if not asked.keep:
                self._last = True
                self._asked.clear()
                self._refusal = None
            elif self._all.draining and not self._asked and self._refusal is None:
                self._last = True
            self._begin(asked)
        if self._deciding or self._stuck or self._closing:
            return
        if self._asked or self._unread:
            self._pause_reading()
            self._all.answer_soon(self)
            return
        if self._refusal is not None:
            self._last = True
            self._say(self._refusal)
        if self._last and not self._in_message:
            self._linger()
        elif self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _begin(self, asked: _Asked) -> None:
        """Run the application on a request. If it waits for something it gets a task, and ``_finished`` goes on."""
        running = self._all.app(_scope(asked.method, asked.target, asked.headers), self._receive, self._send)
        try:
            awaited = running.send(None)
        except StopIteration:
            return
        self._deciding = True
        self._pause_reading()
        task = asyncio.get_running_loop().create_task(_wait_for(_Rest(running, awaited)))
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._deciding = False
        self.since = self._all.room.tick
        if task.cancelled() or task.exception() is not None:
            self.abort()
            task.result()  # a bug: the loop logs it
        self.go_on()

    async def _receive(self) -> dict[str, Any]:
        """ASGI's ``receive``: the body, which is there."""
        return {"type": "http.request", "body": self._now.body if self._now is not None else b""}

    async def _send(self, event: Mapping[str, Any]) -> None:
        """ASGI's ``send``."""
        if event["type"] == "http.response.start":
            self._start = event
        else:
            self._write(self._start["status"], self._start["headers"], event["body"])

    def _say(self, refusal: Refusal) -> None:
        """A refusal, which answers no request in particular."""
        self._now = None
        body = fault_body(refusal.code, refusal.message)
        headers = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
        self._write(refusal.status, (*headers, *refusal.headers), body)

    def _write(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        if self._parser is None:
            return  # nobody is there any more
        head = _head(status, tuple(headers), last=self._last and not self._asked)
        data = head if self._now is not None and self._now.method == "HEAD" else head + body
        if len(data) <= _PIECE:
            self._transport.write(data)
        else:
            self._rest = memoryview(data)
            self._write_on()

    def _write_on(self) -> None:
        """Write what is left of a large answer as the peer takes it: over TLS a transport would take it all."""
        while self._rest and not self._stuck:
            piece, self._rest = self._rest[:_PIECE], self._rest[_PIECE:]
            self._transport.write(piece)

    def _linger(self) -> None:
        """Let the peer read what was written: closing at once would take it away if more is still coming in."""
        self._closing = True
        self.since = self._all.room.tick
        if self._eof:
            self._transport.close()
            return
        if self._transport.can_write_eof():  # not over TLS: the peer sees by the answer's length that it is whole
            self._transport.write_eof()
        if self._paused:
            self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()


def _scope(method: str, target: bytes, headers: Headers) -> Mapping[str, Any]:
    """ASGI's ``scope``."""
    path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": "1.1",
        "method": method,
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "headers": headers,
    }


@lru_cache(_HEADS_KEPT)
def _head(status: int, headers: Headers, *, last: bool) -> bytes:
    """An answer's bytes before its body. There are as many as there are lengths of replies."""
    lines = [_STATUS_LINES[status], *[b"%b: %b\r\n" % header for header in headers]]
    lines.append(b"connection: close\r\n\r\n" if last else b"\r\n")
    return b"".join(lines)


class _Rest:
    """What is left of a coroutine that was begun without a task and waits for the future ``awaited``."""

    def __init__(self, running: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._running = running
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, None]:
        yield self._awaited
        yield from self._running.__await__()


async def _wait_for(rest: _Rest) -> None:
    """Tasks are made of coroutines alone."""
    await rest
