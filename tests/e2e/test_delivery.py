"""What is rendered is held against what a real Envoy has: whatever keeps it from Envoy is told, and where to look."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.envoy import delivery as envoy_delivery
from extproc.adapters.envoy.delivery import EnvoyDelivery
from extproc.envoy.bootstrap import bootstrap
from extproc.envoy.files import ROUTES_FILE, write_envoy_dir
from tests.e2e.environment import KEY, ControlledEnvironment
from tests.support.envoy import TEMPLATE, EnvoyProcess, free_port, running, wait_until
from tests.support.rollouts import MARKS, canary

pytestmark = pytest.mark.e2e

MADE_ANEW = "does not see any more what is rendered: the folder was removed and made anew; start Envoy again"


class Delivering:
    """An Envoy that reads ``folder``, and the question whether it has what is in there."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "envoy"
        self.write("first")
        config = bootstrap(
            TEMPLATE,
            listen_port=free_port(),
            admin_port=free_port(),
            worker_sockets=[tmp_path / "w-0.sock"],
            envoy_dir=self.folder,
            models={"fraud-detector-v3": free_port()},
        )
        self.envoy = EnvoyProcess(config, tmp_path)
        self.delivery = self.asked_anew()

    def write(self, name: str) -> None:
        """The routes of a rollout of that name."""
        write_envoy_dir(self.folder, [canary(name=name)], MARKS)

    def garble(self, change: Callable[[str], str]) -> None:
        """Put other routes there."""
        file = self.folder / ROUTES_FILE
        other = file.with_name("other")
        other.write_text(change(file.read_text()))
        other.rename(file)

    def asked_anew(self) -> EnvoyDelivery:
        """As by somebody who has just begun to ask."""
        return EnvoyDelivery([("127.0.0.1", self.envoy.admin_port)], self.folder)

    def tells(self, what: str) -> None:
        """Wait for what is said of the delivery, in these words; of none if it is in order."""

        def told() -> bool:
            self.delivery.ask("127.0.0.1", self.envoy.admin_port)
            (fault,) = self.delivery.faults().values()
            return (what in fault.message if what else False) if fault is not None else not what

        wait_until(told, what or "a delivery")


@pytest.fixture
def delivering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Delivering]:
    monkeypatch.setattr(envoy_delivery, "BEHIND_SECONDS", 0.0)
    delivering = Delivering(tmp_path)
    with running(delivering.envoy):
        yield delivering


def without_a_domain(routes: str) -> str:
    """Routes that Envoy refuses."""
    read = json.loads(routes)
    read["resources"][0]["virtualHosts"][0]["domains"] = []
    return json.dumps({**read, "versionInfo": "0bad"}, separators=(",", ":"))


def test_whatever_keeps_the_routes_from_envoy_has_its_own_words(delivering: Delivering) -> None:
    delivering.tells("")
    delivering.garble(without_a_domain)
    delivering.tells("refuses the routes or clusters that were rendered")
    delivering.write("second")
    delivering.tells("")
    delivering.garble(lambda routes: routes.replace('{"versionInfo":"', '{"versionInfo":"0')[:100])
    delivering.tells("cannot read the routes or clusters that were rendered")
    delivering.write("second")
    delivering.tells("")
    shutil.rmtree(delivering.folder)
    delivering.write("third")
    delivering.tells(MADE_ANEW)
    delivering.delivery = delivering.asked_anew()
    delivering.tells("reads another folder, or one that was removed and made anew since it started")
    delivering.envoy.stop()
    delivering.tells("does not answer")
    delivering.envoy.start()
    delivering.tells("")


def test_an_envoy_whose_folder_was_made_anew_is_told_of_everywhere_until_it_is_started_again() -> None:
    environment = ControlledEnvironment(steps=[{"setWeight": 5}, {"pause": {}}])
    with running(environment):
        assert environment.envoy is not None
        address = f"127.0.0.1:{environment.envoy.admin_port}"
        wait_until(lambda: environment.status()["weight"] == 5, "a first step")
        delivered = partial(environment.dropout.metric, "dropout_envoy_delivered", envoy=address)
        wait_until(lambda: delivered() == 1, "an Envoy that has what was rendered")
        shutil.rmtree(environment.envoy_dir)
        wait_until((environment.envoy_dir / ROUTES_FILE).exists, "routes in a folder made anew")
        anew = f"the folder {environment.envoy_dir} was removed and made anew"
        wait_until(lambda: anew in environment.dropout.log(), "a line of the log")
        environment.dropout.write_rollout(canary={"version": "5"}, steps=[{"setWeight": 5}, {"pause": {}}])

        def told() -> dict[str, Any]:
            """What each place says."""
            snapshot, status = environment.dropout.snapshot(), environment.status()
            return {
                "page": [(envoy["delivered"], envoy["message"]) for envoy in snapshot["envoys"]],
                "errors": [error["message"] for error in snapshot["errors"] if error["code"] == "envoy_behind"],
                "metric": environment.dropout.metric("dropout_envoy_delivered", envoy=address),
                "rollout": [one["message"] for one in status["conditions"] if one["type"] == "Undelivered"],
            }

        why = f"Envoy at {address} {MADE_ANEW}"
        everywhere = {"page": [(False, why)], "errors": [why], "metric": 0, "rollout": [why]}
        wait_until(lambda: told() == everywhere, "a word everywhere")
        line = f"Envoy at {address} {MADE_ANEW} (envoy_behind)"
        wait_until(lambda: line in environment.dropout.log(), "a word in the log")
        environment.envoy.stop()
        environment.envoy.start()
        wait_until(lambda: told() == {"page": [(True, "")], "errors": [], "metric": 1, "rollout": []}, "no word more")
        assert "every Envoy has the routes again" in environment.run("rollout", "history", KEY)
