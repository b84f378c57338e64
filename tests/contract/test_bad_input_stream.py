"""Bad input on our socket, to a running server: what each ends in, and that traffic goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from extproc._gen.envoy.config.core.v3 import base_pb2
from extproc._gen.envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from extproc.adapters.sqlite.features import FeatureRecord, SqliteFeatureStore
from extproc.datapath.transports.grpc import StreamLimits
from tests.support.decisions import decisions_in
from tests.support.dropout import PROCESS, REQUEST_PATH, DropoutServer, headers_of, wait_for
from tests.support.process import PATIENCE

Pairs = Sequence[tuple[str, bytes]]

USUAL = ((":method", b"POST"), (":path", REQUEST_PATH.encode()), (":authority", b"models"), (":scheme", b"http"))
USER = ("x-user-id", b"u-1")
POLICY = """package routing

decision := {"allow": true, "reason": object.get(input.attributes.request.http.headers, "user-agent", "none")}
"""
CACHED_BYTES = 200_000
"""Room for the features of fewer than 500 units."""

ODD: Sequence[tuple[str, Pairs, str]] = [
    ("a header of 60 KB", (USER, ("x-long", b"a" * 60_000)), "attributes_too_large"),
    ("a unit of 60 KB", (("x-user-id", b"u" * 60_000),), "attributes_too_large"),
    ("1 000 headers", (USER, *((f"x-{number}", b"") for number in range(1000))), "attributes_too_large"),
    ("one header 1 000 times", (USER, *(("x-again", b"v") for _ in range(1000))), "attributes_too_large"),
    ("a header that is not UTF-8", (USER, ("user-agent", b"\xff\xfe\x80")), "weight"),
    ("a path that is not UTF-8", (USER, (":path", REQUEST_PATH.encode() + b"\xff")), "weight"),
    ("a unit that is not UTF-8", (("x-user-id", b"\xff\x80"),), "weight"),
    ("control characters in a unit", (("x-user-id", b"a\x00b\r\nx-model-version: 4\x7f"),), "weight"),
    ("an empty unit", (("x-user-id", b""),), "unit_missing"),
    ("no unit", (), "unit_missing"),
    ("the unit twice", (("x-user-id", b"u-1"), ("x-user-id", b"u-2")), "unit_ambiguous"),
    ("the unit twice in two cases", (("x-user-id", b"u-1"), ("X-User-Id", b"u-1")), "unit_ambiguous"),
    ("the path twice", (USER, (":path", REQUEST_PATH.encode()), (":path", b"/")), "weight"),
    ("no header at all", (("x-nothing", b""),), "no_match"),
    ("a query of 20 KB", (USER, (":path", f"{REQUEST_PATH}?{'&'.join(['a=%ff'] * 3000)}".encode())), "weight"),
]

GARBAGE = [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x02\x0a\x7f", b"", b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n"]


@pytest.fixture(scope="module")
def server() -> Iterator[DropoutServer]:
    server = DropoutServer(workers=1, DROPOUT_FEATURE_CACHE_BYTES=str(CACHED_BYTES))
    server.options = (
        *("--decision-log", str(server.folder / "decisions.jsonl")),
        *("--features", f"sqlite:{server.folder / 'features.db'}"),
    )
    known = FeatureRecord("user_risk", "alice", "risk_score", 0.5, 0.0)
    SqliteFeatureStore(server.folder / "features.db").load([known])
    features = {"entity": {"header": "x-user-id"}, "view": "user_risk", "names": ["risk_score"], "timeout": "1s"}
    policy = {"path": "routing/decision"}
    server.write_policy(POLICY)
    server.write_rollout(policy=policy)
    server.write_rollout(
        "steered", features={**features, "onMissing": "policy"}, policy=policy, match=[{"path": {"value": "/steered"}}]
    )
    with server:
        yield server


def request(pairs: Pairs) -> ext_proc.ProcessingRequest:
    """Request headers as Envoy sends them: ``pairs`` in place of the usual ones of the same name."""
    given = {name for name, _ in pairs}
    message = ext_proc.ProcessingRequest()
    usual = () if given == {"x-nothing"} else (pair for pair in USUAL if pair[0] not in given)
    values = [base_pb2.HeaderValue(key=name, raw_value=value) for name, value in (*usual, *pairs)]
    message.request_headers.headers.headers.extend(values)
    return message


def exchange(channel: grpc.Channel, *messages: bytes) -> Iterator[bytes]:
    """The replies to raw messages on one stream."""
    call = channel.stream_stream(PROCESS, request_serializer=None, response_deserializer=None)
    replies: Iterator[bytes] = call(iter(messages), timeout=PATIENCE)
    return replies


@pytest.fixture
def channel(server: DropoutServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.socket(), options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


def logged(server: DropoutServer) -> list[dict[str, Any]]:
    return decisions_in((server.folder / "decisions.jsonl").read_bytes())


def answers(server: DropoutServer) -> bool:
    """Whether an ordinary request is decided."""
    return server.ask()["x-model-version"] == "3"


@pytest.mark.parametrize(("pairs", "reason"), [odd[1:] for odd in ODD], ids=[odd[0] for odd in ODD])
def test_an_odd_request_ends_in_a_reason_and_a_reply(
    server: DropoutServer, channel: grpc.Channel, pairs: Pairs, reason: str
) -> None:
    before = server.metric("dropout_decisions_total", reason=reason)
    errors = server.metric("dropout_stream_errors_total")
    (reply,) = exchange(channel, request(pairs).SerializeToString())
    headers = headers_of(ext_proc.ProcessingResponse.FromString(reply))
    undecided = reason == "no_match" or len(pairs) >= 1000  # to which Envoy could not add a header
    assert headers.get("x-model-version") == (None if undecided else "3")
    assert server.metric("dropout_decisions_total", reason=reason) == before + 1
    assert server.metric("dropout_stream_errors_total") == errors
    wait_for(lambda: logged(server) and logged(server)[-1]["result"]["reason"] == reason, f"a line that says {reason}")
    assert answers(server)


def test_what_a_client_sends_is_never_in_a_reply(channel: grpc.Channel) -> None:
    unit = b"a\r\nx-model-version: 4\x00"
    (reply,) = exchange(channel, request((("x-user-id", unit), ("user-agent", unit))).SerializeToString())
    assert unit not in reply
    values = headers_of(ext_proc.ProcessingResponse.FromString(reply)).values()
    assert all(value.isprintable() and value.isascii() for value in values)


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda data: data[:8].hex() or "empty")
def test_garbage_in_a_message_ends_its_stream_alone(
    server: DropoutServer, channel: grpc.Channel, garbage: bytes
) -> None:
    before = server.metric("dropout_stream_errors_total")
    pid = server.worker_pids()
    good = request((USER,)).SerializeToString()
    other = exchange(channel, good)
    with pytest.raises(grpc.RpcError) as error:
        list(exchange(channel, good, garbage, good))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(list(other)) == 1
    assert server.metric("dropout_stream_errors_total") == before + 1
    assert (answers(server), server.worker_pids()) == (True, pid)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 4096,
        b"\xff" * 100_000,
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\xff\xff\x01\x25" + b"\xff" * 5000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["zeros", "ones", "HTTP/1.1", "a broken frame", "a preface alone"],
)
def test_garbage_on_the_socket_ends_its_connection_alone(server: DropoutServer, data: bytes) -> None:
    pid = server.worker_pids()
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(server.socket().removeprefix("unix:"))
        raw.settimeout(0.2)
        with suppress(OSError):
            raw.sendall(data)
            raw.recv(1 << 16)
        assert answers(server)
    assert (answers(server), server.worker_pids()) == (True, pid)


def test_a_message_of_ten_megabytes_is_refused(server: DropoutServer, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as error:
        list(exchange(channel, request((("x-long", b"a" * 10_000_000),)).SerializeToString()))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answers(server)


def test_an_unknown_method_is_refused(server: DropoutServer, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as error:
        list(channel.stream_stream("/a.B/C", None, None)(iter([b""]), timeout=PATIENCE))
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert answers(server)


def test_ten_thousand_units_and_user_agents_make_no_label_and_fill_no_memory(
    server: DropoutServer, channel: grpc.Channel
) -> None:
    def ask(start: int, count: int) -> None:
        messages = [
            request(
                (
                    (":path", b"/steered" if number % 2 else REQUEST_PATH.encode()),
                    ("x-user-id", f"unit-{number}".encode()),
                    ("user-agent", f"agent-{number}".encode() * 10),
                    ("x-model-version", f"spoofed-{number}".encode()),
                )
            ).SerializeToString()
            for number in range(start, start + count)
        ]
        assert sum(1 for _ in exchange(channel, *messages)) == count

    ask(0, 1000)
    labels, memory = series(server), resident(server)
    for start in range(1000, 11_000, 1000):
        ask(start, 1000)
    assert series(server) == labels
    text = server.get("/metrics")[1].decode()
    assert not any(word in text for word in ("unit-", "agent-", "spoofed-"))
    assert server.metric("dropout_feature_cache_misses_total") >= 5000
    assert CACHED_BYTES / 2 < server.metric("dropout_feature_cache_bytes") <= CACHED_BYTES
    assert server.metric("dropout_verdict_cache_misses_total") >= 5000
    assert resident(server) - memory < 8_000_000
    assert answers(server)


def series(server: DropoutServer) -> set[str]:
    lines = server.get("/metrics")[1].decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


def resident(server: DropoutServer) -> int:
    """Bytes of memory of the worker."""
    status = Path(f"/proc/{server.worker_pids()[0]}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def test_ten_thousand_streams_that_say_nothing_keep_nobody_waiting(server: DropoutServer) -> None:
    limits = StreamLimits()
    pid, before = server.worker_pids(), server.metric("dropout_stream_errors_total")
    with ExitStack() as stack:
        clients = [stack.enter_context(SilentClient(server.socket())) for _ in range(50)]
        for _ in range(20):
            for client in clients:
                client.open_streams(10)
            assert server.ask()["x-model-version"] == "3"
        cut_off = before + 10_000 - limits.silent_streams
        wait_for(lambda: server.metric("dropout_stream_errors_total") >= cut_off, "the oldest to be cut off")
        assert server.get("/readyz")[0] == 200
    assert (answers(server), server.worker_pids()) == (True, pid)


def test_a_client_that_opens_more_streams_than_it_may_is_refused_those(server: DropoutServer) -> None:
    most = StreamLimits().streams_per_connection
    with SilentClient(server.socket()) as client:
        client.open_streams(most + 100)
        wait_for(lambda: client.refused() == 100, "100 refusals")
        assert answers(server)


class SilentClient:
    """A connection that opens streams and never sends a message on one; in bytes, since a real client takes seconds."""

    _RST_STREAM = 3
    _REFUSED_STREAM = b"\0\0\0\7"

    def __init__(self, address: str) -> None:
        self._received = b""
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(address.removeprefix("unix:"))
        self._connection.settimeout(PATIENCE)
        self._connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self._frame(4, 0, 0, b""))
        self._connection.recv(1 << 16)  # its settings; until they are acknowledged it takes few streams
        self._connection.sendall(self._frame(4, 1, 0, b""))
        self._next = 1
        # HPACK: POST and http by their index, the others as literals, the first three with an indexed name.
        self._headers = b"\x83\x86\x04" + self._text(PROCESS) + b"\x01" + self._text("models")
        self._headers += (
            b"\x0f\x10" + self._text("application/grpc") + b"\x00" + self._text("te") + self._text("trailers")
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def open_streams(self, count: int) -> None:
        """Open ``count`` more; gRPC refuses hundreds at a time by itself."""
        streams = range(self._next, self._next + 2 * count, 2)
        self._next = streams.stop
        self._connection.sendall(b"".join(self._frame(1, 4, stream, self._headers) for stream in streams))

    def refused(self) -> int:
        """How many streams the server has refused so far."""
        self._connection.settimeout(0.05)
        with suppress(TimeoutError):
            while data := self._connection.recv(1 << 16):
                self._received += data
        refused, rest = 0, self._received
        while len(rest) >= 9:
            length = 9 + int.from_bytes(rest[:3], "big")
            refused += rest[3] == self._RST_STREAM and rest[9:length] == self._REFUSED_STREAM
            rest = rest[length:]
        return refused

    @staticmethod
    def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload

    @staticmethod
    def _text(value: str) -> bytes:
        return bytes((len(value),)) + value.encode()
