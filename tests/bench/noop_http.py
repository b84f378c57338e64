"""The yardstick over HTTP: a raw ASGI callable on uvicorn that answers every request with the same bytes.

uvloop, httptools, Unix socket, uvicorn's own protocol: what any Python server pays that Envoy asks over HTTP.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from extproc.datapath.transports.http_codec import encode
from tests.bench.noop import MUTATION

_BODY = encode(MUTATION)
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[..., Awaitable[None]]
) -> None:
    """Read all of the question, give the answer."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})


if __name__ == "__main__":
    uvicorn.run(
        app,
        uds=sys.argv[1],
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        access_log=False,
        log_level="critical",
        timeout_keep_alive=3700,  # longer than Envoy's pool keeps a connection, as ours
    )
