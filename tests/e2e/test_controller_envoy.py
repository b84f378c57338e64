"""The controller and a real Envoy: no weight for what Envoy cannot serve, and routes that follow a promotion."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.house import KEY, House
from tests.support.envoy import EnvoyProcess, free_port, wait_until
from tests.support.load import under_load

pytestmark = pytest.mark.e2e

RAMP: list[dict[str, Any]] = [{"setWeight": 5}, {"pause": {"duration": "1s"}}, {"setWeight": 50}]


class ControlledHouse(House):
    """A house with a controller beside its workers, which asks the house's Envoy."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(None, spec, DROPOUT_LEASE="2")
        self._admin_port = free_port()
        self.dropout.options += (
            *("--with-controller", "--control-listen", f"unix:{self.dropout.sockets}/control.sock"),
            *("--envoy-admin", f"127.0.0.1:{self._admin_port}"),
        )

    def new_envoy(self, directory: Path, change: Callable[[dict[str, Any]], None]) -> EnvoyProcess:
        def changed(config: dict[str, Any]) -> None:
            config["admin"]["address"]["socket_address"]["port_value"] = self._admin_port
            for cluster in config["static_resources"]["clusters"]:
                if cluster["name"] == "fraud-detector-v5":
                    cluster["health_checks"] = [_HEALTH_CHECK]
            change(config)

        return super().new_envoy(directory, changed)

    def status(self) -> dict[str, Any]:
        """Where the rollout stands."""
        found: dict[str, Any] = json.loads(self.run("rollout", "get", KEY, "-o", "json"))
        return found


_HEALTH_CHECK: dict[str, Any] = {
    "timeout": "1s",
    "interval": "0.2s",
    "unhealthy_threshold": 1,
    "healthy_threshold": 1,
    "http_health_check": {"path": "/"},
    "no_traffic_interval": "0.2s",
    "unhealthy_interval": "0.2s",
}


@pytest.fixture(scope="module")
def house() -> Iterator[ControlledHouse]:
    house = ControlledHouse(steps=RAMP)
    try:
        yield house.start()  # type: ignore[misc]
    finally:
        house.stop()


def test_a_promotion_moves_the_rendered_routes_and_failing_open_serves_the_new_stable(house: ControlledHouse) -> None:
    wait_until(lambda: house.status()["phase"] == "Healthy", "a promotion")
    assert (house.status()["stable"], house.status()["reason"]) == ("4", "promoted")
    to_stable = f'{KEY}@default","route":{{"cluster":"fraud-detector-v4"'
    wait_until(lambda: to_stable in (house.envoy_dir / "rds.json").read_text(), "rendered routes")
    assert house.ask(x_user_id="alice").upstream == "fraud-detector-v4"
    with house.without_dropout():
        wait_until(lambda: house.ask(x_user_id="alice").upstream == "fraud-detector-v4", "the new stable")
        assert "x-model-version" not in house.ask(x_user_id="alice").sent
    assert {entry["actor"].partition("@")[0] for entry in _history(house)[1:]} == {"controller"}


def test_a_controller_killed_in_mid_ramp_leaves_traffic_as_it_is_and_the_next_one_goes_on(
    house: ControlledHouse,
) -> None:
    house.dropout.write_rollout(steps=[*RAMP, {"pause": {"duration": "3s"}}], canary={"version": "3"})
    wait_until(lambda: house.status()["weight"] == 50, "half of the way")
    before = house.failed_open()
    with under_load(house.port, rate=50, headers=lambda number: {"x-user-id": f"u{number}"}) as load:
        os.kill(house.dropout.controller_pid(), signal.SIGKILL)
        assert house.status()["weight"] == 50
        wait_until(lambda: house.status()["stable"] == "3", "a promotion", within=40)
    assert load.failed() == []
    assert house.failed_open() == before


def test_a_version_whose_cluster_envoy_does_not_know_gets_no_weight(house: ControlledHouse) -> None:
    house.dropout.write_rollout(steps=RAMP, canary={"version": "9"})
    wait_until(lambda: house.status()["reason"] == "upstream_not_ready", "a rollout that waits")
    status = house.status()
    assert (status["canary"], status["weight"]) == ("9", 0)
    unknown = "cluster fraud-detector-v9 is not known, says Envoy at 127.0.0.1:"
    assert status["message"].startswith(unknown)
    for by_hand in (("set-weight", KEY, "5"), ("promote", KEY, "--full")):
        with pytest.raises(AssertionError, match="upstream_not_ready") as refused:
            house.run("rollout", *by_hand, "--control", f"unix:{house.dropout.sockets}/control.sock")
        assert unknown in str(refused.value)
    assert house.status()["weight"] == 0


def test_a_version_whose_endpoints_are_unhealthy_waits_until_they_are_not(house: ControlledHouse) -> None:
    house.upstreams.stop("fraud-detector-v5")
    noticed: dict[str, Any] = {"pause": {"duration": "3s"}}  # by Envoy's health check, and by the controller
    house.dropout.write_rollout(steps=[noticed, *RAMP], canary={"version": "5"})
    wait_until(lambda: "fraud-detector-v5 has no healthy endpoint" in house.status()["message"], "a rollout that waits")
    assert house.status()["weight"] == 0
    house.upstreams.restart("fraud-detector-v5")
    wait_until(lambda: house.status()["stable"] == "5", "a promotion")
    assert len([entry for entry in _history(house) if "no healthy endpoint" in entry["message"]]) == 1


def test_an_envoy_that_does_not_answer_holds_a_rise_back(house: ControlledHouse) -> None:
    assert house.envoy is not None
    house.envoy.stop()
    house.dropout.write_rollout(steps=RAMP, canary={"version": "3"})
    wait_until(lambda: house.status()["message"].endswith("does not answer"), "a rollout that waits", within=40)
    house.envoy.start()
    wait_until(lambda: house.status()["stable"] == "3", "a promotion", within=30)


def _history(house: ControlledHouse) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(house.run("rollout", "history", KEY, "-o", "json"))["history"]
    return found
