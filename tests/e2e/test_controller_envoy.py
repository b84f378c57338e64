"""The controller and a real Envoy: no weight for what Envoy cannot serve, and routes that follow a promotion."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.environment import KEY, ControlledEnvironment
from tests.support.envoy import wait_until
from tests.support.load import under_load

pytestmark = pytest.mark.e2e

RAMP: list[dict[str, Any]] = [{"setWeight": 5}, {"pause": {"duration": "1s"}}, {"setWeight": 50}]


@pytest.fixture(scope="module")
def environment() -> Iterator[ControlledEnvironment]:
    environment = ControlledEnvironment(steps=RAMP)
    try:
        yield environment.start()  # type: ignore[misc]
    finally:
        environment.stop()


def test_a_promotion_moves_the_rendered_routes_and_failing_open_serves_the_new_stable(
    environment: ControlledEnvironment,
) -> None:
    wait_until(lambda: environment.status()["phase"] == "Healthy", "a promotion")
    assert (environment.status()["stable"], environment.status()["reason"]) == ("4", "promoted")
    to_stable = f'{KEY}@default","route":{{"cluster":"fraud-detector-v4"'
    wait_until(lambda: to_stable in (environment.envoy_dir / "rds.json").read_text(), "rendered routes")
    assert environment.ask(x_user_id="alice").upstream == "fraud-detector-v4"
    with environment.without_dropout():
        wait_until(lambda: environment.ask(x_user_id="alice").upstream == "fraud-detector-v4", "the new stable")
        assert "x-model-version" not in environment.ask(x_user_id="alice").sent
    assert {entry["actor"].partition("@")[0] for entry in _history(environment)[1:]} == {"controller"}


def test_a_controller_killed_in_mid_ramp_leaves_traffic_as_it_is_and_the_next_one_goes_on(
    environment: ControlledEnvironment,
) -> None:
    environment.dropout.write_rollout(steps=[*RAMP, {"pause": {"duration": "3s"}}], canary={"version": "3"})
    wait_until(lambda: environment.status()["weight"] == 50, "half of the way")
    before = environment.failed_open()
    with under_load(environment.port, rate=50, headers=lambda number: {"x-user-id": f"u{number}"}) as load:
        os.kill(environment.dropout.controller_pid(), signal.SIGKILL)
        assert environment.status()["weight"] == 50
        wait_until(lambda: environment.status()["stable"] == "3", "a promotion")
    assert load.failed() == []
    assert environment.failed_open() == before


def test_a_version_whose_cluster_envoy_does_not_know_gets_no_weight(environment: ControlledEnvironment) -> None:
    environment.dropout.write_rollout(steps=RAMP, canary={"version": "9"})
    wait_until(lambda: environment.status()["reason"] == "upstream_not_ready", "a rollout that waits")
    status = environment.status()
    assert (status["canary"], status["weight"]) == ("9", 0)
    unknown = "cluster fraud-detector-v9 is not known, says Envoy at 127.0.0.1:"
    assert status["message"].startswith(unknown)
    for by_hand in (("set-weight", KEY, "5"), ("promote", KEY, "--full")):
        with pytest.raises(AssertionError, match="upstream_not_ready") as refused:
            environment.run("rollout", *by_hand, "--control", f"unix:{environment.dropout.sockets}/control.sock")
        assert unknown in str(refused.value)
    assert environment.status()["weight"] == 0


def test_a_version_whose_endpoints_are_unhealthy_waits_until_they_are_not(environment: ControlledEnvironment) -> None:
    environment.upstreams.stop("fraud-detector-v5")
    noticed: dict[str, Any] = {"pause": {"duration": "3s"}}  # by Envoy's health check, and by the controller
    environment.dropout.write_rollout(steps=[noticed, *RAMP], canary={"version": "5"})
    wait_until(
        lambda: "fraud-detector-v5 has no healthy endpoint" in environment.status()["message"], "a rollout that waits"
    )
    assert environment.status()["weight"] == 0
    environment.upstreams.restart("fraud-detector-v5")
    wait_until(lambda: environment.status()["stable"] == "5", "a promotion")
    assert len([entry for entry in _history(environment) if "no healthy endpoint" in entry["message"]]) == 1


def test_an_envoy_that_does_not_answer_holds_a_rise_back(environment: ControlledEnvironment) -> None:
    assert environment.envoy is not None
    environment.envoy.stop()
    environment.dropout.write_rollout(steps=RAMP, canary={"version": "3"})
    wait_until(lambda: environment.status()["message"].endswith("does not answer"), "a rollout that waits")
    environment.envoy.start()
    wait_until(lambda: environment.status()["stable"] == "3", "a promotion")


def _history(environment: ControlledEnvironment) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(environment.run("rollout", "history", KEY, "-o", "json"))["history"]
    return found
