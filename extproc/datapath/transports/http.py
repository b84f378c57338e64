"""ext_proc over HTTP: a raw ASGI callable, one POST for each HTTP request, the answer a ProcessingResponse in JSON.

What is no question gets a 4xx with ``{"code", "message"}``, which Envoy takes as it takes a broken gRPC stream.
The server below holds the limits on bytes and time (``net/http_protocol.py``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from extproc.datapath.attributes import AttributeReader
from extproc.datapath.transports import http_codec
from extproc.datapath.transports.exchange import FAULT_MALFORMED, Exchange, MalformedMessage, OnFault, RequestHandler
from extproc.net.answers import fault_body

PROCESS_PATH: Final = "/v1/process"
HEALTH_PATH: Final = "/healthz"
"""Whether the worker takes requests: not while it drains."""

ALIVE_PATH: Final = "/livez"
"""Whether it answers at all, while it drains too: what our Envoy configuration asks for, and why is said there."""


Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_JSON: Final = (b"content-type", b"application/json")
_STARTS_KEPT: Final = 256
_NOTHING_ASKED: Final = b"{}"
_READ: Final = ("GET", "HEAD")
_PATHS: Final = (PROCESS_PATH, HEALTH_PATH, ALIVE_PATH)


class ExtProcApplication:
    """Answers ``POST /v1/process`` with what ``process`` decides, ``GET /healthz`` and ``GET /livez`` with its health.

    ``process`` and ``on_fault`` are those of ``Exchange``. Belongs to one event loop. Nothing is awaited unless
    ``process`` waits for something.
    """

    def __init__(
        self,
        process: RequestHandler,
        *,
        reader: AttributeReader | None = None,
        on_fault: OnFault = lambda _fault: None,
    ) -> None:
        self._exchange = Exchange(http_codec, process, reader=reader, on_fault=on_fault)
        self.serving = True

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        path, method = scope["path"], scope["method"]
        if path == PROCESS_PATH and method == "POST":
            await self._process(receive, send)
        elif path == HEALTH_PATH and method in _READ:
            await self._health(send, serving=self.serving)
        elif path == ALIVE_PATH and method in _READ:
            await self._health(send, serving=True)
        elif path in _PATHS:
            allowed = "POST" if path == PROCESS_PATH else ", ".join(_READ)
            allow = (b"allow", allowed.encode())
            await _answer(send, 405, fault_body("method_not_allowed", f"{path} takes {allowed}"), _JSON, allow)
        else:
            await _answer(send, 404, fault_body("not_found", f"there is {', '.join(_PATHS)}"), _JSON)

    async def _process(self, receive: Receive, send: Send) -> None:
        event = await receive()
        body = event["body"]
        while event.get("more_body"):
            event = await receive()
            body += event["body"]
        try:
            reply = await self._exchange.reply(body)
        except MalformedMessage as error:
            self._exchange.on_fault(FAULT_MALFORMED)
            await _answer(send, 400, fault_body(FAULT_MALFORMED, str(error)), _JSON)
        else:
            await _answer(send, 200, _NOTHING_ASKED if reply is None else reply, _JSON)

    @staticmethod
    async def _health(send: Send, *, serving: bool) -> None:
        if serving:
            await _answer(send, 200, b'{"status":"SERVING"}', _JSON)
        else:
            await _answer(send, 503, b'{"status":"NOT_SERVING"}', _JSON)


async def _answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    await send(_start(status, len(body), headers))
    await send({"type": "http.response.body", "body": body})


@lru_cache(_STARTS_KEPT)
def _start(status: int, length: int, headers: tuple[tuple[bytes, bytes], ...]) -> Mapping[str, Any]:
    """The first event of an answer."""
    headers = (*headers, (b"content-length", b"%d" % length))
    return {"type": "http.response.start", "status": status, "headers": headers}
