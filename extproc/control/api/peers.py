"""Who is at the other end of the control socket: gRPC does not tell, so the socket that clients connect to is ours.

The system says who made each connection (SO_PEERCRED). Its bytes are relayed to gRPC through a socket bound to a
random abstract name, which gRPC gives as the peer of each call. Only names that were noted here are believed, and
nobody but this process has a way to gRPC's own socket: it is unlinked as soon as it is bound.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from extproc.errors import DropoutError
from extproc.serve.credentials import Peer, peer_of
from extproc.serve.endpoints import UnixEndpoint, private_sockets, probe_unix
from extproc.serve.sockets import SocketWatch

MAX_CONNECTIONS: Final = 64
"""Connections at a time; one more is closed at once."""

_CHUNK: Final = 65536


class PeerRelay:
    """Takes connections at ``endpoint`` and relays them to the Unix socket that ``hidden`` holds. One event loop's.

    ``hidden`` is an O_PATH descriptor, so that the socket needs no name.
    """

    def __init__(self, endpoint: UnixEndpoint, hidden: int) -> None:
        self._endpoint = endpoint
        self._hidden = hidden
        self._peers: dict[str, Peer] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._watch = SocketWatch(None)

    async def start(self) -> None:
        """Listen, for this user alone (0600); what was at the path is replaced in one step."""
        listener = socket.socket(socket.AF_UNIX)
        with private_sockets():
            listener.bind(str(self._endpoint.temporary))
        before, self._server = self._server, await asyncio.start_unix_server(self._connected, sock=listener)
        self._endpoint.temporary.rename(self._endpoint.path)
        self._watch.bound(self._endpoint)
        if before is not None:
            before.close()  # connections that were made there go on

    async def look(self) -> str:
        """Listen anew if nobody finds this any more at the endpoint; why that cannot be, or nothing.

        What somebody else put there, who answers, is left alone.
        """
        if self._server is None or not self._watch.lost(self._endpoint):
            return ""
        try:
            hindrance = self._watch.make_room(self._endpoint, ())
            if hindrance is not None:
                return hindrance
            probe_unix(self._endpoint, frozenset())
            await self.start()
        except DropoutError as error:
            return error.faults[0].message
        except OSError as error:
            return f"{self._endpoint.path}: {error.strerror}."
        return ""

    def peer(self, name: str) -> Peer | None:
        """Who makes a call whose peer gRPC calls ``name``; None for a connection that did not come this way."""
        return self._peers.get(name)

    def close(self) -> None:
        """Take no more connections, and leave no socket behind."""
        if self._server is not None:
            self._server.close()
        with suppress(OSError):
            if not self._watch.lost(self._endpoint):  # a successor may have put its own there
                self._endpoint.path.unlink()

    async def end(self) -> None:
        """Let go of the connections that are left."""
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        client: socket.socket = writer.get_extra_info("socket")
        name = f"dropout-control-{secrets.token_hex(16)}"
        try:
            if len(self._peers) < MAX_CONNECTIONS:
                self._peers[f"unix-abstract:{name}"] = peer_of(client)
                await self._relay(reader, writer, name)
        except (OSError, asyncio.CancelledError):
            pass  # one of the two ends went away, or we do
        finally:
            self._connections.discard(task)
            self._peers.pop(f"unix-abstract:{name}", None)
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
        inner = socket.socket(socket.AF_UNIX)
        inner.bind(f"\0{name}")
        inner.connect(f"/proc/self/fd/{self._hidden}")
        to_grpc: tuple[asyncio.StreamReader, asyncio.StreamWriter] = await asyncio.open_unix_connection(sock=inner)
        pumps = [asyncio.create_task(_pump(reader, to_grpc[1])), asyncio.create_task(_pump(to_grpc[0], writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            to_grpc[1].close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()


def hide(path: Path) -> int:
    """A descriptor of the socket at ``path``, which no longer has a name then: nobody else can connect to it."""
    hidden = os.open(path, os.O_PATH | os.O_CLOEXEC)
    path.unlink()
    return hidden
