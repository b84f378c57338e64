"""What Envoys say about clusters, and Envoys that say nothing, too much, or nonsense."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from extproc.adapters.envoy import admin
from extproc.adapters.envoy.admin import EnvoyClusters
from tests.support.dropout import wait_for


def cluster(name: str, *health: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "host_statuses": [{"health_status": one} for one in health]}


HEALTHY = {"eds_health_status": "HEALTHY"}
FAILED = {"eds_health_status": "HEALTHY", "failed_active_health_check": True}
PAGE = {
    "cluster_statuses": [
        cluster("good", HEALTHY),
        cluster("half", FAILED, HEALTHY),
        cluster("failed", FAILED),
        cluster("ejected", {"eds_health_status": "HEALTHY", "failed_outlier_check": True}),
        cluster("draining", {"eds_health_status": "DRAINING"}),
        {"name": "empty"},
    ]
}


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A listener on loopback that gives each connection to ``answer``, and then closes it."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[:2]
        listener.shutdown(socket.SHUT_RDWR)


def http(body: bytes, status: str = "200 OK") -> Callable[[socket.socket], None]:
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    return lambda connection: connection.sendall(head + body)


@contextmanager
def asking(*addresses: tuple[str, int]) -> Iterator[EnvoyClusters]:
    clusters = EnvoyClusters(addresses)
    clusters.start()
    try:
        yield clusters
    finally:
        clusters.close()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("good", ""),
        ("half", ""),
        ("failed", "has no healthy endpoint"),
        ("ejected", "has no healthy endpoint"),
        ("draining", "has no healthy endpoint"),
        ("empty", "has no endpoint"),
        ("nowhere", "is not known"),
    ],
)
def test_a_cluster_is_ready_when_one_of_its_endpoints_takes_requests(name: str, wrong: str) -> None:
    with serving(http(orjson.dumps(PAGE))) as address, asking(address) as clusters:
        wait_for(lambda: clusters.unready("good") == "", "an answer")
        said = f"cluster {name} {wrong}, says Envoy at 127.0.0.1:{address[1]}" if wrong else ""
        assert clusters.unready(name) == said


def test_every_envoy_must_know_it() -> None:
    other = {"cluster_statuses": [cluster("good")]}
    with (
        serving(http(orjson.dumps(PAGE))) as one,
        serving(http(orjson.dumps(other))) as another,
        asking(one, another) as clusters,
    ):
        wait_for(lambda: "has no endpoint" in clusters.unready("good"), "both answers")
        assert str(another[1]) in clusters.unready("good")


def test_before_the_first_answer_nothing_is_ready() -> None:
    clusters = EnvoyClusters([("127.0.0.1", 9)])
    assert clusters.unready("good") == "Envoy at 127.0.0.1:9 was not asked yet"


@pytest.mark.parametrize(
    "answer",
    [
        lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nx"),
        lambda connection: None,
    ],
    ids=["half an answer", "no answer"],
)
def test_an_envoy_that_gives_no_answer_holds_back_and_says_so(answer: Callable[[socket.socket], None]) -> None:
    with serving(answer) as address, asking(address) as clusters:
        wait_for(lambda: clusters.unready("good").endswith("does not answer"), "a fault")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(b"x", "404 Not Found"), "status 404"),
        (http(b"<html>" * 10), "'<html><html><html><html><html><html><htm'..."),
        (http(b""), "''"),
        (http(b"[]"), "something else than was asked for"),
        (http(b'{"cluster_statuses": [1]}'), "something else than was asked for"),
        (lambda connection: connection.sendall(b"+PONG\r\n"), "something else than HTTP"),
    ],
    ids=["an error", "a page", "nothing", "a list", "no clusters", "another protocol"],
)
def test_what_is_no_envoy_holds_back_and_is_told_with_what_it_answered(
    answer: Callable[[socket.socket], None], said: str
) -> None:
    with serving(answer) as address, asking(address) as clusters:
        message = f"Envoy at 127.0.0.1:{address[1]} is none: it answers with {said}, as no admin endpoint of Envoy does"
        wait_for(lambda: clusters.unready("good") == message, message)


def test_an_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "DEADLINE_SECONDS", 0.3)
    released = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        while not released.wait(0.05):
            connection.sendall(b" ")

    with serving(drip) as address, asking(address) as clusters:
        wait_for(lambda: clusters.unready("good").endswith("does not answer"), "a fault")
        released.set()


def test_an_answer_is_believed_until_the_next_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "POLL_SECONDS", 0.01)
    answers = [http(orjson.dumps(PAGE))] * 3

    def answer(connection: socket.socket) -> None:
        if answers:
            answers.pop()(connection)

    with serving(answer) as address, asking(address) as clusters:
        wait_for(lambda: clusters.unready("good") == "", "an answer")
        wait_for(lambda: clusters.unready("good").endswith("does not answer"), "a fault")


def test_an_old_answer_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(http(orjson.dumps(PAGE))) as address, asking(address) as clusters:
        wait_for(lambda: clusters.unready("good") == "", "an answer")
        monkeypatch.setattr(admin, "STALE_SECONDS", -1.0)
        assert clusters.unready("good").endswith("does not answer")


def test_who_asks_already_may_be_started_again() -> None:
    with serving(http(orjson.dumps(PAGE))) as address, asking(address) as clusters:
        clusters.start()
