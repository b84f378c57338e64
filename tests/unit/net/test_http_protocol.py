"""A connection between the turn of the event loop in which a request is complete and the next, and who may have one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from extproc.net.callers import Origin
from extproc.net.guarded import STRANGERS, GuardedConnections
from extproc.net.http_protocol import Connections, HttpLimits, Refusal

REQUEST = b"GET /livez HTTP/1.1\r\nhost: dropout\r\n\r\n"


class Transport:
    """Keeps what is written; takes nothing more once it is closed."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = self.ended = self.aborted = self.paused = False
        self.unsent = 0

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.written.append(data)

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def answer(
    _scope: Mapping[str, Any], _receive: Any, send: Callable[[Mapping[str, Any]], Awaitable[None]]
) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": ((b"content-length", b"2"),)})
    await send({"type": "http.response.body", "body": b"ok"})


def connect(connections: Connections) -> tuple[Any, Transport]:
    """A new connection of ``connections`` and its transport."""
    transport = Transport()
    connection: Any = connections.protocol(server_state=SimpleNamespace(connections=set()))
    connection.connection_made(transport)
    return connection, transport


def server(**limits: int) -> Connections:
    return Connections(answer, HttpLimits(**limits), lambda _fault: None)


def last_words(transport: Transport) -> list[bool]:
    """Whether each answer says that it is the last on its connection."""
    assert all(each.startswith(b"HTTP/1.1 200 OK\r\n") and each.endswith(b"\r\n\r\nok") for each in transport.written)
    return [b"\r\nconnection: close\r\n" in each for each in transport.written]


@pytest.mark.parametrize("requests", [1, 3])
async def test_a_request_that_is_complete_when_the_server_closes_is_answered(requests: int) -> None:
    connection, transport = connect(server())
    connection.data_received(REQUEST * requests)
    connection.shutdown()
    for _ in range(requests):
        await asyncio.sleep(0)
    assert last_words(transport) == [False] * (requests - 1) + [True]
    assert transport.ended
    assert not transport.closed


async def test_a_request_that_is_complete_is_not_the_one_that_makes_room() -> None:
    connections = server(connections=2)
    (asking, asked), (_, idle) = connect(connections), connect(connections)
    asking.data_received(REQUEST)
    connect(connections)
    assert idle.closed
    await asyncio.sleep(0)
    assert last_words(asked) == [False]


async def test_who_asks_for_much_at_once_is_answered_in_turn_with_others() -> None:
    connections = server()
    (crowd, much), (other, little) = connect(connections), connect(connections)
    crowd.data_received(REQUEST * 1000)
    other.data_received(REQUEST)
    for turns in (1, 2, 3):
        await asyncio.sleep(0)
        assert (len(much.written), len(little.written), much.paused) == (turns, 1, True)
    crowd.connection_lost(None)
    await asyncio.sleep(0)
    assert len(much.written) == 3


async def test_all_that_was_asked_at_once_is_answered_and_more_is_read_then() -> None:
    connection, transport = connect(server())
    connection.data_received(REQUEST * 1000 + REQUEST[:9])
    for _ in range(1000):
        await asyncio.sleep(0)
    assert (last_words(transport), transport.paused) == ([False] * 1000, False)
    connection.data_received(REQUEST[9:])
    await asyncio.sleep(0)
    assert len(transport.written) == 1001


async def test_a_request_whose_client_sends_no_more_is_answered() -> None:
    connection, transport = connect(server())
    connection.data_received(REQUEST)
    assert connection.eof_received(), "the transport must not close by itself"
    await asyncio.sleep(0)
    assert last_words(transport) == [True]
    assert transport.closed


async def test_a_request_that_waits_gets_a_task_of_a_coroutine_as_every_python_wants_it() -> None:
    async def slow(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        await asyncio.sleep(0)  # goes on at once
        await asyncio.wait_for(asyncio.sleep(0), 1)
        await answer(scope, receive, send)

    tasks: list[asyncio.Task[Any]] = []

    def of_a_coroutine(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        assert inspect.iscoroutine(coroutine), "Python 3.12 takes no generators for coroutines any more"
        tasks.append(asyncio.Task(coroutine, loop=loop, **options))
        return tasks[-1]

    asyncio.get_running_loop().set_task_factory(of_a_coroutine)
    connection, transport = connect(Connections(slow, HttpLimits(), lambda _fault: None))
    connection.data_received(REQUEST)
    await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert last_words(transport) == [False]


async def test_a_connection_with_nothing_to_answer_closes_with_the_server() -> None:
    connection, transport = connect(server())
    connection.shutdown()
    assert transport.closed
    assert transport.written == []


async def test_who_makes_way_with_an_answer_untaken_does_not_keep_what_it_did_not_take() -> None:
    connections = server(connections=1)
    _, transport = connect(connections)
    transport.unsent = 1000
    connect(connections)
    assert transport.aborted


# -- who may have one

FRIEND = b"POST /x HTTP/1.1\r\nkey: ours\r\ncontent-length: 4\r\n\r\n"
STRANGER = FRIEND.replace(b"ours", b"none")
REFUSED = b"HTTP/1.1 401 "


class OursAlone:
    """Knows those who have the key; anybody may ask how it goes."""

    headers = frozenset({b"key"})
    probes = frozenset({b"/livez"})

    def refusal(self, _origin: Origin, path: bytes, headers: Any) -> Refusal | None:
        known = path in self.probes or headers == ((b"key", b"ours"),)
        return None if known else Refusal(401, "unauthorized", "it is not known who asks")


def guarded(app: Any = answer, **limits: int) -> GuardedConnections:
    return GuardedConnections(app, HttpLimits(**limits), OursAlone(), lambda _code: None)


def enter(connections: GuardedConnections) -> tuple[Any, Transport]:
    """A new connection of ``connections`` and its transport."""
    transport, connection = Transport(), connections.enter(Origin())
    connection.connection_made(transport)
    return connection, transport


@pytest.mark.parametrize("strangers", [64, 1000, STRANGERS + 100])
async def test_strangers_take_the_place_of_strangers_and_of_nobody_who_is_known(strangers: int) -> None:
    connections = guarded(connections=3)
    friends = [enter(connections) for _ in range(3)]
    for friend, _ in friends:
        friend.data_received(FRIEND)  # its body is to come
    silent = [enter(connections) for _ in range(strangers)]
    for number, (stranger, _) in enumerate(silent):
        stranger.data_received(b"POST /x HT"[: number % 11])
    assert sum(not transport.closed for _, transport in silent) == min(strangers, STRANGERS)
    probe, transport = enter(connections)
    probe.data_received(REQUEST)
    for friend, _ in friends:
        friend.data_received(b"body")
    await asyncio.sleep(0)
    assert [last_words(of) for of in (transport, *(of for _, of in friends))] == [[False]] * 4


async def test_a_stranger_is_refused_by_its_head_and_what_it_sends_besides_is_not_kept() -> None:
    connection, transport = enter(guarded(lambda *_: pytest.fail("nobody's request is answered")))
    connection.data_received(STRANGER)
    assert b"".join(transport.written).startswith(REFUSED)
    connection.data_received(b"body" + FRIEND + b"body")
    await asyncio.sleep(0)
    assert len(transport.written) == 1
    assert transport.ended


@pytest.mark.parametrize(
    "upgrade", [b"POST /x HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n", b"CONNECT x:1 HTTP/1.1\r\n"]
)
@pytest.mark.parametrize("before", [b"", FRIEND + b"body"])
async def test_who_wants_another_protocol_is_refused_as_everybody_is(upgrade: bytes, before: bytes) -> None:
    connection, transport = enter(guarded())
    connection.data_received(before + upgrade + b"\r\nand what follows" + FRIEND + b"body")
    await asyncio.sleep(0)
    assert [each[9:12] for each in transport.written] == [b"200"] * bool(before) + [b"401"]
    assert transport.ended


async def test_what_comes_before_a_refusal_is_answered_before_it() -> None:
    connection, transport = enter(guarded())
    connection.data_received(FRIEND + b"body" + STRANGER)
    await asyncio.sleep(0)
    first, second = transport.written
    assert first.startswith(b"HTTP/1.1 200 ")
    assert second.startswith(REFUSED)


async def test_who_is_known_takes_the_place_of_the_oldest_that_is_idle() -> None:
    connections = guarded(connections=2)
    known = []
    for _ in range(3):
        known.append(enter(connections))
        known[-1][0].data_received(FRIEND + b"body")
        await asyncio.sleep(0)
    assert [transport.closed for _, transport in known] == [True, False, False]


async def test_while_all_that_may_are_being_answered_others_are_told_so_and_probes_are_answered() -> None:
    goes_on = asyncio.Event()

    async def slow(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] != "/livez":
            await goes_on.wait()
        await answer(scope, receive, send)

    connections = guarded(slow, connections=2)
    for _ in range(2):
        enter(connections)[0].data_received(FRIEND + b"body")
    await asyncio.sleep(0)
    (late, told), (probe, probed) = enter(connections), enter(connections)
    late.data_received(FRIEND + b"body")
    probe.data_received(REQUEST)
    await asyncio.sleep(0)
    assert told.written[0].startswith(b"HTTP/1.1 503 ")
    assert b"too_many_connections" in told.written[0]
    assert last_words(probed) == [False]
    goes_on.set()


@pytest.mark.parametrize(
    ("sent", "seconds", "said"),
    [
        (b"", "head_seconds", b""),
        (b"POST /x HTTP/1.1\r\nkey: ou", "head_seconds", b"HTTP/1.1 408 "),
        (FRIEND + b"bo", "request_seconds", b"HTTP/1.1 408 "),
        (FRIEND + b"body", "idle_seconds", b""),
        (REQUEST, "head_seconds", b""),
    ],
)
async def test_who_lets_us_wait_is_sent_away_by_what_they_are_at(sent: bytes, seconds: str, said: bytes) -> None:
    limits = {"head_seconds": 4, "request_seconds": 8, "idle_seconds": 16}
    connections = guarded(**limits)
    connection, transport = enter(connections)
    connection.data_received(sent)
    await asyncio.sleep(0)
    answered = len(transport.written)
    for _ in range(limits[seconds]):
        connections.room.sweep()
    assert (transport.closed, transport.ended) == (False, False)
    connections.room.sweep()
    assert transport.closed or transport.ended
    assert b"".join(transport.written[answered:])[:13] == said
