"""Requests that may go on for as long as both sides like, as far as their headers tell before there is an answer.

That such a request has not ended says nothing, so nobody waits for it; how it ends counts as any other's. It is the
client that says so, and all that it can take away by it is that its own request would be missing.
"""

from __future__ import annotations

from typing import Final

from extproc.datapath.model import Request

_EVENTS: Final = b"text/event-stream"
_GRPC: Final = b"application/grpc"


def may_stream(request: Request) -> bool:
    """Whether this is an upgrade (WebSocket), a tunnel, server-sent events, or gRPC, whose methods may all stream."""
    get = request.headers.get
    return (
        get("upgrade") is not None
        or request.method == "CONNECT"
        or _EVENTS in get("accept", b"")
        or get("content-type", b"").startswith(_GRPC)
    )
