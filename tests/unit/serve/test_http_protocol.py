"""A connection between the turn of the event loop in which a request is complete and the next, and who may have one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from extproc.serve.http_protocol import Connections, Door, HttpLimits

REQUEST = b"GET /livez HTTP/1.1\r\nhost: dropout\r\n\r\n"


class Transport:
    """Keeps what is written; takes nothing more once it is closed."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = self.ended = False

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.written.append(data)

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        """There is nothing to read."""

    resume_reading = pause_reading

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


# -- who may have one

FRIEND = b"POST /x HTTP/1.1\r\nkey: ours\r\ncontent-length: 4\r\n\r\n"


def guarded(app: Any = answer, **limits: int) -> Connections:
    """A server that knows those who have the key."""
    door = Door(frozenset({b"key"}), lambda headers: headers == ((b"key", b"ours"),))
    return Connections(app, HttpLimits(**limits), lambda _fault: None, door)


async def test_a_stranger_takes_the_place_of_strangers_and_of_nobody_who_is_known() -> None:
    connections = guarded(connections=3)
    friends = [connect(connections) for _ in range(3)]
    for friend, _ in friends:
        friend.data_received(FRIEND)  # its body is to come
    strangers = [connect(connections) for _ in range(50)]
    for stranger, _ in strangers:
        stranger.data_received(b"POST /x HTTP/1.1\r\nkey: theirs\r\ncontent-length: 9\r\n\r\nPOST")
    assert [transport.closed for _, transport in strangers] == [True] * 47 + [False] * 3
    for friend, transport in friends:
        friend.data_received(b"body")
        await asyncio.sleep(0)
        assert last_words(transport) == [False]
    assert len(connections) == 6


async def test_who_is_known_takes_the_place_of_the_oldest_that_is_idle() -> None:
    connections = guarded(connections=2)
    known = []
    for _ in range(3):
        known.append(connect(connections))
        known[-1][0].data_received(FRIEND + b"body")
        await asyncio.sleep(0)
    assert [transport.closed for _, transport in known] == [True, False, False]


async def test_what_a_stranger_sends_is_not_kept() -> None:
    bodies = []

    async def keep(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        bodies.append((await receive())["body"])
        await answer(scope, receive, send)

    connection, transport = connect(guarded(keep))
    connection.data_received(FRIEND.replace(b"ours", b"none") + b"body" + FRIEND + b"body")
    await asyncio.sleep(0)
    assert bodies == [b"", b"body"]
    assert last_words(transport) == [False, False]
