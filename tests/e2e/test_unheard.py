"""Nobody goes on as if there were no trip: the controller, an operator and a locked store on a real Envoy."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.environment import KEY, Environment
from tests.support.envoy import wait_until
from tests.support.load import under_load

pytestmark = pytest.mark.e2e

STABLE, CANARY = "fraud-detector-v3", "fraud-detector-v4"
BREAKER = {"window": "10s", "minRequests": 20, "errorRate": 0.2, "consecutive": 10}
STEPS = [{"setWeight": 50}, {"pause": {"duration": "4s"}}]


@pytest.fixture
def environment() -> Iterator[Environment]:
    environment = Environment(spec={"breaker": BREAKER, "steps": STEPS}, observed=True)
    environment.dropout.options += (
        "--with-controller",
        "--control-listen",
        f"unix:{environment.folder}/run/control.sock",
    )
    try:
        yield environment.start()
    finally:
        environment.stop()


def status(environment: Environment) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(environment.run("rollout", "get", KEY, "-o", "json"))
    return found


def served(environment: Environment) -> Iterator[str]:
    """The versions that 40 users get; both workers are asked."""
    return (environment.ask(x_user_id=f"user-{number}").upstream for number in range(40))


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Somebody holds the write lock of a file."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def watches(environment: Environment, attempt: int) -> bool:
    """Whether the observer reported in the attempt."""
    with closing(sqlite3.connect(environment.folder / "dropout.db.observed")) as connection:
        return bool(connection.execute("SELECT 1 FROM watching WHERE attempt = ?", (attempt,)).fetchall())


def test_a_version_that_an_observer_took_away_or_may_have_is_promoted_by_nobody(environment: Environment) -> None:
    wait_until(lambda: status(environment)["reason"] == "pause_step", "half of the users")
    with under_load(environment.port, rate=60) as load:
        with locked(environment.folder / "dropout.db"):
            wait_until(lambda: environment.upstreams.seen[CANARY] > 20, "requests of the canary")
            environment.upstreams.broken.add(CANARY)
            wait_until(lambda: environment.dropout.snapshot()["observer"]["trips"], "a trip")
            wait_until(lambda: set(served(environment)) == {STABLE}, "a trip in force")
            tripped_at = time.monotonic()
            wait_until(lambda: time.monotonic() > tripped_at + 5, "the end of the pause")
        wait_until(lambda: status(environment)["phase"] in ("Healthy", "Degraded"), "a word of the controller")
        assert (status(environment)["stable"], status(environment)["reason"]) == ("3", "breaker_open")
        environment.upstreams.broken.clear()

        # The observer cannot tell of anything any more: nobody promotes, but by its name, and that can be undone.
        environment.run("rollout", "retry", KEY)
        wait_until(lambda: watches(environment, 2) and status(environment)["weight"] == 50, "another attempt")
        with locked(environment.folder / "dropout.db.observed"):
            wait_until(lambda: status(environment)["reason"] == "observer_unheard", "a controller that waits")
            assert f"the observer on {socket.gethostname()}," in status(environment)["message"]
            with pytest.raises(AssertionError, match="observer_unheard"):
                environment.run("rollout", "promote", KEY, "--full")
            environment.run("rollout", "promote", KEY, "--full", "--without", socket.gethostname())
            assert status(environment)["stable"] == "4"
            environment.run("rollout", "undo", KEY)
        assert (status(environment)["stable"], status(environment)["aborted"]) == ("3", ["4"])
    assert load.failed(after=tripped_at) == []
