"""The demo's acts in which nobody touches anything: one that does not hold says so."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

pytest.importorskip("rich")

from extproc.demo.documents import CONSECUTIVE, INTERVAL_SECONDS
from extproc.demo.labeller import LabelBatch
from extproc.demo.loops import Loops
from extproc.demo.scenario import Act, Scenario
from extproc.demo.screen import Screen
from extproc.demo.traffic import Notify, ServedRequest

USERS = [f"user-{number:04}" for number in range(40)]
CANARY_USERS = frozenset(USERS[:10])


def status(canary: str, **fields: Any) -> dict[str, Any]:
    return {
        "stable": "2",
        "canary": canary,
        "weight": 0,
        "effectiveAt": "2026-11-25T12:00:00.000Z",
        "phase": "Progressing",
        "reason": "",
        "message": "",
        "aborted": [],
        "tripped": [],
        **fields,
    }


class FakeTraffic:
    """Users who are answered by ``serving``, which maps a user's arm to a version."""

    began_at = 0.0

    def __init__(self) -> None:
        self.users = USERS
        self.answers: list[ServedRequest] = []
        self.now = 100.0
        self.serving = {"canary": "2", "control": "2"}
        self.broken: set[str] = set()

    def ask(self, rounds: int = 1) -> None:
        """Let every user ask."""
        for user in USERS * rounds:
            version = self.serving["canary" if user in CANARY_USERS else "control"]
            self.now += 0.001
            error = "HTTP 500" if version in self.broken else None
            said = None if error else version == "3"
            self.answers.append(ServedRequest(self.now, user, False, 0.0, said, version, {}, "an id", error))

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds

    async def rounds(self, count: int, notify: Notify) -> list[ServedRequest]:
        first = len(self.answers)
        self.ask(count)
        await asyncio.sleep(0)
        return self.answers[first:]


class FakeEnvironment:
    """Says of the rollout what a test wants, when a version is applied, breaks, or the controller comes back."""

    feedback_port = 1

    def __init__(self, folder: Path, traffic: FakeTraffic) -> None:
        self.folder = folder
        self.default = "diagnosis-v1"
        self.controller = False
        self.lines = asyncio.StreamReader()
        self.traffic = traffic
        self.when_applied: Any = lambda: None
        self.when_broken: Any = lambda: None
        self.when_back: Any = lambda: None

    def tell(self, *statuses: Mapping[str, Any]) -> None:
        for each in statuses:
            self.lines.feed_data(orjson.dumps(each) + b"\n")

    async def dropout(self, *arguments: str) -> bytes:
        if arguments[0] == "apply" and Path(arguments[2]).name in {f"version-{version}.yaml" for version in "234"}:
            applied, self.when_applied = self.when_applied, lambda: None
            applied()
        return b""

    async def watch(self, rollout: str) -> asyncio.StreamReader:
        return self.lines

    def feedback_token(self) -> str:
        return "secret"

    def controller_command(self) -> list[str]:
        return ["controller"]

    async def start_controller(self) -> None:
        self.controller = True
        self.when_back()

    async def stop_controller(self) -> None:
        self.controller = False

    def controller_runs(self) -> bool:
        return self.controller

    def pid(self, name: str) -> int:
        return 1

    def break_version(self, version: str) -> None:
        self.traffic.broken.add(version)
        self.when_broken()

    async def routes(self) -> Any:
        route = {"name": "default/diagnosis@default", "route": {"cluster": self.default}}
        return {"virtualHosts": [{"matcher": {"typedConfig": {"routes": [route, route]}}}]}


class Rehearsal:
    """The stage with everything around it faked."""

    def __init__(self, folder: Path) -> None:
        self.traffic = FakeTraffic()
        self.environment = FakeEnvironment(folder, self.traffic)
        self.scenario = Scenario(self.environment, self.traffic, Screen(quiet=True), rounds=1)  # type: ignore[arg-type]
        self.loops = Loops(self.scenario)

    async def play(self, scene: Any) -> Act:
        self.environment.tell(status("1", stable="1"))
        if scene != self.loops.promoted:
            self.loops.follow(self.environment.lines)
        act = await self.scenario.play("An act", 1, scene)
        await self.loops.close()
        return act

    def promotes(self, failing: Sequence[str] = (), default: str = "diagnosis-v2") -> None:
        self.traffic.broken.update(failing)
        self.traffic.ask()
        self.traffic.broken.clear()
        self.environment.default = default
        self.environment.tell(status("2", stable="1", weight=25), status("2", phase="Healthy", reason="promoted"))

    def finds_out(self, seconds: float) -> None:
        """Version 3 serves a quarter, and is taken away so long after its first labels."""
        self.traffic.serving["canary"] = "3"
        self.traffic.ask()
        self.loops.labeller.reports.append(LabelBatch(self.traffic.now, self.traffic.answers[-40:], {}))
        self.traffic.pass_seconds(seconds)
        self.traffic.ask()
        self.traffic.serving["canary"] = "2"
        self.environment.tell(
            status("3", weight=25), status("3", aborted=["3"], phase="Degraded", reason="analysis_failed", message="!")
        )

    def trips(self, seconds: float) -> None:
        """Version 4 fails for so long after the failures that trip it."""
        self.traffic.ask(CONSECUTIVE // len(CANARY_USERS))
        self.traffic.pass_seconds(seconds)
        self.traffic.ask()
        self.traffic.serving["canary"] = "2"
        self.environment.tell(status("4", weight=25, tripped=["4"], reason="breaker_open"))

    def serves_four(self) -> None:
        self.traffic.serving["canary"] = "4"
        self.environment.tell(status("4", weight=25))

    def aborts_four(self) -> None:
        self.environment.tell(status("4", tripped=["4"], aborted=["4"], phase="Degraded", reason="breaker_open"))


@pytest.fixture
async def rehearsal(tmp_path: Path) -> Rehearsal:
    return Rehearsal(tmp_path)


async def test_a_version_that_is_promoted_holds(rehearsal: Rehearsal) -> None:
    rehearsal.environment.when_applied = rehearsal.promotes
    act = await rehearsal.play(rehearsal.loops.promoted)
    assert act.failures == []
    assert act.facts()["default_upstream"] == "diagnosis-v2"
    ending = rehearsal.loops.endings["2"].facts()
    assert (ending["outcome"], ending["reason"], ending["seconds_to_zero"]) == ("promoted", "promoted", None)


async def test_a_promotion_that_envoy_does_not_follow_is_found(rehearsal: Rehearsal) -> None:
    rehearsal.environment.when_applied = lambda: rehearsal.promotes(default="diagnosis-v1")
    act = await rehearsal.play(rehearsal.loops.promoted)
    assert act.failures == ["Without a decision Envoy went to diagnosis-v1 before and goes to diagnosis-v1 now."]


async def test_a_user_who_is_elsewhere_after_a_promotion_is_found(rehearsal: Rehearsal) -> None:
    rehearsal.environment.when_applied = rehearsal.promotes
    rehearsal.traffic.serving["canary"] = "1"
    act = await rehearsal.play(rehearsal.loops.promoted)
    assert act.failures == ["10 users were not on version 2 after its promotion."]


async def test_requests_that_fail_during_a_promotion_are_found(rehearsal: Rehearsal) -> None:
    rehearsal.environment.when_applied = lambda: rehearsal.promotes(failing="2")
    act = await rehearsal.play(rehearsal.loops.promoted)
    assert act.failures == ["40 requests failed."]


async def test_a_version_that_ends_otherwise_is_found(rehearsal: Rehearsal) -> None:
    rehearsal.environment.when_applied = lambda: rehearsal.environment.tell(
        status("2", aborted=["2"], phase="Degraded", reason="analysis_failed", message="it was worse")
    )
    act = await rehearsal.play(rehearsal.loops.promoted)
    assert act.failures[0] == "Version 2 was not promoted: Degraded, it was worse"
    assert rehearsal.loops.endings["2"].outcome == "rolled_back"


async def test_a_wrong_version_that_labels_take_away_in_time_holds(rehearsal: Rehearsal) -> None:
    rehearsal.environment.when_applied = lambda: rehearsal.finds_out(3.0)
    act = await rehearsal.play(rehearsal.loops.rolled_back)
    assert act.failures == []
    assert act.facts()["false_positive_rates"] == {"2": 0.0, "3": 1.0}
    ending = rehearsal.loops.endings["3"].facts()
    assert (ending["outcome"], ending["reason"]) == ("rolled_back", "analysis_failed")
    assert ending["seconds_to_zero"] == pytest.approx(3.0, abs=0.1)


async def test_a_wrong_version_that_stays_for_longer_than_an_interval_is_found(rehearsal: Rehearsal) -> None:
    rehearsal.environment.when_applied = lambda: rehearsal.finds_out(INTERVAL_SECONDS + 0.5)
    act = await rehearsal.play(rehearsal.loops.rolled_back)
    assert len(act.failures) == 1
    assert act.failures[0].startswith("It took 6.5")


async def test_a_wrong_version_that_comes_back_when_it_is_named_again_is_found(rehearsal: Rehearsal) -> None:
    def applied() -> None:
        rehearsal.finds_out(3.0)
        rehearsal.environment.when_applied = lambda: rehearsal.traffic.serving.update(canary="3")

    rehearsal.environment.when_applied = applied
    act = await rehearsal.play(rehearsal.loops.rolled_back)
    assert act.failures == ["20 requests reached version 3 when it was named again."]


async def test_labels_that_are_refused_are_told(rehearsal: Rehearsal) -> None:
    rehearsal.environment.when_applied = lambda: rehearsal.finds_out(3.0)
    rehearsal.loops.labeller.reports.append(LabelBatch(0.0, [], {"feedback_forged": 2}))
    act = await rehearsal.play(rehearsal.loops.rolled_back)
    assert act.failures == ["Not all labels were recorded: {'feedback_forged': 2}."]


async def test_a_failing_version_that_the_breaker_takes_away_in_time_holds(rehearsal: Rehearsal) -> None:
    rehearsal.environment.when_applied = rehearsal.serves_four
    rehearsal.environment.when_broken = lambda: rehearsal.trips(1.0)
    rehearsal.environment.when_back = rehearsal.aborts_four
    act = await rehearsal.play(rehearsal.loops.tripped)
    assert act.failures == []
    ending = rehearsal.loops.endings["4"].facts()
    assert (ending["outcome"], ending["reason"], ending["failed_requests"]) == ("tripped", "breaker_open", 20)
    assert ending["seconds_to_zero"] == pytest.approx(1.0, abs=0.1)


async def test_a_failing_version_that_stays_for_two_seconds_is_found(rehearsal: Rehearsal) -> None:
    rehearsal.environment.when_applied = rehearsal.serves_four
    rehearsal.environment.when_broken = lambda: rehearsal.trips(2.0)
    rehearsal.environment.when_back = rehearsal.aborts_four
    act = await rehearsal.play(rehearsal.loops.tripped)
    assert len(act.failures) == 1
    assert "to take version 4 away" in act.failures[0]


async def test_requests_that_fail_elsewhere_meanwhile_are_found(rehearsal: Rehearsal) -> None:
    rehearsal.environment.when_applied = rehearsal.serves_four

    def broken() -> None:
        rehearsal.traffic.broken.add("2")
        rehearsal.trips(1.0)

    rehearsal.environment.when_broken = broken
    rehearsal.environment.when_back = rehearsal.aborts_four
    act = await rehearsal.play(rehearsal.loops.tripped)
    assert any("requests failed that version 4 did not answer" in failure for failure in act.failures)


async def test_history_is_told_with_the_version_that_it_is_about(rehearsal: Rehearsal) -> None:
    rehearsal.environment.when_applied = rehearsal.promotes
    await rehearsal.play(rehearsal.loops.promoted)
    began = rehearsal.loops.endings["2"].began

    def entry(second: float, message: str) -> dict[str, Any]:
        minutes, rest = divmod(second, 60)
        at = f"1970-01-01T00:{int(minutes):02}:{rest:06.3f}Z"
        return {"at": at, "actor": "controller", "action": "advance", "message": message, "detail": {"step": 0}}

    async def history(*arguments: str) -> bytes:
        return orjson.dumps({"history": [entry(began - 1, "before"), entry(began + 1, "after")]})

    rehearsal.environment.dropout = history  # type: ignore[method-assign]
    facts = await rehearsal.loops.facts()
    assert [(told["message"], told["step"]) for told in facts["2"]["history"]] == [("after", 0)]  # type: ignore[attr-defined]
