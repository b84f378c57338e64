"""A policy shadow from its flags to its end, beside policies of the server and beside a real OPA."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.dropout import DropoutServer, alive
from tests.support.process import wait_for
from tests.systems.opa import BundledOpa

GARBAGE = "package routing\n\ndecision := {"
TO_STABLE = 'package routing\n\ndecision := {"allow": true, "version": "3"}\n'


@pytest.fixture
def server() -> Iterator[DropoutServer]:
    """One with an empty folder for a policy shadow, which is shown every decision. Not started."""
    server = DropoutServer(workers=1)
    (server.folder / "shadow").mkdir()
    server.write_rollout(policy={"path": "routing/decision", "timeout": "1s"})
    server.options += ("--policies-shadow", str(server.folder / "shadow"), "--policies-shadow-share", "100")
    server.options += ("--decision-log", str(server.folder / "log.jsonl"))
    try:
        yield server
    finally:
        server.__exit__(None, None, None)


def shadow(server: DropoutServer, policy: str) -> None:
    server.write(server.folder / "shadow" / "decision.rego", policy)


def said(server: DropoutServer) -> dict[str, Any]:
    found: dict[str, Any] = server.snapshot()["policy_shadow"]
    return found


def differ(server: DropoutServer, version: str) -> None:
    """Ask, which ``version`` answers, until one more decision was compared and would be otherwise."""
    before = said(server)["decisions"]["different"]

    def one_more() -> bool:
        assert server.ask()["x-model-version"] == version
        return bool(said(server)["decisions"]["different"] > before)

    wait_for(one_more, "a difference")


def differences(log: Path) -> list[dict[str, Any]]:
    """What is in a log of them."""
    lines = [orjson.loads(line) for line in log.read_bytes().splitlines()] if log.exists() else []
    return [line for line in lines if "policy_shadow" in line.get("custom", {})]


def test_beside_an_opa_decisions_are_compared_whatever_was_in_the_folder_at_the_start(
    server: DropoutServer, start: Callable[[AbstractContextManager[BundledOpa]], BundledOpa]
) -> None:
    opa = start(BundledOpa())
    server.options += ("--policy-engine", f"opa+{opa.url}")
    shadow(server, GARBAGE)
    server.start()
    wait_for(lambda: server.snapshot()["errors"], "a refusal")
    (error,) = server.snapshot()["errors"]
    assert (error["code"], error["file"]) == ("policy_shadow_refused", "decision.rego")
    assert (said(server)["pid"], server.metric("dropout_policy_shadow_up")) == (None, 0)
    shadow(server, TO_STABLE)
    wait_for(lambda: said(server)["policy_revision"], "policies to compare with")
    assert server.snapshot()["errors"] == []
    differ(server, "4")
    (change,) = said(server)["changes"]
    assert (change["kind"], change["before"]["version"], change["after"]["version"]) == ("version", "4", "3")
    (line,) = wait_for(lambda: differences(server.folder / "log.jsonl")[:1], "a line of the log")
    assert line["custom"]["policy_shadow"]["live"]["policy_revision"].endswith(f"={opa.revision}")
    assert line["bundles"]["policies"]["revision"] == said(server)["policy_revision"]
    pid = said(server)["pid"]
    assert server.stop() == 0
    assert not alive(pid)
    assert "Traceback" not in server.log()


def test_a_folder_that_is_empty_costs_nothing_and_workers_and_logs_that_are_replaced_are_followed(
    server: DropoutServer,
) -> None:
    server.write_policy('package routing\n\ndecision := {"allow": true, "version": "4"}\n')
    server.start()
    assert server.ask()["x-model-version"] == "4"
    assert (said(server)["pid"], said(server)["dropped"]["full"]) == (None, 0)
    shadow(server, TO_STABLE)
    wait_for(lambda: said(server)["policy_revision"], "policies to compare with")
    differ(server, "4")
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: server.worker_pids() != [worker] and server.health() == "SERVING", "another worker")
    differ(server, "4")
    log = server.folder / "log.jsonl"
    wait_for(lambda: differences(log), "a line of the log")
    log.rename(server.folder / "log.1")
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: (server.ask(), differences(log))[1], "a line of the next log")

    pid = said(server)["pid"]
    os.kill(pid, signal.SIGSTOP)
    server.process.kill()
    wait_for(lambda: not alive(pid), "its end with that of who started it")
