"""Admin pages: a few, over HTTP, for people, scrapers and probes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from extproc.net.http_protocol import HttpLimits
from extproc.net.http_service import HttpService
from extproc.net.listener import Listener
from extproc.net.listening import Listening

logger = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 5.0
"""What a page may take to make."""

LIMITS: Final = HttpLimits(head_bytes=16 * 1024, body_bytes=0, request_seconds=5.0, idle_seconds=60.0, connections=64)

PROBES: Final = ("/healthz", "/livez", "/readyz")
"""Pages that anybody may see who may ask at all, and that wait for nothing."""

_READ: Final = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Page:
    """An answer."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Route = Callable[[], Awaitable[Page]]


class AdminServer:
    """Serves ``routes`` (path to page) as ``listening`` says; those of ``PROBES`` wait for nothing."""

    def __init__(self, listening: Listening, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._service = HttpService(listening, self._answer, LIMITS, [path.encode() for path in PROBES])

    @property
    def listener(self) -> Listener:
        """Where it listens."""
        return self._service.listener

    @property
    def url(self) -> str:
        """Where its pages are."""
        return self._service.url

    async def start(self) -> None:
        """Listen. Raises as ``Listener.start``."""
        await self._service.start()

    def close(self) -> None:
        """Listen no more."""
        self._service.listener.close()

    async def _answer(self, scope: Mapping[str, Any], _receive: Any, send: Any) -> None:
        """One request, as ASGI has it."""
        page = await self._page(scope["method"], scope["path"])
        headers = (
            (b"content-type", page.content_type.encode()),
            (b"content-length", b"%d" % len(page.body)),
            (b"cache-control", b"no-store"),
        )
        await send({"type": "http.response.start", "status": page.status, "headers": headers})
        await send({"type": "http.response.body", "body": page.body})

    async def _page(self, method: str, path: str) -> Page:
        route = self._routes.get(path)
        if route is None:
            return Page(404, f"{' '.join(sorted(self._routes))}\n".encode())
        if method not in _READ:
            return Page(405, b"GET or HEAD\n")
        try:
            if path in PROBES:
                return await route()
            await asyncio.sleep(0)  # what comes next has a task of its own
            async with asyncio.timeout(ANSWER_SECONDS):
                return await route()
        except TimeoutError:
            return Page(503, b"this takes too long; try again later\n")
        except Exception:
            logger.exception("the admin page %s failed", path)
            return Page(500, b"internal error\n")
