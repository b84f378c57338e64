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

from tests.e2e.environment import KEY, Environment
from tests.support.envoy import wait_until
from tests.support.load import under_load
from tests.support.rollouts import EXPERIMENT

pytestmark = pytest.mark.e2e

RATE = 60.0
CANARY = "fraud-detector-v4"
BREAKER = {"window": "10s", "minRequests": 20, "errorRate": 0.2, "consecutive": 10}
VARIANTS = {"stable": None, "canary": None, "variants": EXPERIMENT["variants"]}


@contextmanager
def started(**spec: Any) -> Iterator[Environment]:
    """An environment whose observer sees what becomes of requests."""
    environment = Environment(spec=spec, observed=True)
    try:
        environment.start()
        wait_until(lambda: environment.dropout.snapshot()["observer"]["state"] == "serving", "an observer")
        yield environment
    finally:
        environment.stop()


@contextmanager
def locked(environment: Environment) -> Iterator[None]:
    """Somebody holds the store's lock."""
    with closing(sqlite3.connect(environment.folder / "dropout.db", isolation_level=None)) as store:
        store.execute("BEGIN IMMEDIATE")
        yield
        store.execute("ROLLBACK")


def command(environment: Environment, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(environment.run(*arguments, KEY, "-o", "json"))
    return found


def standing(environment: Environment) -> dict[str, Any]:
    return command(environment, "rollout", "get")


def tripped(environment: Environment) -> list[str]:
    return [trip["version"] for trip in environment.dropout.snapshot()["observer"]["trips"]]


def served(environment: Environment) -> int:
    """Of 40 users, those who get version 4; both workers are asked."""
    answers = [environment.ask(x_user_id=f"user-{number}") for number in range(40)]
    return sum(answer.upstream == CANARY for answer in answers)


def restart(environment: Environment, signum: int) -> None:
    environment.dropout.stop(signum)
    environment.dropout.start()


def test_a_kill_needs_no_writable_store_and_no_process_that_lives_on() -> None:
    with started() as environment:
        environment.set_weight(50)
        with locked(environment):
            killed = command(environment, "kill")
            assert served(environment) == 0
            assert killed["reached"] == {"store": False, "serves": 1, "unkept": 0, "silent": 0}
            assert killed["store"]["code"] == "store_locked"
            kills = [*killed["kills"], *command(environment, "kill")["kills"]]
            restart(environment, signal.SIGKILL)
            assert served(environment) == 0
        wait_until(lambda: standing(environment)["kills"] == kills, "kills in the store")
        held = lambda: environment.dropout.snapshot()["safety"]["kills"]  # noqa: E731
        wait_until(lambda: all(kill["stored"] for kill in held()), "a page that says so")
        written = [
            entry for entry in command(environment, "rollout", "history")["history"] if entry["action"] == "kill"
        ]
        assert [entry["detail"] for entry in written] == [{"kill": kill} for kill in kills]
        restored = command(environment, "restore")
        assert (restored["kills"], restored["reached"]["serves"]) == (kills, 1)
        wait_until(lambda: served(environment) > 0, "the canary")
        wait_until(lambda: held() == [], "nothing that is held")
        assert standing(environment)["killed"] is False


def test_a_trip_is_written_though_its_observer_was_killed_and_though_serve_was_stopped() -> None:
    with started(breaker=BREAKER) as environment:
        environment.set_weight(50)
        with under_load(environment.port, rate=RATE), locked(environment):
            environment.upstreams.broken.add(CANARY)
            wait_until(lambda: tripped(environment) == ["4"], "a trip")
            os.kill(environment.dropout.snapshot()["observer"]["pid"], signal.SIGKILL)
            seen = environment.upstreams.seen[CANARY]
            restart(environment, signal.SIGTERM)
            assert "the store does not have 1 trip yet" in environment.dropout.log()
            assert served(environment) == 0
        wait_until(lambda: standing(environment)["tripped"] == ["4"], "a trip in the store")
        wait_until(lambda: environment.dropout.metric("dropout_safety_waiting") == 0, "nothing that waits")
        assert environment.upstreams.seen[CANARY] <= seen + 2  # what was under way


def test_a_variant_that_was_tripped_stays_away_until_it_is_probed_or_retried() -> None:
    with started(**VARIANTS, breaker={**BREAKER, "window": "1s", "minRequests": 5}) as environment:
        with under_load(environment.port, rate=RATE):
            environment.upstreams.broken.add(CANARY)
            wait_until(lambda: standing(environment)["tripped"] == ["4"], "a trip in the store")
            restart(environment, signal.SIGTERM)
            assert served(environment) <= 4  # at most those of its buckets that are probed
            environment.upstreams.broken.discard(CANARY)
            wait_until(lambda: standing(environment)["tripped"] == [], "a probe that goes well")
            wait_until(lambda: served(environment) > 10, "the variant")
            environment.upstreams.broken.add(CANARY)
            wait_until(lambda: standing(environment)["tripped"] == ["4"], "another trip")
        environment.upstreams.broken.discard(CANARY)
        command(environment, "rollout", "retry")
        wait_until(lambda: served(environment) > 10, "the variant")
        assert tripped(environment) == []
