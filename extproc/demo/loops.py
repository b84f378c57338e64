"""Rollouts that nobody touches: one is promoted, one is rolled back by labels, one is tripped by the breaker.

A new version comes by applying a document whose challenger moved; everything after that, Dropout does. What must hold
is measured on what users got.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from extproc.demo.documents import CONSECUTIVE, FIRST_WEIGHT, INTERVAL_SECONDS, STEPS, write_ramp, write_templates
from extproc.demo.endings import (
    Ending,
    failed_in_a_row,
    false_positive_rate,
    is_aborted,
    is_promoted,
    is_tripped,
    median_milliseconds,
    outcome_of,
    weights_of,
)
from extproc.demo.environment import CONTROLLER
from extproc.demo.labeller import Labeller
from extproc.demo.processes import START_SECONDS
from extproc.demo.scenario import Act, Scenario
from extproc.demo.screen import Bar, Screen
from extproc.demo.traffic import ServedRequest
from extproc.demo.versions import MODEL, upstream_of
from extproc.demo.watching import Seen, StatusBody, Watcher, unix
from extproc.errors import Unreachable

RECORDED: Final = "recorded"
RAMP_SECONDS: Final = 60.0
"""A rollout that has not ended after this time never will."""
TRIP_SECONDS: Final = 2.0
"""A version that fails is out of traffic within this time."""


class Loops:
    """The acts in which nobody touches anything, and what became of each version."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._watcher = Watcher(lambda: scenario.traffic.now)
        self.labeller = Labeller(scenario.traffic, scenario.environment.feedback_port)
        self.endings: dict[str, Ending] = {}

    def follow(self, lines: asyncio.StreamReader) -> None:
        """Watch the rollout by the lines of ``dropout rollout watch``."""
        self._watcher.follow(lines)

    async def close(self) -> None:
        """End what runs beside the acts."""
        await self._watcher.close()
        await self.labeller.close()

    async def facts(self) -> dict[str, dict[str, object]]:
        """The endings as ``build/demo.json`` has them, by version."""
        said = await self._scenario.environment.dropout("rollout", "history", MODEL, "--limit", "1000", "-o", "json")
        for entry in orjson.loads(said)["history"]:
            second = unix(entry["at"]) - self._scenario.traffic.began_at
            noted = {"second": round(second, 3), **{key: entry[key] for key in ("actor", "action", "message")}}
            noted["step"] = entry["detail"].get("step")
            if begun := [ending for ending in self.endings.values() if ending.began <= second]:
                begun[-1].history.append(noted)
        return {version: ending.facts() for version, ending in self.endings.items()}

    async def promoted(self, scenario: Scenario, act: Act, bar: Bar) -> None:
        """Version 2 goes through its steps and becomes stable; Envoy's routes follow."""
        await self._begin(act)
        before = await self._default_upstream()
        ending = await self._new_version(act, bar, "1", "2")
        await self._end(act, ending, lambda status: is_promoted(status, "2"), "promoted")
        last = {answer.user: answer.version for answer in await scenario.traffic.rounds(2, lambda _: None)}
        elsewhere = [user for user in scenario.users if last.get(user) != "2"]
        self._count(ending)
        default = await self._default_upstream()
        act.numbers = {"seconds": round(ending.ended - ending.began, 1), "default_upstream": default}
        failed = sum(answer.error is not None for answer in self._answers(ending))
        act.require(failed == 0, f"{failed} requests failed.")
        act.require(not elsewhere, f"{len(elsewhere)} users were not on version 2 after its promotion.")
        act.require(
            (before, default) == (upstream_of("1"), upstream_of("2")),
            f"Without a decision Envoy went to {before} before and goes to {default} now.",
        )
        act.shown = (
            f"Stable after {act.numbers['seconds']} s, {failed} requests failed; "
            f"without a decision Envoy goes to {default} now."
        )

    async def rolled_back(self, scenario: Scenario, act: Act, bar: Bar) -> None:
        """Version 3 answers fast, with 200, and wrong: labels say so, and no re-apply brings it back."""
        ending = await self._new_version(act, bar, "2", "3")
        await self._end(act, ending, lambda status: is_aborted(status, "3"), "rolled back")
        ending.event, ending.since = "its first labels had arrived", self.labeller.first_labels("3")
        back = await self._named_again(act, "3")
        self._count(ending)
        served = {version: self._served(ending, version) for version in ("2", "3")}
        right, wrong = (false_positive_rate(answers) for answers in served.values())
        act.numbers = {
            "false_positive_rates": {"2": round(right, 4), "3": round(wrong, 4)},
            "milliseconds": {version: median_milliseconds(answers) for version, answers in served.items()},
            "interval_seconds": INTERVAL_SECONDS,
            "served_when_named_again": back,
        }
        zero = ending.seconds_to_zero
        act.require(ending.reason == "analysis_failed", f"The reason is {ending.reason}: {ending.message}")
        act.require(zero is not None and zero <= INTERVAL_SECONDS, f"It took {zero} s from the labels' arrival.")
        act.require(wrong > 1.17 * right, f"Its false-positive rate, {wrong:.1%}, is not much above {right:.1%}.")
        act.require(ending.failed_requests == 0, f"{ending.failed_requests} of its requests failed.")
        codes = self.labeller.codes()
        act.require(codes.keys() <= {RECORDED}, f"Not all labels were recorded: {codes}.")
        act.require(back == 0, f"{back} requests reached version 3 when it was named again.")
        act.shown = (
            f"{wrong:.0%} false positives against {right:.0%}: gone {zero or 0:.1f} s after its first labels; "
            f"named again, it stays away."
        )

    async def tripped(self, scenario: Scenario, act: Act, bar: Bar) -> None:
        """Version 4 begins to answer 500 while there is no controller: the breaker takes it away."""
        ending = await self._new_version(act, bar, "2", "4")
        serving = await self._until(ending, lambda status: status["weight"] == FIRST_WEIGHT)
        act.require(serving is not None, "Version 4 never got its first weight.")
        await scenario.traffic.rounds(2, lambda _: None)
        scenario.show(act, "kill", str(scenario.environment.pid(CONTROLLER)), "# the controller")
        await scenario.environment.stop_controller()
        scenario.screen.note("version 4 answers 500 from now on")
        scenario.environment.break_version("4")
        await self._end(act, ending, lambda status: is_tripped(status, "4"), "tripped")
        await scenario.traffic.rounds(3, lambda _: None)
        act.require(not scenario.environment.controller_runs(), "The controller was running.")
        ending.event = f"it had failed {CONSECUTIVE} times in a row"
        ending.since = failed_in_a_row(self._answers(ending), "4", CONSECUTIVE)
        self._count(ending)
        scenario.show(act, "dropout", *scenario.environment.controller_command())
        await scenario.environment.start_controller()
        aborted = await self._until(ending, lambda status: is_aborted(status, "4"))
        act.require(aborted is not None, "The controller did not abort what the breaker had tripped.")
        others = sum(answer.error is not None and answer.version != "4" for answer in self._answers(ending))
        act.numbers = {"failed_requests": ending.failed_requests, "failed_elsewhere": others}
        zero = ending.seconds_to_zero
        act.require(zero is not None and zero < TRIP_SECONDS, f"It took {zero} s to take version 4 away.")
        act.require(others == 0, f"{others} requests failed that version 4 did not answer.")
        act.shown = (
            f"Gone {zero or 0:.2f} s after {CONSECUTIVE} failures in a row, {ending.failed_requests} in all; "
            f"the controller, once back, aborts it."
        )

    async def _begin(self, act: Act) -> None:
        """Back to the first version with no other in sight; start what decides, what watches and what reports."""
        scenario, folder = self._scenario, self._scenario.environment.folder
        for file in (write_templates(folder), write_ramp(folder, "1", "1")):
            await scenario.run(act, "apply", "-f", file)
        await scenario.run(act, "restore", MODEL)
        scenario.show(act, "dropout", *scenario.environment.controller_command())
        await scenario.environment.start_controller()
        self.follow(await scenario.environment.watch(MODEL))
        if await self._watcher.until(lambda status: True, START_SECONDS) is None:
            raise Unreachable.of("demo_start", "`dropout rollout watch` says nothing.")
        self.labeller.open(scenario.environment.feedback_token())
        self.labeller.go_on()

    async def _new_version(self, act: Act, bar: Bar, champion: str, challenger: str) -> Ending:
        """Apply the document that names ``challenger``; from here on nobody touches anything."""
        scenario = self._scenario
        ending = self.endings[challenger] = Ending(challenger, began=scenario.traffic.now)
        self._watcher.notice = Narrator(scenario.screen, bar, challenger)
        await scenario.run(act, "apply", "-f", write_ramp(scenario.environment.folder, champion, challenger))
        return ending

    async def _named_again(self, act: Act, version: str) -> int:
        """Apply a document without the version, and the one with it again; how many requests reach it after that."""
        scenario, folder = self._scenario, self._scenario.environment.folder
        await scenario.run(act, "apply", "-f", write_ramp(folder, "2", "2"))
        await scenario.run(act, "apply", "-f", write_ramp(folder, "2", version))
        answers = await scenario.traffic.rounds(2, lambda _: None)
        return sum(answer.version == version for answer in answers)

    async def _end(self, act: Act, ending: Ending, ended: Callable[[StatusBody], bool], what: str) -> None:
        """Wait until the rollout has ended, one way or another, and note how."""
        version = ending.version
        seen = await self._until(ending, lambda status: bool(outcome_of(status, version)))
        last = seen or self._watcher.seen[-1]
        status = last.status
        ending.ended, ending.reason, ending.message = last.second, status["reason"], status["message"]
        ending.outcome = outcome_of(status, version)
        act.require(ended(status), f"Version {version} was not {what}: {status['phase']}, {status['message']}")

    async def _until(self, ending: Ending, holds: Callable[[StatusBody], bool]) -> Seen | None:
        def its_own(status: StatusBody) -> bool:
            return status["canary"] == ending.version and holds(status)

        return await self._watcher.until(its_own, RAMP_SECONDS)

    def _answers(self, ending: Ending) -> list[ServedRequest]:
        """All answers since the rollout began."""
        return [answer for answer in self._scenario.traffic.answers if answer.sent >= ending.began]

    def _served(self, ending: Ending, version: str) -> list[ServedRequest]:
        return [answer for answer in self._answers(ending) if answer.version == version]

    def _count(self, ending: Ending) -> None:
        ending.count(self._answers(ending))
        ending.weights = weights_of(ending.version, self._watcher.seen, self._scenario.traffic.began_at)

    async def _default_upstream(self) -> str:
        """Where Envoy sends what nobody decided."""
        routes = _routes_named(await self._scenario.environment.routes(), f"default/{MODEL}@default")
        found = {route["route"]["cluster"] for route in routes}
        return ", ".join(sorted(found))


LOOP_ACTS: Final[Sequence[tuple[str, int, Callable[[Loops, Scenario, Act, Bar], Awaitable[None]]]]] = (
    ("Version 2 ramps by itself", len(STEPS) + 1, Loops.promoted),
    ("Version 3 is wrong", 5, Loops.rolled_back),
    ("Version 4 breaks", 6, Loops.tripped),
)
"""Title, about how many changes of status there are to come, and what happens."""


def _routes_named(node: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """The routes of that name, wherever they are."""
    if isinstance(node, dict):
        if node.get("name") == name and "route" in node:
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _routes_named(child, name)


class Narrator:
    """Says what the rollout of one version does, as it is seen."""

    def __init__(self, screen: Screen, bar: Bar, version: str) -> None:
        self._screen = screen
        self._bar = bar
        self._version = version
        self._said = ""

    def __call__(self, seen: Seen) -> None:
        """Say what is new in a status, without the numbers that were measured."""
        message = seen.status["message"].partition(" (")[0]
        if seen.status["canary"] != self._version or message == self._said:
            return
        self._said = message
        self._screen.note(f"{seen.second:5.1f} s  {message}")
        self._bar.advance(1)
