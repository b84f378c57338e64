"""Feature stores over HTTP, as a test makes them up: one that knows values, one that says what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import orjson

from extproc.testing.features import Values
from tests.support.local_http import LocalHttpServer, QuietHandler

TEMPLATE = """
request:
  path: /features
  batch: 8
  body:
    view: "{{view}}"
    names: "{{features}}"
    entities: ["{{join_keys}}"]
response:
  status: {at: "/entities/{{row}}/{{feature}}/status", present: [PRESENT]}
  value: /entities/{{row}}/{{feature}}/value
  nulls: value
  time: {at: "/entities/{{row}}/{{feature}}/at", format: unix_seconds}
"""
"""For the store that knows values."""


class KnowingStore(LocalHttpServer):
    """Answers what it was given of each entity, in the shape of ``TEMPLATE``."""

    def __init__(self, values: Values) -> None:
        known = {(key.view.name, key.entity): rows for key, rows in values.items()}

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802  # http.server's name
                asked = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
                rows = [known.get((asked["view"], tuple(each.values())), {}) for each in asked["entities"]]
                body = orjson.dumps(
                    {
                        "entities": [
                            {
                                name: {"status": "PRESENT", "value": row[name].value, "at": row[name].event_time}
                                for name in asked["names"]
                                if name in row
                            }
                            for row in rows
                        ]
                    }
                )
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                with suppress(ConnectionError):  # who asked has gone
                    self.end_headers()
                    self.wfile.write(body)

        super().__init__(Handler)


class Asked(NamedTuple):
    """A request: its line, without the version, its headers by lower-case names, its body."""

    line: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)


Saying = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]
"""Answers a request, or does something else to the connection."""


class ToldStore(NamedTuple):
    """One that says what it is told to say: where it listens, what it was asked, how many connections it had."""

    url: str
    asked: list[Asked]
    connections: list[int]


@asynccontextmanager
async def told(say: Saying) -> AsyncIterator[ToldStore]:
    """A store that answers every request with ``say``."""
    asked: list[Asked] = []
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(len(asked))
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            while True:
                request = await _request(reader)
                asked.append(request)
                await say(request, writer)
        writer.close()

    serving: set[asyncio.Task[None]] = set()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield ToldStore(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked, connections)
    finally:
        server.close()
        for each in serving:
            each.cancel()
        await asyncio.gather(*serving)


async def _request(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(line.rpartition(" ")[0], headers, body)


def answering(body: Any, status: int = 200, **headers: str) -> Saying:
    """Says ``body``, bytes as they are and anything else as JSON."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)

    async def say(_: Asked, writer: asyncio.StreamWriter) -> None:
        await send(writer, content, status, **headers)

    return say


async def send(writer: asyncio.StreamWriter, content: bytes, status: int = 200, **headers: str) -> None:
    """Write an answer."""
    fields = {"content-length": str(len(content)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"HTTP/1.1 {status} So", *(f"{name}: {value}" for name, value in fields.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
    await writer.drain()
