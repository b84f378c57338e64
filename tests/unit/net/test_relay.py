"""A relayed connection: when it is at work, what it costs gRPC, and when it is given up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extproc.net.admission import Phase
from extproc.net.callers import Origin
from extproc.net.relay import ENTER_BYTES, ENTER_SECONDS, IDLE_SECONDS, PREFACE, STUCK_SECONDS, Relay, Relayed, hide


class Client:
    """The transport of a client."""

    def __init__(self) -> None:
        self.closed = self.paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    close = abort

    def write(self, _data: bytes) -> None:
        """It takes all."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Relay, socket.socket]]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.settimeout(60)
        relay = Relay()
        relay.hidden = hide(tmp_path / "s")
        yield relay, listener


def connect(relay: Relay) -> tuple[Any, Client]:
    connection, client = relay.enter(Origin()), Client()
    assert isinstance(connection, Relayed)
    connection.connection_made(client)  # type: ignore[arg-type]
    return connection, client


def sweeps(relay: Relay, seconds: float) -> None:
    for _ in range(int(seconds)):
        relay.room.sweep()


@pytest.mark.parametrize("said", [b"", PREFACE[:-1], b"P"])
async def test_who_does_not_begin_costs_grpc_nothing_and_is_sent_away(said: bytes, server: Any) -> None:
    relay, _ = server
    connection, client = connect(relay)
    for byte in said:
        connection.data_received(bytes((byte,)))
    assert relay.found(connection.peer) is None
    sweeps(relay, ENTER_SECONDS)
    assert not client.closed
    sweeps(relay, 1)
    assert client.closed


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSX"])
async def test_what_is_no_http_2_is_not_relayed(said: bytes, server: Any) -> None:
    connection, client = connect(server[0])
    connection.data_received(said)
    assert client.closed


async def test_a_connection_is_at_work_while_it_has_calls_and_idle_after_the_last(server: Any) -> None:
    relay, listener = server
    connection, client = connect(relay)
    connection.data_received(PREFACE + b"more")
    inner, _ = await asyncio.to_thread(listener.accept)
    assert await asyncio.to_thread(inner.recv, 100) == PREFACE + b"more"
    assert relay.found(connection.peer) is connection
    assert connection.introduce("alice")
    connection.begin()
    assert connection.phase is Phase.DECIDING
    sweeps(relay, 10 * IDLE_SECONDS)  # a watch says nothing for as long as nothing happens
    assert not client.closed
    connection.done(None)
    assert connection.phase is Phase.IDLE
    sweeps(relay, IDLE_SECONDS + 1)
    assert client.closed
    connection.connection_lost(None)
    assert (relay.found(connection.peer), len(relay.room)) == (None, 0)
    inner.close()


async def test_a_client_that_does_not_read_is_given_up_whatever_it_called(server: Any) -> None:
    relay, _ = server
    connection, client = connect(relay)
    connection.introduce("alice")
    connection.begin()
    connection.pause_writing()
    sweeps(relay, STUCK_SECONDS + 1)
    assert client.closed


@pytest.mark.parametrize("known", [False, True])
async def test_a_stranger_has_grpc_keep_no_more_than_a_call_has(server: Any, known: bool) -> None:
    relay, listener = server
    connection, client = connect(relay)
    connection.data_received(PREFACE)
    inner, _ = await asyncio.to_thread(listener.accept)
    assert await asyncio.to_thread(inner.recv, 100) == PREFACE
    if known:
        assert connection.introduce("alice")
    connection.data_received(bytes(ENTER_BYTES))
    connection.hold(True)
    connection.hold(False)
    assert not client.paused
    connection.data_received(b"more")
    assert client.paused is not known
    connection.hold(True)
    connection.hold(False)  # gRPC read what there was
    assert client.paused is not known
    assert connection.introduce("alice")
    assert not client.paused
    inner.close()
