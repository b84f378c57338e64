"""Connections that are relayed to a gRPC server of this process, which does not tell who is at their other end.

Each is relayed from a socket with a random abstract name of its own, which gRPC gives as the peer of its calls: only
names that were made here are believed, and nobody but this process has a way to gRPC's own socket, which is unlinked as
soon as it is bound. A connection that does not begin as HTTP/2 does costs gRPC nothing.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from pathlib import Path
from typing import Any, Final

from extproc.net.admission import Admission, Phase
from extproc.net.callers import Origin
from extproc.net.guarded import STRANGERS

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client of HTTP/2 sends first (RFC 9113, section 3.4)."""

CONNECTIONS: Final = 1024
"""Of those who are known: each thread of each Envoy has one."""

ENTER_SECONDS: Final = 10.0
"""Until a connection's first call is one of somebody who is known."""

ENTER_BYTES: Final = 256 * 1024
"""What of it is relayed until then: room for the largest call of control, and little for each of many strangers."""

STUCK_SECONDS: Final = 10.0
"""What a client may leave unread for."""

IDLE_SECONDS: Final = 3700.0
"""Longer than the hour that Envoy keeps a connection in its pool."""


class Relay:
    """All connections that are relayed to the Unix socket that ``hidden``, an O_PATH descriptor, is of."""

    def __init__(self) -> None:
        self.hidden = -1
        self.room = Admission(
            CONNECTIONS,
            STRANGERS,
            {Phase.ENTERING: ENTER_SECONDS, Phase.IDLE: IDLE_SECONDS, Phase.ANSWERING: STUCK_SECONDS},
        )
        self._by_peer: dict[str, Relayed] = {}

    def enter(self, origin: Origin) -> asyncio.Protocol:
        """A connection that came from ``origin``."""
        return Relayed(self, origin)

    def found(self, peer: str) -> Relayed | None:
        """The connection of a call whose peer gRPC calls ``peer``; None for one that did not come this way."""
        return self._by_peer.get(peer)

    def keep(self, connection: Relayed) -> None:
        """It is relayed from now on."""
        self._by_peer[connection.peer] = connection

    def forget(self, connection: Relayed) -> None:
        """It is closed."""
        self._by_peer.pop(connection.peer, None)
        self.room.forget(connection)


class Relayed(asyncio.Protocol):
    """One connection, the client's end. A ``Guest``: at work while it has calls, which whoever serves them counts."""

    def __init__(self, relay: Relay, origin: Origin) -> None:
        self._relay = relay
        self._client: Any = None
        self._server: Any = None
        self._name = f"dropout-{secrets.token_hex(16)}"
        self._begun = b""
        self._connecting: asyncio.Task[None] | None = None
        self._stuck = self._closed = self._held = False
        self._relayed_bytes = 0
        self.origin = origin
        self.peer = f"unix-abstract:{self._name}"
        self._calls = 0
        self.since = relay.room.tick

    @property
    def phase(self) -> Phase:
        """What it is at."""
        if self._stuck:
            return Phase.ANSWERING
        if not self._relay.room.knows(self):
            return Phase.ENTERING
        return Phase.DECIDING if self._calls else Phase.IDLE

    # -- asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open."""
        self._client = transport
        self._relay.room.admit(self)

    def data_received(self, data: bytes) -> None:
        """From the client; to gRPC once it is clear that this is for gRPC."""
        if self._server is not None:
            self._relayed_bytes += len(data)
            self._server.write(data)
            if self._relay.room.knows(self):
                self.since = self._relay.room.tick
            elif self._relayed_bytes > ENTER_BYTES:
                self._read_on()
            return
        self._begun += data
        if not PREFACE.startswith(self._begun[: len(PREFACE)]):
            self.abort()
        elif len(self._begun) >= len(PREFACE) and self._connecting is None:
            self._client.pause_reading()
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def eof_received(self) -> None:
        """The client is gone: gRPC's clients do not close by halves."""

    def connection_lost(self, error: Exception | None) -> None:
        """Closed, by whomever."""
        del error
        self._closed = True
        self._relay.forget(self)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._server is not None:
            self._server.close()

    def pause_writing(self) -> None:
        """The client does not read: gRPC is not read from."""
        self._stuck = True
        self.since = self._relay.room.tick
        if self._server is not None:
            self._server.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self._stuck = False
        self.since = self._relay.room.tick
        if self._server is not None:
            self._server.resume_reading()

    # -- what others want of it

    def introduce(self, who: str) -> bool:
        """``who`` makes a call on it, who is known; whether there is a place for them."""
        introduced = self._relay.room.introduce(self, who)
        self._read_on()
        return introduced

    def begin(self) -> None:
        """A call is under way."""
        self._calls += 1

    def done(self, _context: object) -> None:
        """A call is over."""
        self._calls -= 1
        self.since = self._relay.room.tick

    def shutdown(self) -> None:
        """gRPC's server tells its clients itself, and closes."""

    def abort(self) -> None:
        """Close now."""
        self._client.abort()

    turn_away = give_up = make_way = abort

    # -- gRPC's end

    async def _connect(self) -> None:
        inner = socket.socket(socket.AF_UNIX)
        try:
            inner.setblocking(False)
            inner.bind(f"\0{self._name}")
            inner.connect(f"/proc/self/fd/{self._relay.hidden}")
            self._relay.keep(self)
            await asyncio.get_running_loop().create_unix_connection(lambda: _Inner(self), sock=inner)
        except OSError:  # gRPC has no room for it, or serves no more
            inner.close()
            self.abort()

    def relayed(self, server: Any) -> None:
        """gRPC's end is open."""
        if self._closed:
            server.close()
            return
        self._server = server
        server.write(self._begun)
        self._begun = b""
        if self._stuck:
            server.pause_reading()
        self._read_on()

    def send(self, data: bytes) -> None:
        """To the client."""
        self._client.write(data)

    def hold(self, held: bool) -> None:
        """Read no more of the client, or again."""
        self._held = held
        self._read_on()

    def _read_on(self) -> None:
        """Read of the client, unless gRPC has enough of it, or it is a stranger who sends more than entering takes."""
        if self._client.is_closing():
            return
        much = self._relayed_bytes > ENTER_BYTES and not self._relay.room.knows(self)
        (self._client.pause_reading if self._held or much else self._client.resume_reading)()

    def ended(self) -> None:
        """gRPC has closed its end: the client gets what is still to be sent."""
        self._client.close()


class _Inner(asyncio.Protocol):
    """The end of a relayed connection that gRPC is at."""

    def __init__(self, outer: Relayed) -> None:
        self._outer = outer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open."""
        self._outer.relayed(transport)

    def data_received(self, data: bytes) -> None:
        """From gRPC."""
        self._outer.send(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Closed, by whomever."""
        del error
        self._outer.ended()

    def pause_writing(self) -> None:
        """gRPC does not read."""
        self._outer.hold(True)

    def resume_writing(self) -> None:
        """It does again."""
        self._outer.hold(False)


def hide(path: Path) -> int:
    """A descriptor of the socket at ``path``, which no longer has a name then: nobody else can connect to it."""
    hidden = os.open(path, os.O_PATH | os.O_CLOEXEC)
    path.unlink()
    return hidden
