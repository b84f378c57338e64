"""One version of the model as a small ASGI app: what any model server is to Envoy.

``POST`` with ``{"measurements": [...]}`` answers the diagnosis, and the headers that Dropout set, for the demo to
check. ``GET /copies`` answers the decision ids of the requests that came as a shadow copy: those whose
``x-model-version`` names the other version. ``GET /patients`` answers the patients that users may ask about.
After SIGUSR1 it answers every ``POST`` with 500.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
import uvicorn
import uvloop

from extproc.demo.models import Classifier, patients
from extproc.names import HEADER_DECISION_ID, HEADER_VERSION, OWN_HEADERS

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class ModelApp:
    """Serves one version."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.classifier = Classifier(version)
        self.copies: list[str] = []
        self.broken = False

    def break_down(self, *_: object) -> None:
        """From now on there is no diagnosis."""
        self.broken = True

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; uvicorn runs this without lifespan and without websockets."""
        if scope["method"] == "GET":
            asked_for_patients = scope["path"] == "/patients"
            await _answer(send, 200, [tuple(patient) for patient in patients()] if asked_for_patients else self.copies)
            return
        own = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        seen = {name: own[name] for name in OWN_HEADERS if name in own}
        if seen.get(HEADER_VERSION, self.version) != self.version:
            self.copies.append(seen.get(HEADER_DECISION_ID, ""))
        body = orjson.loads(await _body(receive))
        malignant = None if self.broken else self.classifier.malignant(body["measurements"])
        document = {"version": self.version, "malignant": malignant, "seen": seen}
        await _answer(send, 500 if self.broken else 200, document)


async def _body(receive: Receive) -> bytes:
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


async def _answer(send: Send, status: int, document: Any) -> None:
    body = orjson.dumps(document)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """``python -m extproc.demo.app VERSION FD``: serve on a listening socket that the parent opened."""
    version, descriptor = sys.argv[1], int(sys.argv[2])
    app = ModelApp(version)
    signal.signal(signal.SIGUSR1, app.break_down)
    config = uvicorn.Config(app, lifespan="off", access_log=False, log_level="warning")
    # Envoy keeps its connections for an hour; a server that closed them first would race with the next request.
    config.timeout_keep_alive = 3700
    with socket.socket(fileno=descriptor) as listener:
        uvloop.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
