"""The one way in which connections from outside are accepted: bound, counted, encrypted, and told what they are.

What is spoken on them is somebody else's: ``guarded`` speaks HTTP, ``relay`` carries gRPC.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from extproc.errors import DropoutError, InvalidInput
from extproc.net.admission import Admission, Phase
from extproc.net.callers import Origin, origin_of
from extproc.net.endpoints import (
    TcpEndpoint,
    UnixEndpoint,
    allow_descriptors,
    bind_tcp,
    bind_unix,
    prepare_folder,
    probe_unix,
    take_place,
    tcp_fault,
)
from extproc.net.listening import Listening
from extproc.net.sockets import SocketWatch
from extproc.net.tls import Contexts
from extproc.trouble import Troubles

logger = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 2.0
"""How long a port may be in use: a predecessor that drains keeps it to the end."""

_BACKLOG: Final = 1024
_AT_ONCE: Final = 64
"""Connections that are accepted in one turn of the loop."""

_CHECK_SECONDS: Final = 0.5
_PAUSE_SECONDS: Final = 0.2
"""After the system had no descriptor or memory left for a connection."""

_DESCRIPTORS: Final = 16 * 1024

Protocol = Callable[[Origin], asyncio.Protocol]
"""Makes what speaks on a connection; it admits itself to the listener's room when it is made."""


class Listener:
    """Accepts connections at one address, and hands each to what ``protocol`` makes. Belongs to one event loop.

    ``room`` is theirs, and already counts them while they are encrypted. ``speaks`` is the protocol's name (ALPN).

    Raises:
        InvalidInput: ``tls_invalid``.
    """

    def __init__(self, listening: Listening, room: Admission, protocol: Protocol, speaks: str) -> None:
        self._listening = listening
        self._room = room
        self._protocol = protocol
        self._contexts = Contexts(listening.tls, speaks) if listening.tls is not None else None
        self._socket: socket.socket | None = None
        self._watch = SocketWatch(None)
        self._arriving: set[asyncio.Task[None]] = set()
        self.endpoint = listening.endpoint
        """Where it listens; once it has started, with the port that it got."""

        self._troubles = Troubles(logger.warning)
        self.hindrance = ""
        """Why nobody finds it at its endpoint at the moment; empty while they do."""

    async def start(self, *, first: bool = True) -> None:
        """Listen. ``first``: whoever else listens there is not to be replaced.

        Raises:
            InvalidInput: ``address_in_use``, ``address_invalid``, ``socket_path_taken``, ``socket_folder_open`` and its
                like.
        """
        loop, endpoint, flag = asyncio.get_running_loop(), self.endpoint, self._listening.flag
        self._room.fit(allow_descriptors(_DESCRIPTORS))
        if first and isinstance(endpoint, UnixEndpoint):
            prepare_folder(endpoint.path.parent, flag)
            probe_unix(endpoint, frozenset(), flag)
        until = loop.time() + PATIENCE_SECONDS
        while True:
            try:
                bound = _bind(endpoint)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or loop.time() > until:
                    raise InvalidInput([tcp_fault(error, endpoint.target, flag)]) from error
            await asyncio.sleep(0.05)
        self._listen(bound)

    async def watch(self) -> None:
        """See for ever whether clients find it at its endpoint; see ``check``."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            self.check()

    def check(self) -> None:
        """Listen anew if nobody finds it at its endpoint any more, and say once why that cannot be.

        Whoever else answers there is left alone.
        """
        self.hindrance = self._found()
        service = f"{self._listening.flag.lstrip('-')} at {self.endpoint.target}"
        self._troubles.note(service, *([f"nobody finds it: {self.hindrance}"] if self.hindrance else ()))

    def _found(self) -> str:
        """Be found; why that cannot be, empty if it is so."""
        endpoint = self.endpoint
        if self._socket is None or not isinstance(endpoint, UnixEndpoint) or not self._watch.lost(endpoint):
            return ""
        try:
            hindrance = self._watch.make_room(endpoint, ()) or ""
            if not hindrance:
                probe_unix(endpoint, frozenset(), self._listening.flag)
                self._listen(_bind(endpoint))
        except DropoutError as error:
            return error.faults[0].message
        except OSError as error:
            return f"{endpoint.path}: {error.strerror}"
        return hindrance

    def close(self) -> None:
        """Take no more connections, and leave no socket behind."""
        endpoint = self.endpoint
        if self._socket is None:
            return
        self._stop_accepting()
        self._socket = None
        with suppress(OSError):
            # A successor may have put its own there.
            if isinstance(endpoint, UnixEndpoint) and not self._watch.lost(endpoint):
                endpoint.path.unlink()

    async def end(self, grace: float) -> None:
        """Let go of the connections, which get ``grace`` seconds for what they are at."""
        self.close()
        await self._room.empty(grace)
        await asyncio.gather(*self._arriving, return_exceptions=True)

    # -- accepting

    def _listen(self, bound: socket.socket) -> None:
        """Accept at ``bound``; connections that were made before go on.

        Raises:
            InvalidInput: ``address_invalid``; it goes on as before.
        """
        bound.listen(_BACKLOG)
        bound.setblocking(False)
        endpoint = self.endpoint
        if isinstance(endpoint, UnixEndpoint):
            try:
                take_place(endpoint, self._listening.flag)
            except InvalidInput:
                bound.close()
                raise
            self._watch.bound(endpoint)
        self._stop_accepting()
        self._socket = bound
        asyncio.get_running_loop().add_reader(bound, self._accept)
        if isinstance(endpoint, TcpEndpoint):
            self.endpoint = TcpEndpoint(*bound.getsockname()[:2])

    def _stop_accepting(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if self._socket is None:
                return
            try:
                connection, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._pause(self._socket)
                return
            connection.setblocking(False)
            try:
                origin = origin_of(connection)
            except OSError:  # it is gone already
                connection.close()
                continue
            self._take(connection, origin)

    def _pause(self, listener: socket.socket) -> None:
        """Accept again a little later; what waits meanwhile waits in the system."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)

        def go_on() -> None:
            if listener is self._socket:
                loop.add_reader(listener, self._accept)

        loop.call_later(_PAUSE_SECONDS, go_on)

    def _take(self, connection: socket.socket, origin: Origin) -> None:
        if isinstance(self.endpoint, TcpEndpoint):
            _notice_death(connection)
        arrival = _Arrival(self._room, connection, lambda found: self._protocol(origin._replace(**found)))
        if not self._room.admit(arrival):
            return
        context = {"ssl": self._contexts.current()} if self._contexts is not None else {}
        arrival.task = asyncio.get_running_loop().create_task(arrival.enter(context))
        self._arriving.add(arrival.task)
        arrival.task.add_done_callback(self._arriving.discard)


class _Arrival(asyncio.Protocol):
    """A connection until it is encrypted; what is then spoken on it takes its place. A ``Guest``."""

    phase = Phase.ENTERING

    def __init__(
        self, room: Admission, connection: socket.socket, make: Callable[[dict[str, Any]], asyncio.Protocol]
    ) -> None:
        self._room = room
        self._connection: socket.socket | None = connection
        self._make = make
        self.since = room.tick
        self.task: asyncio.Task[None] | None = None

    async def enter(self, context: dict[str, Any]) -> None:
        """Have it encrypted, within the time that its room gives it."""
        connection, self._connection = self._connection, None
        assert connection is not None
        try:  # from here on it is the transport's, which closes it if this fails
            await asyncio.get_running_loop().connect_accepted_socket(lambda: self, connection, **context)
        except OSError:  # a handshake that failed is one, too
            self._room.forget(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is encrypted, if it is to be."""
        self._room.forget(self)
        certificate = transport.get_extra_info("peercert")
        speaker = self._make({"certificate": certificate} if certificate else {})
        transport.set_protocol(speaker)
        speaker.connection_made(transport)

    def turn_away(self) -> None:
        """Close."""
        self.give_up()

    def give_up(self) -> None:
        """Close."""
        self._room.forget(self)
        if self.task is not None:
            self.task.cancel()
        if self._connection is not None:  # the task has not begun, and will not
            self._connection.close()

    make_way = shutdown = abort = give_up


def _bind(endpoint: UnixEndpoint | TcpEndpoint) -> socket.socket:
    """A socket bound to the endpoint, or to the name from which it is renamed. Raises ``OSError``."""
    if isinstance(endpoint, TcpEndpoint):
        return bind_tcp(endpoint.host, endpoint.port)
    return bind_unix(endpoint)


def _notice_death(connection: socket.socket) -> None:
    """Have the system end a connection whose other end is gone without a word, within two minutes."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
