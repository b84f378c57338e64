"""A policy shadow beside a real Envoy's traffic: whatever becomes of it, no request is changed, late or failed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from tests.e2e.environment import Environment
from tests.support.dropout import alive
from tests.support.load import under_load
from tests.support.process import wait_for

pytestmark = pytest.mark.e2e

RATE = 50.0
PINS = 'package routing\n\ndefault decision := {"allow": true, "version": "4"}\n'
ODD_TO_STABLE = f"""{PINS}
decision := {{"allow": true, "version": "3"}} if endswith(input.attributes.request.http.headers["x-user-id"], "1")
"""
NEVER_ENDS = f"""{PINS}
decision := {{"allow": true}} if {{
    startswith(input.unit, "user-")
    count([1 | some a in numbers.range(1, 5000); some b in numbers.range(1, 5000); a * b == -1]) == 1
}}
"""
EATS = f"""{PINS}
decision := {{"allow": true}} if {{
    startswith(input.unit, "user-")
    large := concat("", ["{"x" * 900}" | some _ in numbers.range(1, 400)])
    huge := concat("", [large | some _ in numbers.range(1, 1500)])
    startswith(huge, "y")
}}
"""
GARBAGE = "package routing\n\ndecision := {"


@pytest.fixture
def environment() -> Iterator[Environment]:
    """Two workers whose policy pins version 4, and a shadow that is shown all of it and would leave some to stable."""
    environment = Environment(PINS, {"policy": {"path": "routing/decision", "onError": "stable"}})
    (environment.folder / "shadow").mkdir()
    shadow(environment, ODD_TO_STABLE)
    environment.dropout.options += ("--worker-memory", "320M", "--policies-shadow", str(environment.folder / "shadow"))
    environment.dropout.options += ("--policies-shadow-share", "100")
    try:
        yield environment.start()
    finally:
        environment.stop()


def shadow(environment: Environment, policy: str) -> None:
    environment.dropout.write(environment.folder / "shadow" / "decision.rego", policy)


def said(environment: Environment) -> dict[str, Any]:
    """What /snapshot says of the shadow."""
    found: dict[str, Any] = environment.dropout.snapshot()["policy_shadow"]
    return found


def compares(environment: Environment, than: str | None = None) -> Callable[[], Any]:
    """That one works whose revision is another ``than`` that, and its counts rise."""

    def seen() -> bool:
        before = said(environment)
        if before["policy_revision"] in (None, than):
            return False
        wait_for(
            lambda: said(environment)["decisions"].get("different", 0) > before["decisions"].get("different", 0),
            "a difference more",
        )
        return True

    return seen


def test_whatever_becomes_of_a_policy_shadow_no_request_is_changed_late_or_failed(environment: Environment) -> None:
    pids = environment.dropout.worker_pids()
    with under_load(environment.port, rate=RATE) as load:
        wait_for(compares(environment), "a shadow that compares")
        good = said(environment)
        (change,) = [change for change in good["changes"] if change["kind"] == "version"]
        assert (change["before"]["version"], change["after"]["version"]) == ("4", "3")

        for rule, deed in ((NEVER_ENDS, "which took more than"), (EATS, "which ")):
            shadow(environment, rule)
            wait_for(lambda: said(environment)["quarantined"] == ["routing/decision"], "a quarantine")
            assert f"ended in routing/decision, {deed}" in said(environment)["fault"]["message"]
            wait_for(lambda: said(environment)["policy_revision"], "another process")
            load.go_on(50)
            shadow(environment, ODD_TO_STABLE)
            wait_for(lambda: said(environment)["policy_revision"] == good["policy_revision"], "the good policies")
            assert said(environment)["quarantined"] == []

        for signum in (signal.SIGKILL, signal.SIGSTOP):
            (pid, counted) = said(environment)["pid"], said(environment)["decisions"]["different"]
            os.kill(pid, signum)
            load.go_on(50)
            wait_for(lambda pid=pid: not alive(pid), "the end of it")
            wait_for(compares(environment), "another shadow that compares")
            assert said(environment)["decisions"]["different"] >= counted

        shadow(environment, GARBAGE)
        wait_for(lambda: environment.dropout.snapshot()["errors"], "a refusal")
        (error,) = environment.dropout.snapshot()["errors"]
        assert (error["code"], error["file"], error["line"]) == ("policy_shadow_refused", "decision.rego", 3)
        wait_for(compares(environment), "the last good ones, which compare")
        assert said(environment)["policy_revision"] == good["policy_revision"]
        load.go_on(50)
        assert said(environment)["dropped"]["unsendable"] == 0
    assert load.failed() == []
    assert {orjson.loads(answer.body)["upstream"] for answer in load.answered} == {"fraud-detector-v4"}
    assert environment.failed_open() == 0
    assert environment.dropout.worker_pids() == pids
    counted = environment.dropout.metric
    assert counted("dropout_decisions_total", reason="policy_pin") == counted("dropout_decisions_total")
    assert counted("dropout_policy_faults_total") == 0
    assert counted("dropout_policy_shadow_replaced_total") == 4
    assert counted("dropout_policy_shadow_differences_total", kind="version") > 0
    logged = [orjson.loads(line) for line in (environment.folder / "decisions.jsonl").read_bytes().splitlines()]
    assert any("policy_shadow" in line.get("custom", {}) for line in logged)
