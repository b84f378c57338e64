"""The HTTP server on a live socket: what Envoy sends, and what nobody should; a 4xx with a code, and it serves on."""

from __future__ import annotations

import asyncio
import base64
import gc
import resource
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from extproc.datapath.model import Mutation, Request
from extproc.datapath.mutation import STRIPPED
from extproc.datapath.transports.exchange import RequestHandler
from extproc.errors import InvalidInput
from extproc.net.http_protocol import HttpLimits
from extproc.serve.worker.http_server import HttpServer
from extproc.serve.worker_config import WorkerConfig
from tests.support.process import PATIENCE
from tests.support.stripping import Stripping


async def echo(request: Request) -> Mutation:
    """A decision that tells what it was made from: the unit's header, or nothing."""
    unit = request.headers.get("x-user-id")
    return Mutation((("x-model-version", unit),)) if unit else STRIPPED


async def slow(request: Request) -> Mutation:
    """One that waits for something."""
    await asyncio.sleep(0.02)
    return await echo(request)


def message(*pairs: tuple[str, bytes]) -> bytes:
    """What Envoy asks."""
    entries = [{"key": name, "raw_value": base64.b64encode(value).decode()} for name, value in pairs]
    return orjson.dumps({"request_headers": {"headers": {"headers": entries}, "end_of_stream": True}})


def post(body: bytes, path: bytes = b"/v1/process", method: bytes = b"POST") -> bytes:
    """A request with a body of known length."""
    return b"%s %s HTTP/1.1\r\nhost: dropout\r\ncontent-length: %d\r\n\r\n%s" % (method, path, len(body), body)


def chunked(*chunks: bytes) -> bytes:
    """A request as Envoy sends it."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return b"POST /v1/process HTTP/1.1\r\nhost: dropout\r\ntransfer-encoding: chunked\r\n\r\n" + body


HEALTH = b"GET /healthz HTTP/1.1\r\nhost: dropout\r\n\r\n"
ALIVE = HEALTH.replace(b"healthz", b"livez")


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self, *, head_only: bool = False) -> tuple[int, Any]:
        """Status and JSON body of the next answer; 0 where there is none."""
        try:
            head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)).lower()
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, None
        status = int(head.split(b" ")[1])
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        self.last = b"connection: close" in head
        return status, None if head_only else orjson.loads(await self.reader.readexactly(length))

    async def ask(self, data: bytes, **options: Any) -> tuple[int, Any]:
        """Send, and the next answer."""
        self.writer.write(data)
        return await self.answer(**options)

    async def closed(self) -> bool:
        """Whether the server closes, with nothing more to say."""
        try:
            return await asyncio.wait_for(self.reader.read(), PATIENCE) == b""
        except ConnectionError:
            return True


class Served:
    """A server on a socket of its own, and the faults that it reported."""

    def __init__(self, folder: Path, process: RequestHandler, limits: HttpLimits) -> None:
        self.path = folder / "s"
        self.faults: list[str] = []
        config = WorkerConfig(index=0, store="", state="", unix=str(self.path))
        self.server = HttpServer(config, process, self.faults.append, limits)

    async def connect(self) -> Client:
        """A connection."""
        return Client(*await asyncio.open_unix_connection(self.path))

    async def ask(self, data: bytes) -> tuple[int, Any]:
        """One request on a connection of its own."""
        client = await self.connect()
        try:
            return await client.ask(data)
        finally:
            client.writer.close()

    async def decides(self) -> bool:
        """Whether it does what it is for."""
        status, reply = await self.ask(chunked(message(("x-user-id", b"4"))))
        return status == 200 and version_in(reply) == b"4"


@asynccontextmanager
async def serve(process: RequestHandler = echo, **limits: Any) -> AsyncIterator[Served]:
    """A server, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="dr-"))
    served = Served(folder, process, HttpLimits(**limits))
    await served.server.start()
    try:
        yield served
    finally:
        await served.server.stop(0.2)
        shutil.rmtree(folder)


def version_in(reply: Any) -> bytes:
    """The version that a reply sets; the reply must be a decision that changes the route."""
    change = reply["requestHeaders"]["response"]
    assert change["clearRouteCache"] is True
    return base64.b64decode(change["headerMutation"]["setHeaders"][0]["header"]["rawValue"])


# -- what Envoy does


@pytest.mark.parametrize("process", [echo, slow])
async def test_requests_on_one_connection_are_decided_one_after_the_other(process: RequestHandler) -> None:
    async with serve(process) as served:
        client = await served.connect()
        for number in range(5):
            unit = str(number).encode()
            status, reply = await client.ask(chunked(message(("x-user-id", unit))))
            assert (status, version_in(reply), client.last) == (200, unit, False)
        assert served.faults == []


@pytest.mark.parametrize("process", [echo, slow])
async def test_pipelined_requests_are_answered_in_order(process: RequestHandler) -> None:
    async with serve(process) as served:
        client = await served.connect()
        requests = [post(message(("x-user-id", str(number).encode()))) for number in range(20)]
        client.writer.write(b"".join([*requests, HEALTH, post(b"{"), *requests[:1]]))
        assert [version_in((await client.answer())[1]) for _ in range(20)] == [str(n).encode() for n in range(20)]
        assert (await client.answer())[1] == {"status": "SERVING"}
        assert (await client.answer())[0] == 400
        assert version_in((await client.answer())[1]) == b"0"


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_a_request_may_come_in_pieces(size: int) -> None:
    async with serve() as served:
        client = await served.connect()
        data = chunked(message(("x-user-id", b"4"))[:9], message(("x-user-id", b"4"))[9:])
        for start in range(0, len(data), size):
            client.writer.write(data[start : start + size])
            await asyncio.sleep(0)
        assert version_in((await client.answer())[1]) == b"4"


async def test_health_is_said_to_be_gone_before_anything_is(caplog: pytest.LogCaptureFixture) -> None:
    async with serve() as served:
        client = await served.connect()
        assert await client.ask(HEALTH) == (200, {"status": "SERVING"})
        assert (await client.ask(HEALTH.replace(b"GET", b"HEAD"), head_only=True))[0] == 200
        await served.server.say_draining()
        assert await served.ask(HEALTH) == (503, {"status": "NOT_SERVING"})
        assert await served.ask(ALIVE) == (200, {"status": "SERVING"})
        assert await served.decides()
        # Every answer is now the last on its connection, so that none is cut off by the end.
        assert version_in((await client.ask(chunked(message(("x-user-id", b"4")))))[1]) == b"4"
        assert client.last
        assert await client.closed()
    assert caplog.records == []


async def test_a_request_in_flight_is_answered_by_a_server_that_stops() -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def held(request: Request) -> Mutation:
        begun.set()
        await goes_on.wait()
        return await echo(request)

    async with serve(held) as served:
        client, idle = await served.connect(), await served.connect()
        client.writer.write(chunked(message(("x-user-id", b"4"))))
        await begun.wait()
        stopping = asyncio.ensure_future(served.server.stop(PATIENCE))
        await asyncio.sleep(0)
        goes_on.set()
        assert version_in((await client.answer())[1]) == b"4"
        assert await idle.closed()
        await asyncio.wait_for(stopping, PATIENCE)


async def test_the_socket_is_private_and_takes_the_place_of_another_in_one_step() -> None:
    async with serve() as first:
        second = Served(first.path.parent, echo, HttpLimits())
        before = first.path.stat()
        await second.server.start()
        assert first.path.stat().st_ino != before.st_ino
        assert first.path.stat().st_mode & 0o777 == before.st_mode & 0o777 == 0o600
        await first.server.stop(1)
        assert await second.decides()
        await second.server.stop(1)


async def test_an_address_in_use_is_said() -> None:
    listener = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    server = HttpServer(
        WorkerConfig(index=0, store="", state="", host="127.0.0.1", port=port), echo, lambda _fault: None
    )
    with pytest.raises(InvalidInput) as refused:
        await server.start()
    assert [fault.code for fault in refused.value.faults] == ["address_in_use"]
    listener.close()


# -- what nobody should

CASES: dict[str, tuple[bytes, int, str]] = {
    "truncated JSON": (post(message(("a", b"b"))[:-5]), 400, "malformed_message"),
    "no JSON": (post(b"\xff\x00"), 400, "malformed_message"),
    "no body": (post(b""), 400, "malformed_message"),
    "wrong types": (post(b'{"request_headers": 3}'), 400, "malformed_message"),
    "deep nesting": (post(b"[" * 200_000), 400, "malformed_message"),
    "no base64": (
        post(b'{"request_headers":{"headers":{"headers":[{"key":"a","raw_value":"?"}]}}}'),
        400,
        "malformed_message",
    ),
    "a body that is too large": (post(b"x" * 1_100_000), 413, "body_too_large"),
    "chunks that are too much": (chunked(*[b"x" * 9000] * 130), 413, "body_too_large"),
    "chunks that are too small": (chunked(*[b"x"] * 500_000), 413, "body_too_large"),
    "a GET": (b"GET /v1/process HTTP/1.1\r\nhost: a\r\n\r\n", 405, "method_not_allowed"),
    "a POST to the health": (post(b"", b"/healthz"), 405, "method_not_allowed"),
    "a POST to the life": (post(b"", b"/livez"), 405, "method_not_allowed"),
    "an unknown path": (post(b"{}", b"/v1/other"), 404, "not_found"),
    "a path that is no text": (post(b"{}", b"/\xff\xfe"), 400, "bad_request"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 50, 400, "bad_request"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500, 400, "bad_request"),
    "a chunk size that is no number": (
        b"POST /v1/process HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        400,
        "bad_request",
    ),
    "two lengths": (
        b"POST /v1/process HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        400,
        "bad_request",
    ),
    "a negative length": (b"POST /v1/process HTTP/1.1\r\ncontent-length: -3\r\n\r\n", 400, "bad_request"),
    "headers that are too large": (
        b"GET /healthz HTTP/1.1\r\n" + b"a: %s\r\n" % (b"b" * 100_000) + b"\r\n",
        431,
        "headers_too_large",
    ),
    "too many headers": (b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 50_000, 431, "headers_too_large"),
    "a target that is too long": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 431, "headers_too_large"),
    "lines without a request": (b"\r\n" * 100_000, 431, "headers_too_large"),
    "a tunnel": (b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", 404, "not_found"),
}


@pytest.mark.parametrize(("data", "status", "code"), CASES.values(), ids=CASES)
async def test_what_is_no_question_is_refused_with_a_code(
    data: bytes, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as served:
        answer, body = await served.ask(data)
        assert (answer, body["code"], sorted(body)) == (status, code, ["code", "message"])
        assert await served.decides()
    assert caplog.records == []


async def test_a_repeated_header_is_repeated() -> None:
    process = Stripping()
    asked = process.asked

    async with serve(process) as served:
        await served.ask(post(message(("X-User-Id", b"a"), ("x-user-id", b"b"))))
    assert (asked[0].headers, asked[0].repeated) == ({"x-user-id": b"a,b"}, {"x-user-id": (b"a", b"b")})


@pytest.mark.parametrize("data", [chunked(b"{")[:-5], HEALTH[:-2], post(b"{}")[:-1]], ids=["chunk", "head", "body"])
async def test_a_request_that_is_cut_off_is_refused(data: bytes) -> None:
    async with serve() as served:
        client = await served.connect()
        client.writer.write(data)
        client.writer.write_eof()
        status, body = await client.answer()
        assert (status, body["code"]) == (400, "incomplete_request")
        assert await client.closed()
        half = await served.connect()
        half.writer.write(data)
        half.writer.transport.abort()
        assert await served.decides()


async def test_a_client_that_only_listens_still_gets_its_answer() -> None:
    async with serve(slow) as served:
        client = await served.connect()
        client.writer.write(post(message(("x-user-id", b"4"))))
        client.writer.write_eof()
        assert version_in((await client.answer())[1]) == b"4"
        assert await client.closed()


@pytest.mark.parametrize("data", [HEALTH[:9], post(b"{}")[:-1]], ids=["head", "body"])
async def test_slow_requests_are_ended(data: bytes) -> None:
    async with serve(request_seconds=0.1) as served:
        client = await served.connect()
        client.writer.write(data)
        status, body = await client.answer()
        assert (status, body["code"]) == (408, "request_timeout")
        assert await client.closed()
        assert served.faults == ["silent_stream"]


async def test_a_drop_at_a_time_is_slow_too() -> None:
    async with serve(request_seconds=0.2) as served:
        client = await served.connect()
        answer = asyncio.ensure_future(client.answer())
        for byte in HEALTH[:-2]:
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        assert (await answer)[0] == 408


async def test_idle_connections_are_kept_for_their_time() -> None:
    async with serve(request_seconds=0.1, idle_seconds=2) as served:
        client = await served.connect()
        for _ in range(3):
            assert (await client.ask(HEALTH))[0] == 200
            await asyncio.sleep(0.2)
        assert await client.closed()


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    async with serve(request_seconds=0.1) as served:
        client = await served.connect()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(2000):
            client.writer.write(HEALTH * 100)
            await asyncio.sleep(0)
            if client.writer.transport.is_closing():
                break
        assert await served.decides()
        client.writer.transport.abort()


async def test_the_oldest_connection_that_waits_makes_room() -> None:
    async with serve(connections=10) as served:
        clients = [await served.connect() for _ in range(15)]
        for client in clients[:5]:
            assert await client.closed()
        for client in clients[6:]:
            assert (await client.ask(HEALTH))[0] == 200
        assert await served.decides()


async def test_where_every_connection_is_busy_one_more_is_told_so() -> None:
    begun, goes_on = asyncio.Semaphore(0), asyncio.Event()

    async def held(request: Request) -> Mutation:
        begun.release()
        await goes_on.wait()
        return await echo(request)

    async with serve(held, connections=5) as served:
        busy = [await served.connect() for _ in range(5)]
        for client in busy:
            client.writer.write(post(message(("x-user-id", b"4"))))
        for _ in busy:
            await begun.acquire()
        status, body = await (await served.connect()).answer()
        assert (status, body["code"]) == (503, "too_many_connections")
        goes_on.set()
        assert [version_in((await client.answer())[1]) for client in busy] == [b"4"] * 5


async def test_a_bug_of_ours_takes_the_default_route_and_is_logged_once_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def process(_request: Request) -> Mutation:
        raise RuntimeError("a bug")

    async with serve(process) as served:
        for _ in range(20):
            status, reply = await served.ask(post(message()))
            assert status == 200
            assert "x-model-version" in reply["requestHeaders"]["response"]["headerMutation"]["removeHeaders"]
        assert served.faults == ["internal_error"] * 20
    assert 1 <= len(caplog.records) <= 3


async def test_memory_is_flat_over_thousands_of_them(caplog: pytest.LogCaptureFixture) -> None:
    small = [data for data, _, _ in CASES.values() if len(data) < 10_000]

    async def round_of(served: Served, count: int) -> None:
        for number in range(count):
            client = await served.connect()
            client.writer.write(small[number % len(small)])
            if number % 3:
                await client.answer()
            client.writer.transport.abort()

    async with serve() as served:
        await round_of(served, 1000)
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await round_of(served, 4000)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert await served.decides()
        assert grown < 4096, f"{grown} KiB more"
    assert caplog.records == []
