"""``dropout serve`` while the store cannot be written: what is taken away stays away, whoever ends and begins."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from extproc.cli.main import cli
from tests.contract.test_observer import BREAKER, KEY, batch, decide, half, send, trips
from tests.support.dropout import DropoutServer, wait_for
from tests.support.rollouts import EXPERIMENT


@pytest.fixture
def server() -> Iterator[DropoutServer]:
    server = DropoutServer(workers=2)
    server.options = ("--access-log-listen", f"unix:{server.sockets}/observer.sock")
    server.write_rollout(breaker=BREAKER)
    with server:
        wait_for(lambda: server.metric("dropout_observer_up") == 1, "an observer")
        yield server


@contextmanager
def locked(server: DropoutServer) -> Iterator[None]:
    """Somebody holds the store's lock."""
    with closing(sqlite3.connect(server.store.removeprefix("sqlite:"), isolation_level=None)) as store:
        store.execute("BEGIN IMMEDIATE")
        yield
        store.execute("ROLLBACK")


def run(server: DropoutServer, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(cli, [*arguments, KEY, "--store", server.store, "-o", "json"])
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = orjson.loads(result.stdout)
    return found


def status(server: DropoutServer) -> dict[str, Any]:
    return run(server, "rollout", "get")


def restart(server: DropoutServer, signum: int) -> None:
    server.stop(signum)
    server.start()


def test_a_kill_needs_no_writable_store_and_no_process_that_lives_on(server: DropoutServer) -> None:
    half(server)
    with locked(server):
        killed = run(server, "kill")
        assert killed["reached"] == {"store": False, "serves": 1, "unkept": 0, "silent": 0}
        assert killed["store"]["code"] == "store_locked"
        assert decide(server)["4"] == []
        killed["kills"] += run(server, "kill")["kills"]
        restart(server, signal.SIGKILL)
        assert decide(server)["4"] == []
    wait_for(lambda: status(server)["killed"], "a kill in the store", 10)
    wait_for(lambda: all(kill["stored"] for kill in server.snapshot()["safety"]["kills"]), "a page that says so", 5)
    written = [entry for entry in run(server, "rollout", "history")["history"] if entry["action"] == "kill"]
    assert [entry["detail"] for entry in written] == [{"kill": kill} for kill in killed["kills"]]
    restored = run(server, "restore")
    assert (restored["kills"], restored["reached"]["serves"]) == (killed["kills"], 1)
    wait_for(lambda: decide(server, 8)["4"], "the canary", 5)
    wait_for(lambda: server.snapshot()["safety"]["kills"] == [], "nothing that is held", 5)
    assert status(server)["killed"] is False


def test_a_trip_is_written_though_its_observer_was_killed_and_though_serve_was_stopped(server: DropoutServer) -> None:
    decided = half(server)
    with locked(server):
        send(server, [batch(decided["3"]), batch(decided["4"], 500)])
        wait_for(lambda: trips(server) == ["4"], "a trip", 5)
        os.kill(server.snapshot()["observer"]["pid"], signal.SIGKILL)
        restart(server, signal.SIGTERM)
        assert "the store does not have 1 trip yet" in server.log()
        assert decide(server)["4"] == []
    wait_for(lambda: status(server)["tripped"] == ["4"], "a trip in the store", 10)
    wait_for(lambda: server.metric("dropout_safety_waiting") == 0, "nothing that waits", 5)


def test_a_variant_that_was_tripped_stays_away_until_it_is_probed_or_retried() -> None:
    server = DropoutServer(workers=2)
    server.options = ("--access-log-listen", f"unix:{server.sockets}/observer.sock")
    server.write_rollout(stable=None, canary=None, variants=EXPERIMENT["variants"], breaker={**BREAKER, "window": "1s"})
    with server:
        wait_for(lambda: server.metric("dropout_observer_up") == 1, "an observer")
        decided = decide(server, 60)
        send(server, [batch(decided["3"]), batch(decided["4"], 500)])
        wait_for(lambda: status(server)["tripped"] == ["4"], "a trip in the store", 10)
        restart(server, signal.SIGTERM)
        assert len(decide(server)["4"]) <= 3  # at most those of its buckets that are probed
        wait_for(lambda: server.snapshot()["observer"]["trips"][0]["probing"], "a probe", 10)
        send(server, [batch(decided["3"]), batch(decided["4"])])
        wait_for(lambda: status(server)["tripped"] == [], "a probe that went well", 10)
        wait_for(lambda: len(decide(server)["4"]) > 5, "the variant", 5)
        assert trips(server) == []
