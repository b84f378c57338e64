"""The service on a live server: what Envoy and what nobody should send, over a Unix socket, in Envoy's own encoding."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.service.ext_proc.v3 as ext_proc
import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.datapath.model import Denial, Mutation, Request
from extproc.datapath.mutation import STRIPPED
from extproc.datapath.transports.grpc import ONE_MESSAGE, ExtProcService, StreamLimits, server_options
from extproc.names import OWN_HEADERS
from tests.support.stripping import Stripping

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
Process = Callable[[Request], Awaitable[Mutation]]
Metadata = tuple[tuple[str, str], ...]

either = pytest.mark.parametrize("metadata", [(), (ONE_MESSAGE,)], ids=["any phase", "one message"])
"""What holds for a stream of any phases and for one of a single message."""


async def echo(request: Request) -> Mutation:
    """A decision that tells what it was made from: the unit's header, or nothing."""
    unit = request.headers.get("x-user-id")
    return Mutation((("x-model-version", unit),), ("x-model-shadow",)) if unit else STRIPPED


class Served:
    """A service on a socket, a client of it, and the faults that it reported."""

    def __init__(self, path: Path, process: Process, metadata: Metadata, limits: StreamLimits) -> None:
        self.target = f"unix:{path}"
        self.metadata = metadata
        self.faults: list[str] = []
        service = ExtProcService(process, limits=limits, on_fault=self.faults.append)
        self.server = grpc.aio.server(options=server_options(limits))
        self.server.add_generic_rpc_handlers((service.handler(),))
        self.server.add_insecure_port(self.target)
        self.channel = self.connect()

    def connect(self) -> grpc.aio.Channel:
        """A connection of its own."""
        return grpc.aio.insecure_channel(self.target, options=[("grpc.use_local_subchannel_pool", 1)])

    def open(self, channel: grpc.aio.Channel | None = None) -> Any:
        """A stream on which bytes are written and read."""
        return (channel or self.channel).stream_stream(METHOD)(metadata=self.metadata)

    async def ask(self, data: bytes) -> Any:
        """The reply to one message on a stream of its own, parsed; None when there was none."""
        stream = self.open()
        await stream.write(data)
        await stream.done_writing()
        reply = await stream.read()
        if reply is grpc.aio.EOF:
            assert await stream.code() is grpc.StatusCode.OK
            return None
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        return ext_proc.ProcessingResponse.parse(reply)


@asynccontextmanager
async def serve(process: Process = echo, *, metadata: Metadata = (), **limits: Any) -> AsyncIterator[Served]:
    """A served service, gone afterwards; ``metadata`` is what its client's streams begin with."""
    folder = Path(tempfile.mkdtemp(prefix="dr-"))
    served = Served(folder / "s", process, metadata, StreamLimits(**limits))
    await served.server.start()
    try:
        yield served
    finally:
        await served.channel.close()
        await served.server.stop(None)
        shutil.rmtree(folder)


def headers(*pairs: tuple[str, bytes], **fields: Any) -> bytes:
    """The message with which Envoy opens a stream."""
    values = [core.HeaderValue(key=name, raw_value=value) for name, value in ((":path", b"/m"), *pairs)]
    message = ext_proc.HttpHeaders(headers=core.HeaderMap(headers=values))
    return bytes(ext_proc.ProcessingRequest(request_headers=message, **fields))


def version_in(reply: Any) -> bytes:
    """The version that a reply sets; the reply must be a decision that changes the route."""
    common = reply.request_headers.response
    assert common.clear_route_cache
    return common.header_mutation.set_headers[0].header.raw_value


@either
async def test_a_request_is_decided(metadata: Metadata) -> None:
    async with serve(metadata=metadata) as served:
        assert version_in(await served.ask(headers(("x-user-id", b"4")))) == b"4"
        assert served.faults == []


async def test_every_phase_of_one_request_is_answered_in_its_own_kind() -> None:
    trailers = ext_proc.HttpTrailers(trailers=core.HeaderMap())
    conversation = {
        "request_headers": headers(("x-user-id", b"4")),
        "request_body": bytes(ext_proc.ProcessingRequest(request_body=ext_proc.HttpBody(body=b"x" * 100_000))),
        "request_trailers": bytes(ext_proc.ProcessingRequest(request_trailers=trailers)),
        "response_headers": bytes(ext_proc.ProcessingRequest(response_headers=ext_proc.HttpHeaders())),
        "response_body": bytes(ext_proc.ProcessingRequest(response_body=ext_proc.HttpBody(end_of_stream=True))),
        "response_trailers": bytes(ext_proc.ProcessingRequest(response_trailers=trailers)),
    }
    async with serve() as served:
        stream = served.open()
        for phase, message in conversation.items():
            await stream.write(message)
            reply = ext_proc.ProcessingResponse.parse(await stream.read())
            assert getattr(reply, phase) is not None
            assert [p for p in (*conversation, "immediate_response") if getattr(reply, p) is not None] == [phase]
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        assert served.faults == []


async def test_a_stream_of_one_message_ends_with_its_reply() -> None:
    async with serve(metadata=(ONE_MESSAGE,)) as served:
        stream = served.open()
        await stream.write(headers(("x-user-id", b"4")))
        assert version_in(ext_proc.ProcessingResponse.parse(await stream.read())) == b"4"
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_stream_of_one_message_may_end_without_it() -> None:
    async with serve(metadata=(ONE_MESSAGE,)) as served:
        stream = served.open()
        await stream.done_writing()
        assert await stream.read() == b""
        assert await stream.code() is grpc.StatusCode.OK
        assert served.faults == []


async def test_a_stream_of_one_message_in_observability_mode_gets_an_empty_one_and_no_decision() -> None:
    process = Stripping()
    asked = process.asked

    async with serve(process, metadata=(ONE_MESSAGE,)) as served:
        reply = await served.ask(headers(observability_mode=True))
        assert (bytes(reply), asked) == (b"", [])


async def test_a_stream_of_one_message_is_answered_in_the_kind_of_its_phase() -> None:
    async with serve(metadata=(ONE_MESSAGE,)) as served:
        message = bytes(ext_proc.ProcessingRequest(response_headers=ext_proc.HttpHeaders()))
        assert (await served.ask(message)).response_headers is not None


async def test_what_is_no_message_gets_a_status_and_no_reply() -> None:
    async with serve(metadata=(ONE_MESSAGE,)) as served:
        stream = served.open()
        await stream.write(b"garbage")
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
            await stream.read()


async def test_a_second_request_on_a_stream_is_decided_too() -> None:
    async with serve() as served:
        stream = served.open()
        for unit in (b"4", b"5"):
            await stream.write(headers(("x-user-id", unit)))
            assert version_in(ext_proc.ProcessingResponse.parse(await stream.read())) == unit
        stream.cancel()


async def test_in_observability_mode_there_is_no_reply_and_no_decision() -> None:
    process = Stripping()
    asked = process.asked

    async with serve(process) as served:
        assert await served.ask(headers(observability_mode=True)) is None
        assert asked == []


@either
async def test_a_denial_is_an_immediate_response(metadata: Metadata) -> None:
    async def process(_request: Request) -> Mutation:
        return Mutation((("x-decision-id", b"d1"),), denial=Denial(451, "no", '{"reason": "no"}'))

    async with serve(process, metadata=metadata) as served:
        reply = (await served.ask(headers())).immediate_response
        assert (int(reply.status.code), reply.body, reply.details) == (451, b'{"reason": "no"}', "dropout_policy_deny")


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff" * 1000, b"\x50\x01"])
@either
async def test_a_message_that_means_nothing_ends_its_stream_and_no_other(
    data: bytes, caplog: pytest.LogCaptureFixture, metadata: Metadata
) -> None:
    async with serve(metadata=metadata) as served:
        stream = served.open()
        await stream.write(data)
        assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert served.faults == ["malformed_message"]
        assert version_in(await served.ask(headers(("x-user-id", b"4")))) == b"4"
    assert caplog.records == []


@either
async def test_a_message_over_the_limit_is_refused_by_the_server(metadata: Metadata) -> None:
    async with serve(message_bytes=100_000, metadata=metadata) as served:
        stream = served.open()
        await stream.write(headers(("x-user-id", b"u" * 200_000)))
        assert await stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await served.ask(headers()) is not None


@pytest.mark.parametrize(
    "pairs",
    [
        [("x-user-id", b"u" * 60_000)],
        [(f"x-{number}", b"1") for number in range(1000)],
        [("x-user-id", b"\xff\xfe\x00\x01\x7f\r\n")],
        [("x-user-id", b"")],
        [("x-user-id", b"a"), ("x-user-id", b"b")],
    ],
    ids=["60 KB", "1000 headers", "control characters", "empty", "twice"],
)
async def test_unusual_headers_reach_the_decision(pairs: list[tuple[str, bytes]]) -> None:
    process = Stripping()
    asked = process.asked

    async with serve(process) as served:
        reply = await served.ask(headers(*pairs))
        assert set(reply.request_headers.response.header_mutation.remove_headers) == set(OWN_HEADERS)
        assert asked[0].headers[pairs[0][0]] == b",".join(value for name, value in pairs if name == pairs[0][0])
        assert set(asked[0].repeated) == ({"x-user-id"} if len(pairs) == 2 else set())
        assert asked[0].too_large == (len(pairs) == 1000 or len(pairs[0][1]) == 60_000)


@either
async def test_a_bug_of_ours_takes_the_default_route_and_is_logged_once_a_second(
    caplog: pytest.LogCaptureFixture, metadata: Metadata
) -> None:
    async def process(_request: Request) -> Mutation:
        raise RuntimeError("a bug")

    async with serve(process, metadata=metadata) as served:
        for _ in range(20):
            common = (await served.ask(headers())).request_headers.response
            assert common.clear_route_cache
            assert common.header_mutation.set_headers == []
            assert set(common.header_mutation.remove_headers) == set(OWN_HEADERS)
        assert served.faults == ["internal_error"] * 20
    assert 1 <= len(caplog.records) <= 3
    assert "RuntimeError: a bug" in caplog.text


@either
async def test_half_closes_and_cancellations_are_normal_ends(
    caplog: pytest.LogCaptureFixture, metadata: Metadata
) -> None:
    caplog.set_level(logging.INFO)

    async def slow(request: Request) -> Mutation:
        await asyncio.sleep(0.005)
        return await echo(request)

    async def one(served: Served, how: int) -> None:
        stream = served.open()
        if how == 0:
            return stream.cancel()  # before a word
        await stream.write(headers(("x-user-id", b"4")))
        if how == 1:
            return stream.cancel()  # before the reply
        if how == 2:
            await stream.read()
            return stream.cancel()  # after the reply, as Envoy does
        await stream.done_writing()
        await stream.read()
        assert await stream.code() is grpc.StatusCode.OK
        return None

    for process in (echo, slow):
        async with serve(process, metadata=metadata) as served:
            await asyncio.gather(*(one(served, number % 4) for number in range(200)))
            assert version_in(await served.ask(headers(("x-user-id", b"4")))) == b"4"
            assert served.faults == []
    assert caplog.records == []


@either
async def test_a_stream_that_says_nothing_is_ended(metadata: Metadata) -> None:
    async with serve(first_message_seconds=0.05, metadata=metadata) as served:
        stream = served.open()
        await stream.wait_for_connection()
        assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert served.faults == ["silent_stream"]


async def test_a_stream_that_has_spoken_may_be_silent() -> None:
    async with serve(first_message_seconds=0.5) as served:
        stream = served.open()
        await stream.write(headers(("x-user-id", b"4")))
        await stream.read()
        await asyncio.sleep(1)
        await stream.write(bytes(ext_proc.ProcessingRequest(response_headers=ext_proc.HttpHeaders())))
        assert ext_proc.ProcessingResponse.parse(await stream.read()).response_headers is not None
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_stream_that_is_silent_after_a_message_for_too_long_is_ended() -> None:
    async with serve(next_message_seconds=0.05) as served:
        stream = served.open()
        await stream.write(headers(("x-user-id", b"4")))
        assert version_in(ext_proc.ProcessingResponse.parse(await stream.read())) == b"4"
        assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert served.faults == ["silent_stream"]


async def test_of_too_many_streams_between_two_messages_the_oldest_go_first() -> None:
    async with serve(idle_streams=10) as served:
        streams = []
        for _ in range(15):
            stream = served.open()
            await stream.write(headers(("x-user-id", b"4")))
            await stream.read()
            streams.append(stream)
        for stream in streams[:5]:
            assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        for stream in streams[5:]:
            await stream.write(headers(("x-user-id", b"5")))
            assert version_in(ext_proc.ProcessingResponse.parse(await stream.read())) == b"5"
            stream.cancel()


@either
async def test_a_process_that_takes_longer_than_silence_may_is_not_cut_off(metadata: Metadata) -> None:
    async def slow(request: Request) -> Mutation:
        await asyncio.sleep(1)
        return await echo(request)

    async with serve(slow, first_message_seconds=0.5, next_message_seconds=0.5, metadata=metadata) as served:
        assert version_in(await served.ask(headers(("x-user-id", b"4")))) == b"4"


@either
async def test_of_too_many_silent_streams_the_oldest_go_first(metadata: Metadata) -> None:
    async with serve(silent_streams=10, metadata=metadata) as served:
        streams = []
        for _ in range(15):
            stream = served.open()
            await stream.wait_for_connection()
            streams.append(stream)
        for stream in streams[:5]:
            assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert version_in(await served.ask(headers(("x-user-id", b"4")))) == b"4"
        for stream in streams[6:]:
            assert not stream.done()
            stream.cancel()


@either
async def test_ten_thousand_silent_streams_hurt_nobody(caplog: pytest.LogCaptureFixture, metadata: Metadata) -> None:
    async with serve(metadata=metadata) as served:
        mute = [served.connect() for _ in range(3)]
        silent = [served.open(mute[number % len(mute)]) for number in range(10_000)]
        await asyncio.sleep(0.2)
        for _ in range(50):
            assert version_in(await served.ask(headers(("x-user-id", b"4")))) == b"4"
        for stream in silent:
            stream.cancel()
        for channel in mute:
            await channel.close()
        assert version_in(await served.ask(headers(("x-user-id", b"4")))) == b"4"
    assert caplog.records == []


def test_a_peer_may_ping_every_second_and_send_a_mebibyte() -> None:
    options = dict(server_options())
    assert options["grpc.http2.min_ping_interval_without_data_ms"] < 1000
    assert options["grpc.max_receive_message_length"] == 1024 * 1024


@either
def test_arbitrary_bytes_never_stop_the_server(metadata: Metadata) -> None:
    @settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(messages=st.lists(st.binary(max_size=200), min_size=1, max_size=20))
    def fuzz(messages: list[bytes]) -> None:
        asyncio.run(send(messages))

    async def send(messages: list[bytes]) -> None:
        async with serve(metadata=metadata) as served:
            for message in messages:
                stream = served.open()
                await stream.write(message)
                await stream.done_writing()
                assert await stream.code() in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)
            assert version_in(await served.ask(headers(("x-user-id", b"4")))) == b"4"

    fuzz()
