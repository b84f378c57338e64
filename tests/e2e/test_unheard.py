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

from tests.e2e.house import KEY, House
from tests.support.envoy import wait_until
from tests.support.load import under_load

pytestmark = pytest.mark.e2e

CANARY = "fraud-detector-v4"
BREAKER = {"window": "10s", "minRequests": 20, "errorRate": 0.2, "consecutive": 10}
STEPS = [{"setWeight": 50}, {"pause": {"duration": "4s"}}]


@pytest.fixture
def house() -> Iterator[House]:
    house = House(spec={"breaker": BREAKER, "steps": STEPS}, observed=True)
    house.dropout.options += ("--with-controller", "--control-listen", f"unix:{house.folder}/run/control.sock")
    try:
        yield house.start()
    finally:
        house.stop()


def status(house: House) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(house.run("rollout", "get", KEY, "-o", "json"))
    return found


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Somebody holds the write lock of a file."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def watches(house: House, attempt: int) -> bool:
    """Whether the observer reported in the attempt."""
    with closing(sqlite3.connect(house.folder / "dropout.db.observed")) as connection:
        return bool(connection.execute("SELECT 1 FROM watching WHERE attempt = ?", (attempt,)).fetchall())


def test_a_version_that_an_observer_took_away_or_may_have_is_promoted_by_nobody(house: House) -> None:
    wait_until(lambda: status(house)["reason"] == "pause_step", "half of the users")
    with under_load(house.port, rate=60) as load:
        with locked(house.folder / "dropout.db"):
            wait_until(lambda: house.upstreams.seen[CANARY] > 20, "requests of the canary", 10)
            house.upstreams.broken.add(CANARY)
            wait_until(lambda: house.dropout.snapshot()["observer"]["trips"], "a trip", 10)
            tripped_at = time.monotonic()
            wait_until(lambda: time.monotonic() > tripped_at + 5, "the end of the pause")
        wait_until(lambda: status(house)["phase"] in ("Healthy", "Degraded"), "a word of the controller", 10)
        assert (status(house)["stable"], status(house)["reason"]) == ("3", "breaker_open")
        house.upstreams.broken.clear()

        # The observer cannot tell of anything any more: nobody promotes, but by its name, and that can be undone.
        house.run("rollout", "retry", KEY)
        wait_until(lambda: watches(house, 2) and status(house)["weight"] == 50, "another attempt", 10)
        with locked(house.folder / "dropout.db.observed"):
            wait_until(lambda: status(house)["reason"] == "observer_unheard", "a controller that waits", 15)
            assert f"the observer on {socket.gethostname()}," in status(house)["message"]
            with pytest.raises(AssertionError, match="observer_unheard"):
                house.run("rollout", "promote", KEY, "--full")
            house.run("rollout", "promote", KEY, "--full", "--without", socket.gethostname())
            assert status(house)["stable"] == "4"
            house.run("rollout", "undo", KEY)
        assert (status(house)["stable"], status(house)["aborted"]) == ("3", ["4"])
    assert load.failed(after=tripped_at + 0.5) == []
