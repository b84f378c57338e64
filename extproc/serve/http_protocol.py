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
from enum import Enum, auto
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import httptools

from extproc.datapath.transports.exchange import FAULT_MALFORMED, FAULT_SILENT, OnFault
from extproc.datapath.transports.http import fault_body

Application = Callable[..., Coroutine[Any, Any, None]]

_TICK_SECONDS: Final = 1.0
_LINGER_SECONDS: Final = 2.0
"""How long a peer gets to read the last answer and close; what it still sends is not read as a request."""

_SLICE: Final = 16 * 1024
"""Limits are looked at after so many bytes."""

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
    ``connections`` the oldest that waits for its peer goes.
    """

    head_bytes: int = 64 * 1024
    body_bytes: int = 1024 * 1024
    request_seconds: float = 10.0
    idle_seconds: float = 3700.0
    connections: int = 1024


_Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Door:
    """What tells those whom a server knows from strangers: ``knows``, by the ``headers`` (in small letters) it reads.

    A stranger waits among strangers, as many again as there may be connections, and takes the place of none who is
    known; what it sends as a body is not kept.
    """

    headers: frozenset[bytes]
    knows: Callable[[_Headers], bool]


class _Phase(Enum):
    IDLE = auto()
    RECEIVING = auto()
    DECIDING = auto()
    ANSWERING = auto()
    CLOSING = auto()


class _Asked(NamedTuple):
    """A request that is complete."""

    method: str
    target: bytes
    body: bytes
    keep: bool
    headers: _Headers


class _Refusal(NamedTuple):
    """The last answer on a connection."""

    status: int
    code: str
    message: str


class Connections:
    """All open connections of one server. ``protocol`` is what uvicorn makes each of them with.

    ``app`` is begun without a task, and gets one when it first waits: until then it can use nothing of asyncio's that
    wants one, its timeouts say. It is given the headers that the ``door`` reads; without one everybody is known.
    """

    def __init__(self, app: Application, limits: HttpLimits, on_fault: OnFault, door: Door | None = None) -> None:
        self.app = app
        self.limits = limits
        self.door = door
        self.on_fault = on_fault
        self.draining = False
        """Every answer is the last on its connection, so that none is cut off when the server closes."""
        self.tick = 0
        self._open: dict[Connection, None] = {}
        self._strangers: dict[Connection, None] = {}
        self._asking: list[Connection] = []
        self._timer: asyncio.TimerHandle | None = None
        self._seconds = {
            _Phase.IDLE: limits.idle_seconds,
            _Phase.RECEIVING: limits.request_seconds,
            _Phase.ANSWERING: limits.request_seconds,
            _Phase.CLOSING: min(_LINGER_SECONDS, limits.request_seconds),
        }
        self._tick_seconds = min(_TICK_SECONDS, limits.request_seconds / 4)

    def protocol(self, *, server_state: Any, **_: Any) -> asyncio.Protocol:
        """A connection, with the arguments that uvicorn gives its protocols."""
        if self.door is None:
            return Connection(self, server_state.connections)
        return GuardedConnection(self, server_state.connections, self.door)

    def __len__(self) -> int:
        """Open connections."""
        return len(self._open) + len(self._strangers)

    def admit(self, connection: Connection) -> None:
        """Count a new connection; at the limit it takes the place of an older one, or is turned away."""
        room = self._open if self.door is None else self._strangers
        if not self._make_room(room):
            connection.turn_away()
            return
        room[connection] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick_seconds, self._sweep)

    def introduce(self, connection: Connection) -> None:
        """A stranger is known from now on. While all who are known are being answered it stays among strangers."""
        if connection in self._strangers and self._make_room(self._open):
            del self._strangers[connection]
            self._open[connection] = None

    def _make_room(self, among: dict[Connection, None]) -> bool:
        """Whether there is a place; the oldest of ``among`` that waits for its peer gives up its own."""
        if len(among) < self.limits.connections:
            return True
        oldest = next((other for other in among if other.phase is not _Phase.DECIDING), None)
        if oldest is None:
            return False
        self.forget(oldest)
        oldest.close()
        return True

    def answer_soon(self, connection: Connection) -> None:
        """Have it go on in the event loop's next turn, after all that came in this turn was read.

        Reading and answering in turns, request by request, would each find the processor's caches full of the other:
        a twentieth of what a request costs under load.
        """
        if not self._asking:
            asyncio.get_running_loop().call_soon(self._answer)
        self._asking.append(connection)

    def _answer(self) -> None:
        asking, self._asking = self._asking, []
        for connection in asking:
            connection.go_on()

    def forget(self, connection: Connection) -> None:
        """It is closed."""
        self._open.pop(connection, None)
        self._strangers.pop(connection, None)

    def abort(self) -> None:
        """Close all, whatever they do."""
        for connection in [*self._open, *self._strangers]:
            connection.abort()

    def _sweep(self) -> None:
        """One tick: those who let us wait for too long."""
        self.tick += 1
        for connection in [*self._open, *self._strangers]:
            limit = self._seconds.get(connection.phase)
            if limit is not None and (self.tick - connection.since) * self._tick_seconds > limit:
                connection.give_up()
        self._timer = asyncio.get_running_loop().call_later(self._tick_seconds, self._sweep) if len(self) else None


class Connection(asyncio.Protocol):
    """One connection. ``since`` is the tick at which its present phase began."""

    def __init__(self, connections: Connections, of_uvicorn: MutableSet[Any]) -> None:
        self._all = connections
        self._of_uvicorn = of_uvicorn
        self._limits = connections.limits
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self.since = connections.tick
        # What it is at.
        self._in_message = self._deciding = self._stuck = self._closing = False
        self._paused = self._eof = False
        # The request that is being received.
        self._headers: _Headers = ()
        self._in_head = True
        self._received = self._size = 0
        self._target = b""
        self._parts: list[bytes] = []
        # Those that are complete, the one that is being answered, and the last words.
        self._asked: deque[_Asked] = deque()
        self._now: _Asked | None = None
        self._start: Mapping[str, Any] = {}
        self._refusal: _Refusal | None = None
        self._last = False

    @property
    def phase(self) -> _Phase:
        """What it is at."""
        if self._closing:
            return _Phase.CLOSING
        if self._deciding:
            return _Phase.DECIDING
        if self._stuck:
            return _Phase.ANSWERING
        if self._asked:  # it is answered in the loop's next turn
            return _Phase.DECIDING
        return _Phase.RECEIVING if self._in_message else _Phase.IDLE

    # -- asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open."""
        self._transport = transport
        self._of_uvicorn.add(self)
        self._all.admit(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Closed, by whomever."""
        del error
        self._all.forget(self)
        self._of_uvicorn.discard(self)
        self._closing = True
        self._asked.clear()
        self._parser = None  # they refer to each other

    def data_received(self, data: bytes) -> None:
        """Take what came; answer every request that is complete."""
        if len(data) <= _SLICE:
            self._feed(data)
        else:
            for start in range(0, len(data), _SLICE):
                self._feed(data[start : start + _SLICE])
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
        return self.phase in (_Phase.DECIDING, _Phase.ANSWERING)

    def pause_writing(self) -> None:
        """The peer does not read its answers: it gets no further ones."""
        self._stuck = True
        self.since = self._all.tick
        self._pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self._stuck = False
        self.since = self._all.tick
        self.go_on()

    # -- the parser's calls, which note and do nothing

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._in_message = self._in_head = True
        self._target = b""
        self.since = self._all.tick

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
        self.since = self._all.tick
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
        """uvicorn's word that the server closes: this answer is the last."""
        self._last = True
        if self.phase is _Phase.IDLE:
            self.close()

    def close(self) -> None:
        """Close as soon as everything is written."""
        self._closing = True
        self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    def turn_away(self) -> None:
        """There is no room for it."""
        self._last = True
        self._say(_Refusal(503, "too_many_connections", "the server has all the connections that it takes"))
        self.close()

    def give_up(self) -> None:
        """The peer let us wait for too long."""
        phase = self.phase
        if phase is _Phase.IDLE:
            self.close()
        elif phase is _Phase.RECEIVING:
            self._refuse(408, "request_timeout", "the request did not come in time", FAULT_SILENT)
            self.go_on()
        else:
            self.abort()

    # -- receiving

    def _feed(self, data: bytes) -> None:
        """Parse. What follows a refusal, or the last request, is not read."""
        if self._refusal is not None or self._last or self._parser is None:
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request is answered as it is; what follows would be another protocol.
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

    def _refuse(self, status: int, code: str, message: str, fault: str = FAULT_MALFORMED) -> None:
        """Answer what came before, then this, and close."""
        if self._refusal is None:
            self._refusal = _Refusal(status, code, message)
            self._in_message = False
            self._parts.clear()
            self._all.on_fault(fault)

    # -- answering

    def go_on(self) -> None:
        """Answer what is asked, in order, until something must be waited for."""
        while self._asked and not (self._deciding or self._stuck):
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
        self.since = self._all.tick
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

    def _say(self, refusal: _Refusal) -> None:
        """A refusal, which answers no request in particular."""
        self._now = None
        body = fault_body(refusal.code, refusal.message)
        headers = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
        self._write(refusal.status, headers, body)

    def _write(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        if self._parser is None:
            return  # nobody is there any more
        head = _head(status, tuple(headers), last=self._last and not self._asked)
        self._transport.write(head if self._now is not None and self._now.method == "HEAD" else head + body)

    def _linger(self) -> None:
        """Let the peer read what was written: closing at once would take it away if more is still coming in."""
        self._closing = True
        self.since = self._all.tick
        if self._eof:
            self._transport.close()
            return
        self._transport.write_eof()
        if self._paused:
            self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()


class GuardedConnection(Connection):
    """One that has to show who it is: it keeps the headers that the door reads."""

    def __init__(self, connections: Connections, of_uvicorn: MutableSet[Any], door: Door) -> None:
        super().__init__(connections, of_uvicorn)
        self._door = door
        self._known = False

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._headers = ()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is none."""
        name = name.lower()
        if self._in_head and name in self._door.headers:
            self._headers = (*self._headers, (name, value))

    def on_headers_complete(self) -> None:
        """The body follows, if there is one; it is kept if the request's head says who sends it."""
        super().on_headers_complete()
        self._known = self._door.knows(self._headers)
        if self._known:
            self._all.introduce(self)

    def on_body(self, body: bytes) -> None:
        """A part of the body: a stranger's has a size and nothing else."""
        super().on_body(body)
        if not self._known:
            self._parts.clear()


def _scope(method: str, target: bytes, headers: _Headers) -> Mapping[str, Any]:
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
def _head(status: int, headers: _Headers, *, last: bool) -> bytes:
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
