"""The admin endpoint: a few pages over HTTP/1.1, answered on the supervisor's loop.

Small on purpose: GET and HEAD, one request a connection, deadlines and bounds on everything a client can hold open.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from extproc.errors import InvalidInput
from extproc.serve.endpoints import TcpEndpoint, tcp_fault

logger = logging.getLogger(__name__)

REQUEST_SECONDS: Final = 5.0
"""What a client has to send its request in, and to take the answer."""

PATIENCE_SECONDS: Final = 2.0
"""How long a port may be in use: a predecessor that drains keeps its pages to the end."""

MAX_CONNECTIONS: Final = 64
MAX_HEAD_BYTES: Final = 16384

_PHRASES: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Error"}
_UNAVAILABLE: Final = "Service Unavailable"


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Route = Callable[[], Awaitable[Page]]


class AdminServer:
    """Serves ``routes`` (path to page). ``address`` is where, once it has started."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._connections = 0
        self.address = ""

    async def start(self, endpoint: TcpEndpoint) -> None:
        """Listen; port 0 takes any free port.

        Raises:
            InvalidInput: ``address_in_use`` or ``address_invalid``.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        while self._server is None:
            try:
                self._server = await asyncio.start_server(
                    self._connected, endpoint.host, endpoint.port, limit=MAX_HEAD_BYTES
                )
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                    raise InvalidInput([tcp_fault(error, endpoint.target, "--admin")]) from error
                await asyncio.sleep(0.05)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = TcpEndpoint(host, port).target

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                async with asyncio.timeout(REQUEST_SECONDS):
                    await self._answer(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            writer.transport.abort()  # the client is gone or too slow: what it does not take is not kept
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
        except (asyncio.LimitOverrunError, ValueError):
            method, page = "GET", Page(400, b"not a request\n")
        else:
            page = await self._page(method, target.partition("?")[0])
        phrase = _PHRASES.get(page.status, _UNAVAILABLE)
        writer.write(
            f"HTTP/1.1 {page.status} {phrase}\r\ncontent-type: {page.content_type}\r\n"
            f"content-length: {len(page.body)}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n".encode()
        )
        if method != "HEAD":
            writer.write(page.body)
        await writer.drain()
        with contextlib.suppress(RuntimeError):
            writer.write_eof()

    async def _page(self, method: str, path: str) -> Page:
        route = self._routes.get(path)
        if route is None:
            return Page(404, f"{' '.join(sorted(self._routes))}\n".encode())
        if method not in ("GET", "HEAD"):
            return Page(405, b"GET or HEAD\n")
        try:
            return await route()
        except Exception:
            logger.exception("the admin page %s failed", path)
            return Page(500, b"internal error\n")
