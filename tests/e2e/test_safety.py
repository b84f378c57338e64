"""While the store cannot be written, what is taken away stays away, whoever ends and begins: on a real Envoy."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from tests.e2e.house import KEY, House
from tests.support.envoy import wait_until
from tests.support.load import under_load
from tests.support.rollouts import EXPERIMENT

pytestmark = pytest.mark.e2e

RATE = 60.0
CANARY = "fraud-detector-v4"
BREAKER = {"window": "10s", "minRequests": 20, "errorRate": 0.2, "consecutive": 10}
VARIANTS = {"stable": None, "canary": None, "variants": EXPERIMENT["variants"]}


@contextmanager
def started(**spec: Any) -> Iterator[House]:
    """A house whose observer sees what becomes of requests."""
    house = House(spec=spec, observed=True)
    try:
        house.start()
        wait_until(lambda: house.dropout.snapshot()["observer"]["state"] == "serving", "an observer")
        yield house
    finally:
        house.stop()


@contextmanager
def locked(house: House) -> Iterator[None]:
    """Somebody holds the store's lock."""
    with closing(sqlite3.connect(house.folder / "dropout.db", isolation_level=None)) as store:
        store.execute("BEGIN IMMEDIATE")
        yield
        store.execute("ROLLBACK")


def command(house: House, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(house.run(*arguments, KEY, "-o", "json"))
    return found


def standing(house: House) -> dict[str, Any]:
    return command(house, "rollout", "get")


def tripped(house: House) -> list[str]:
    return [trip["version"] for trip in house.dropout.snapshot()["observer"]["trips"]]


def served(house: House) -> int:
    """Of 40 users, those who get version 4; both workers are asked."""
    answers = [house.ask(x_user_id=f"user-{number}") for number in range(40)]
    return sum(answer.upstream == CANARY for answer in answers)


def restart(house: House, signum: int) -> None:
    house.dropout.stop(signum)
    house.dropout.start()


def test_a_kill_needs_no_writable_store_and_no_process_that_lives_on() -> None:
    with started() as house:
        house.set_weight(50)
        with locked(house):
            killed = command(house, "kill")
            assert served(house) == 0
            assert killed["reached"] == {"store": False, "serves": 1, "unkept": 0, "silent": 0}
            assert killed["store"]["code"] == "store_locked"
            kills = [*killed["kills"], *command(house, "kill")["kills"]]
            restart(house, signal.SIGKILL)
            assert served(house) == 0
        wait_until(lambda: standing(house)["kills"] == kills, "kills in the store")
        held = lambda: house.dropout.snapshot()["safety"]["kills"]  # noqa: E731
        wait_until(lambda: all(kill["stored"] for kill in held()), "a page that says so")
        written = [entry for entry in command(house, "rollout", "history")["history"] if entry["action"] == "kill"]
        assert [entry["detail"] for entry in written] == [{"kill": kill} for kill in kills]
        restored = command(house, "restore")
        assert (restored["kills"], restored["reached"]["serves"]) == (kills, 1)
        wait_until(lambda: served(house) > 0, "the canary")
        wait_until(lambda: held() == [], "nothing that is held")
        assert standing(house)["killed"] is False


def test_a_trip_is_written_though_its_observer_was_killed_and_though_serve_was_stopped() -> None:
    with started(breaker=BREAKER) as house:
        house.set_weight(50)
        with under_load(house.port, rate=RATE), locked(house):
            house.upstreams.broken.add(CANARY)
            wait_until(lambda: tripped(house) == ["4"], "a trip")
            os.kill(house.dropout.snapshot()["observer"]["pid"], signal.SIGKILL)
            seen = house.upstreams.seen[CANARY]
            restart(house, signal.SIGTERM)
            assert "the store does not have 1 trip yet" in house.dropout.log()
            assert served(house) == 0
        wait_until(lambda: standing(house)["tripped"] == ["4"], "a trip in the store")
        wait_until(lambda: house.dropout.metric("dropout_safety_waiting") == 0, "nothing that waits")
        assert house.upstreams.seen[CANARY] <= seen + 2  # what was under way


def test_a_variant_that_was_tripped_stays_away_until_it_is_probed_or_retried() -> None:
    with started(**VARIANTS, breaker={**BREAKER, "window": "1s", "minRequests": 5}) as house:
        with under_load(house.port, rate=RATE):
            house.upstreams.broken.add(CANARY)
            wait_until(lambda: standing(house)["tripped"] == ["4"], "a trip in the store")
            restart(house, signal.SIGTERM)
            assert served(house) <= 4  # at most those of its buckets that are probed
            house.upstreams.broken.discard(CANARY)
            wait_until(lambda: standing(house)["tripped"] == [], "a probe that goes well", within=60)
            wait_until(lambda: served(house) > 10, "the variant")
            house.upstreams.broken.add(CANARY)
            wait_until(lambda: standing(house)["tripped"] == ["4"], "another trip")
        house.upstreams.broken.discard(CANARY)
        command(house, "rollout", "retry")
        wait_until(lambda: served(house) > 10, "the variant")
        assert tripped(house) == []
