"""What servers measure comes beside the tick: it holds up nobody, and counts for the run it was asked for alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extproc.cli.rollout_text import details
from extproc.control.acting import act
from extproc.control.actions import Abort, Retry
from extproc.control.analysis.ports import EmbeddedProvider, Reading
from extproc.control.analysis.servers import AT_ONCE, KEPT_SECONDS, MetricServers
from extproc.control.evidence import EvidenceCollector
from extproc.control.reconciler import Reconciler
from tests.support.metrics import AskedServer, install_memory, number_of
from tests.support.process import wait_for
from tests.support.reconciling import KEY, NAME, Environment
from tests.support.templates import metric, template

TEMPLATES = {"templates": [{"templateName": "health"}]}
MEASURED = [{"setWeight": 50}, {"analysis": TEMPLATES}]
WATCHED = [{"setWeight": 5}, {"pause": {"duration": "2m"}}, {"setWeight": 50}, {"pause": {}}]
GOOD, BAD = Reading(0.5), Reading(2.0)


class Punctual:
    """An embedded provider that notes when it is asked."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.at: list[float] = []

    def measure(self, *_: object) -> Reading:
        self.at.append(self.world.environment.clock.now())
        return Reading({"lower": -0.1, "canary": {"rate": 0.01}})


class World:
    """A controller with a server called ``main``, whose answers the test gives, and one that hangs, ``silent``."""

    def __init__(self, folder: Path) -> None:
        self.environment = Environment(folder)
        self.main, self.silent, self.observed = AskedServer(), AskedServer(), Punctual(self)
        self.servers = MetricServers({"main": self.main, "silent": self.silent}, self.environment.clock.monotonic)
        self.controller = self.controlled()

    def controlled(self) -> Reconciler:
        embedded: dict[str, EmbeddedProvider] = {"observed": self.observed}
        return self.environment.controller(
            evidence=EvidenceCollector(embedded, self.servers, self.environment.clock.monotonic)
        )

    def run(self, seconds: float) -> None:
        """Tick once a second; what a tick asks is on its way before the next, however busy the machine is."""
        for _ in range(int(seconds)):
            self.environment.run(self.controller, 1)
            if self.servers._thread.is_alive():
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.servers._loop).result()

    def answered(self, reading: Reading) -> None:
        """The next question is answered, and the tick after that has it."""
        _, answer = self.main.next()
        answer.set_result(reading)
        before = self.remote()["counts"]

        def taken() -> bool:
            self.controller.tick()
            return self.remote()["counts"] != before or self.environment.row().status.analysis == {}

        wait_for(taken, "a measurement")

    def remote(self, kind: str = "step") -> dict[str, Any]:
        """What the status has of the metric."""
        run = self.environment.row().status.analysis.get(kind)
        found: dict[str, Any] = run["metrics"]["remote"] if run else {"counts": {}, "measurements": []}
        return found

    def close(self) -> None:
        self.servers.close()
        self.environment.store.close()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    install_memory(monkeypatch)
    world = World(tmp_path)
    yield world
    world.close()


def test_a_measurement_is_asked_for_once_and_taken_over_by_a_later_tick(world: World) -> None:
    world.environment.apply_template(template(number_of("main")))
    world.environment.apply(steps=MEASURED)
    world.run(20)
    question, answer = world.main.next()
    assert (question.spec.name, question.of.rollout, question.of.versions) == ("n", KEY, ("4", "3"))
    assert world.main.is_quiet
    assert not answer.done()
    assert world.remote()["counts"]["Successful"] == 0
    answer.set_result(GOOD)
    wait_for(lambda: world.controller.tick() or world.environment.row().status.stable == "4", "a promotion")


def test_a_bad_one_takes_the_canary_away(world: World) -> None:
    world.environment.apply_template(template(number_of("main")))
    world.environment.apply(steps=MEASURED)
    world.run(3)
    world.answered(BAD)
    status = world.environment.row().status
    assert (status.reason, status.aborted) == ("analysis_failed", ("4",))
    assert "failureCondition is true: result >= 1.0 (result 2)" in status.message


def test_a_server_that_hangs_holds_up_neither_a_hundred_rollouts_nor_what_is_observed(world: World) -> None:
    world.environment.apply_template(template(number_of("silent", interval="10s", count=1)))
    world.environment.apply_template(template(metric(interval="10s", count=5), name="near"))
    world.environment.apply("hangs", steps=MEASURED)
    near = [{"setWeight": 50}, {"analysis": {"templates": [{"templateName": "near"}]}}]
    world.environment.apply("observed", steps=near)
    for number in range(100):
        world.environment.apply(f"r{number}", steps=[{"setWeight": 50}, {"pause": {"duration": "20s"}}])
    world.run(60)
    assert {world.environment.row(f"r{number}").status.stable for number in range(100)} == {"4"}
    assert [after - before for before, after in zip(world.observed.at, world.observed.at[1:], strict=False)] == [10] * 4
    assert world.environment.row("observed").status.stable == "4"
    world.run(240)
    status = world.environment.row("hangs").status
    assert (status.phase, status.reason) == ("Paused", "analysis_error")
    assert status.message.startswith(
        "metric remote was Error 5 times: the metric server silent did not answer within 30s"
    )
    wait_for(lambda: world.silent.given_up == 5, "questions that were given up")


def test_a_server_that_hangs_takes_no_place_of_another_and_whoever_waits_for_one_says_so(world: World) -> None:
    world.environment.apply_template(template(number_of("silent")))
    for number in range(AT_ONCE + 1):
        world.environment.apply(f"r{number}", steps=MEASURED)
    world.environment.apply_template(template(number_of("main"), name="other"))
    world.environment.apply(steps=[{"setWeight": 50}, {"analysis": {"templates": [{"templateName": "other"}]}}])
    world.run(4)
    for _ in range(AT_ONCE):
        world.silent.next()
    world.answered(GOOD)
    assert world.silent.is_quiet
    world.run(31)
    runs = (world.environment.row(f"r{number}").status.analysis["step"] for number in range(AT_ONCE + 1))
    said = sorted(run["metrics"]["remote"]["measurements"][-1]["message"] for run in runs)
    assert said[0] == "the metric server silent could not be asked within 30s: 8 others wait for its answer"
    assert set(said[1:]) == {"the metric server silent did not answer within 30s"}


def test_an_answer_that_comes_too_late_or_for_what_is_over_counts_for_nothing(world: World) -> None:
    world.environment.apply_template(template(number_of("main", timeout="5s")))
    world.environment.apply(steps=MEASURED)
    world.run(3)
    _, late = world.main.next()
    world.run(7)
    assert world.remote()["counts"] == {"Successful": 0, "Failed": 0, "Inconclusive": 0, "Error": 1}
    wait_for(lambda: late.cancelled(), "a question that was given up")

    world.run(10)
    _, of_first_attempt = world.main.next()
    for action in (Abort, Retry):
        act(world.environment.store, "alice", action(*NAME), world.environment.clock)
    world.run(4)
    _, of_second = world.main.next()
    wait_for(lambda: of_first_attempt.cancelled(), "a question of an attempt that is over")

    world.environment.apply_template(template(number_of("main", failureCondition="result >= 0.1")))
    world.run(2)
    world.main.next()
    wait_for(lambda: of_second.cancelled(), "a question of a metric that is another now")


def test_an_answer_that_nobody_took_over_for_long_says_nothing_about_now(world: World) -> None:
    world.environment.apply_template(template(number_of("main")))
    world.environment.apply(steps=MEASURED)
    world.run(3)
    _, answer = world.main.next()
    answer.set_result(GOOD)
    world.environment.clock.advance(30 + KEPT_SECONDS)
    world.run(2)
    assert not world.main.is_quiet or world.main.next()
    assert world.environment.row().status.stable == "3"


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (
            "elsewhere",
            "no metric server is called elsewhere; there is main, silent: start the controller with --metrics",
        ),
        ("main", "the metric server main is of another, and is asked as memory"),
    ],
)
def test_a_server_that_is_not_there_or_is_something_else_is_an_error_that_says_what_to_do(
    world: World, server: str, said: str
) -> None:
    world.main.provider = "another"
    world.environment.apply_template(template(number_of(server)))
    world.environment.apply(steps=MEASURED)
    world.run(120)
    status = world.environment.row().status
    assert (status.phase, status.reason) == ("Paused", "analysis_error")
    assert said in status.message


def test_an_overdue_metric_in_the_background_lets_nothing_rise_and_is_shown(world: World) -> None:
    world.environment.apply_template(template(number_of("main", interval="10s", consecutiveErrorLimit=20)))
    world.environment.apply(steps=WATCHED, analysis=TEMPLATES)
    world.run(4)
    _, answer = world.main.next()
    answer.set_result(GOOD)
    wait_for(lambda: world.controller.tick() or world.remote("background")["counts"]["Successful"], "a measurement")
    world.run(130)  # from now on nobody answers
    status = world.environment.row().status
    assert (status.weight, status.reason) == (500, "background_overdue")
    assert status.message == "overdue in the background: remote for more than 40s"
    shown = "\n".join(details(world.environment.row(), world.environment.clock.now()))
    assert "remote: 1 Successful, 3 Error, overdue since " in shown
    (condition,) = status.conditions
    said = "not measured: remote for more than 40s (the metric server main did not answer within 30s)"
    assert (condition["type"], condition["message"]) == ("MetricOverdue", said)
    assert [entry.message for entry in world.environment.history()].count(said) == 1
    world.run(10)

    def risen() -> bool:
        world.main.answer_all(GOOD)
        world.controller.tick()
        return world.environment.row().status.weight == 5000

    wait_for(risen, "a rise")
    world.run(2)
    assert world.environment.row().status.conditions == ()


def test_an_experiment_whose_metric_cannot_be_measured_says_so_although_no_error_ends_it(world: World) -> None:
    world.environment.apply_template(template(number_of("elsewhere", interval="10s")))
    variants = [{"name": name, "version": version, "weight": 50} for name, version in (("new", "4"), ("old", "3"))]
    world.environment.apply(stable=None, canary=None, steps=None, variants=variants, analysis=TEMPLATES)
    world.run(60)
    (condition,) = world.environment.row().status.conditions
    assert (condition["type"], condition["metrics"]) == ("MetricOverdue", ["variant/new/remote"])
    assert "start the controller with --metrics elsewhere=URL" in condition["message"]
