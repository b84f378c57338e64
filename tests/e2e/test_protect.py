"""The protect loop on a real Envoy: versions that fail are taken away, with nothing but Envoy, workers and observer."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from tests.e2e.house import KEY, PATH, House
from tests.support.envoy import wait_until
from tests.support.load import under_load

pytestmark = pytest.mark.e2e

RATE = 100.0
WITHIN_SECONDS = 2.0
IMPATIENCE = 0.3
"""Seconds after which a client leaves."""
STABLE, CANARY = "fraud-detector-v3", "fraud-detector-v4"
BREAKER = {"window": "10s", "minRequests": 20, "errorRate": 0.2, "consecutive": 10}
TALKATIVE = {"access_log_options": {"access_log_flush_interval": "0.1s", "flush_access_log_on_new_request": True}}
"""An Envoy that logs of each request when it begins, and then again and again until it ends."""


@pytest.fixture
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    """Half of the users get version 4, and the observer sees what becomes of them."""
    options: dict[str, Any] = getattr(request, "param", {})
    house = House(spec={"breaker": BREAKER}, observed=True, **options)
    try:
        house.start().set_weight(50)
        wait_until(lambda: house.dropout.snapshot()["observer"]["state"] == "serving", "an observer")
        yield house
    finally:
        house.stop()


def observer_pid(house: House) -> int:
    """The process of the observer; 0 between two lives."""
    return int(house.dropout.snapshot()["observer"]["pid"] or 0)


def tripped(house: House) -> list[str]:
    """The versions that this host's observer took away."""
    return [trip["version"] for trip in house.dropout.snapshot()["observer"]["trips"]]


def in_force(house: House) -> bool:
    """Whether everybody gets stable, which whoever is not decided about gets, too."""
    answers = [house.ask(x_user_id=f"user-{number}") for number in range(60)]
    return all(answer.upstream == STABLE for answer in answers)


def last_to_canary(house: House, within: float = 10.0) -> float:
    """When the canary got its last request: it has got none for a while."""
    last, count = time.monotonic(), house.upstreams.seen[CANARY]
    until = last + within
    while time.monotonic() < min(until, last + 1.0):
        time.sleep(0.01)
        if house.upstreams.seen[CANARY] != count:
            last, count = time.monotonic(), house.upstreams.seen[CANARY]
    return last


def websocket(house: House, user: str) -> socket.socket:
    """A WebSocket as Envoy sees one, open."""
    connection = socket.create_connection(("127.0.0.1", house.port), 10)
    connection.sendall(
        f"GET {PATH} HTTP/1.1\r\nhost: models\r\nx-user-id: {user}\r\n"
        "connection: upgrade\r\nupgrade: websocket\r\n\r\n".encode()
    )
    assert connection.recv(4096).startswith(b"HTTP/1.1 101")
    return connection


def successes(house: House) -> float:
    """How many requests the canary has answered, by what the observer saw."""
    return house.dropout.metric("dropout_outcomes_total", rollout=KEY, version="4", outcome="success")


@contextmanager
def without_store(house: House, how: str) -> Iterator[None]:
    """The store is deleted, or nobody else can write to it."""
    file = house.folder / "dropout.db"
    if how == "deleted":
        for part in house.folder.glob("dropout.db*"):
            if part.is_file() and not part.name.endswith((".ids", ".key")):
                part.unlink()
        yield
        return
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.parametrize(
    ("house", "store"), [({"transport": "grpc"}, "deleted"), ({"transport": "http"}, "locked")], indirect=["house"]
)
def test_a_canary_that_answers_500_is_out_of_all_workers_without_store_and_controller(house: House, store: str) -> None:
    with under_load(house.port, rate=RATE) as load:
        time.sleep(2)
        assert load.failed() == []
        with without_store(house, store):
            began = time.monotonic()
            house.upstreams.broken.add(CANARY)
            gone = last_to_canary(house)
            assert gone - began < WITHIN_SECONDS
            assert tripped(house) == ["4"]
            assert in_force(house)
    assert load.failed(after=gone + 0.05) == []
    assert house.dropout.metric("dropout_trips_total", rollout=KEY, version="4") == 1
    assert house.dropout.metric("dropout_outcomes_total", rollout=KEY, version="4", outcome="failure") >= 10


@pytest.mark.parametrize("house", [{"DROPOUT_OUTCOME_LIMIT": "1", "manager": TALKATIVE}], indirect=True)
def test_a_canary_that_hangs_is_taken_away_whatever_is_logged_before_requests_end(house: House) -> None:
    with under_load(house.port, rate=RATE):
        time.sleep(2)
        house.upstreams.hanging.add(CANARY)
        wait_until(lambda: tripped(house) == ["4"], "a trip", within=8)
        assert last_to_canary(house, within=3) < time.monotonic() - 0.9
        house.upstreams.hanging.clear()
    assert in_force(house)
    assert house.dropout.metric("dropout_outcomes_total", rollout=KEY, version="4", outcome="missing") >= 10
    served = sum(house.upstreams.seen.values())
    ended = house.dropout.metric("dropout_outcomes_total", rollout=KEY, outcome="success")
    assert ended <= served


def test_a_canary_that_hangs_is_taken_away_as_soon_as_its_clients_leave(house: House) -> None:
    with under_load(house.port, rate=RATE, patience=IMPATIENCE):
        time.sleep(2)
        began = time.monotonic()
        house.upstreams.hanging.add(CANARY)
        wait_until(lambda: tripped(house) == ["4"], "a trip", within=8)
        assert time.monotonic() - began < IMPATIENCE + WITHIN_SECONDS
        house.upstreams.hanging.clear()
    assert house.dropout.metric("dropout_outcomes_total", rollout=KEY, version="4", outcome="abandoned") >= 10


@pytest.mark.parametrize(
    "house",
    [
        {
            "DROPOUT_OUTCOME_LIMIT": "1",
            "manager": {**TALKATIVE, "upgrade_configs": [{"upgrade_type": "websocket"}]},
        }
    ],
    indirect=True,
)
def test_a_canary_whose_streams_and_answers_go_on_is_not_taken_away(house: House) -> None:
    with ExitStack() as stack:
        house.upstreams.failing.add(STABLE)  # it accepts streams and ends them at once
        for number in range(80):
            stack.enter_context(closing(websocket(house, f"user-{number}")))
        time.sleep(4)
        assert tripped(house) == []
    house.upstreams.failing.clear()
    with under_load(house.port, rate=RATE / 2):
        house.upstreams.dribbling.add(CANARY)
        time.sleep(4)
        assert tripped(house) == []
        house.upstreams.dribbling.clear()
    assert house.dropout.metric("dropout_outcomes_total", rollout=KEY, outcome="missing") == 0
    wait_until(lambda: successes(house) == house.upstreams.seen[CANARY] > 80, "an end of each request", within=5)


def test_what_stable_answers_in_a_retry_is_the_canarys_failure_and_nobodys_error(house: House) -> None:
    with under_load(house.port, rate=RATE) as load:
        time.sleep(1)
        house.upstreams.failing.add(CANARY)
        wait_until(lambda: tripped(house) == ["4"], "a trip", within=5)
    assert load.failed() == []
    assert house.dropout.metric("dropout_outcomes_total", rollout=KEY, version="4", outcome="fallback") >= 10
    assert house.dropout.metric("dropout_outcomes_total", rollout=KEY, version="3", outcome="fallback") == 0


def test_an_outage_of_both_versions_takes_nobody_away(house: House) -> None:
    with under_load(house.port, rate=RATE, patience=IMPATIENCE):
        time.sleep(1)
        house.upstreams.broken |= {STABLE, CANARY}
        time.sleep(3)
        house.upstreams.hanging |= {STABLE, CANARY}
        time.sleep(3)
        seen = house.upstreams.seen[CANARY]
        time.sleep(1)
        assert house.upstreams.seen[CANARY] > seen
        house.upstreams.hanging.clear()
    for version in ("3", "4"):
        for outcome in ("failure", "abandoned"):
            assert house.dropout.metric("dropout_outcomes_total", rollout=KEY, version=version, outcome=outcome) > 50
    assert tripped(house) == []


def test_trips_hold_when_observer_and_workers_are_killed(house: House) -> None:
    with without_store(house, "locked"), under_load(house.port, rate=RATE):
        house.upstreams.broken.add(CANARY)
        wait_until(lambda: tripped(house) == ["4"], "a trip", within=8)
        before = [observer_pid(house), *house.dropout.worker_pids()]
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: serving_anew(house, before), "an observer and workers that serve", within=15)
        assert tripped(house) == ["4"]
        assert in_force(house)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_an_observer_that_ends_or_hangs_costs_no_request_anything(house: House, signum: signal.Signals) -> None:
    with under_load(house.port, rate=2 * RATE) as load:
        time.sleep(1)
        before = observer_pid(house)
        os.kill(before, signum)
        wait_until(lambda: observer_pid(house) not in (0, before), "another observer", within=10)
        wait_until(lambda: house.dropout.metric("dropout_observer_up") == 1, "an observer that serves", within=10)
        entries = house.dropout.metric("dropout_observer_entries_total")
        wait_until(lambda: house.dropout.metric("dropout_observer_entries_total") > entries, "entries", within=10)
    assert load.failed() == []
    assert house.failed_open() == 0
    assert tripped(house) == []


def serving_anew(house: House, before: list[int]) -> bool:
    """Whether an observer and both workers serve that are none of the processes ``before``."""
    page = house.dropout.snapshot()
    lives = [page["observer"], *page["workers"]]
    return all(one["state"] == "serving" and one["pid"] not in before for one in lives)
