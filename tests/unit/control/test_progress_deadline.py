"""What nothing moves for its progressDeadline is Degraded, or aborted; what waits for a person is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from extproc.cli.rollout_text import details
from extproc.control.acting import act
from extproc.control.actions import Kill, Pause, Resume, Trip
from extproc.control.as_json import row_json
from extproc.control.policy import ActionVerdict
from extproc.control.policy_veto import PolicyVeto
from extproc.control.rollout import Evidence
from tests.support.reconciling import NAME, Environment
from tests.support.templates import metric, template

RAMP: list[dict[str, Any]] = [{"setWeight": 5}, {"setWeight": 50}]
WAITS_FOR_IT = "nothing has moved for longer than progressDeadline: no endpoint is healthy"


class Denies:
    """A policy that lets nobody do anything."""

    def decide(self, question: Any) -> ActionVerdict:
        return ActionVerdict(False, "frozen")


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    environment = Environment(tmp_path)
    environment.seen.evidence = Evidence(unready="no endpoint is healthy")
    yield environment
    environment.store.close()


def stands(environment: Environment) -> tuple[str, str, list[str]]:
    status = environment.row().status
    return status.phase, status.reason, [condition["type"] for condition in status.conditions]


WAITING = ("Progressing", "upstream_not_ready", [])
OVERDUE = ("Degraded", "progress_deadline_exceeded", ["ProgressDeadlineExceeded"])


def test_what_nothing_moves_is_degraded_in_words_once_and_goes_on_when_something_does(environment: Environment) -> None:
    environment.apply(steps=RAMP, progressDeadline="30s")
    controller = environment.controller()
    environment.run(controller, 30)
    assert stands(environment) == WAITING
    environment.run(controller, 30)
    assert stands(environment) == OVERDUE
    assert [entry.message for entry in environment.history()][1:] == ["waits: no endpoint is healthy", WAITS_FOR_IT]
    shown = [" ".join(line.split()) for line in details(environment.row(), environment.clock.now())]
    assert f"ProgressDeadlineExceeded: {WAITS_FOR_IT}" in shown
    assert row_json(environment.row())["phase"] == "Degraded"

    environment.seen.evidence = Evidence(unready="the cluster is not known")
    environment.run(controller, 2)
    assert stands(environment) == OVERDUE
    assert environment.row().status.message.endswith(": the cluster is not known")

    environment.seen.evidence = Evidence()
    environment.run(controller, 1)
    assert stands(environment) == ("Progressing", "weight_set", [])
    assert environment.weight() == 500
    environment.run(controller, 5)
    assert environment.row().status.stable == "4"


def test_it_is_aborted_where_the_document_says_so(environment: Environment) -> None:
    environment.apply(steps=RAMP, progressDeadline="30s", progressDeadlineAbort=True)
    environment.run(environment.controller(), 40)
    status = environment.row().status
    assert (status.phase, status.reason, status.aborted) == ("Degraded", "progress_deadline_exceeded", ("4",))
    assert status.message == f"version 4 was aborted at weight 0: {WAITS_FOR_IT}"
    assert status.conditions == ()
    assert environment.history()[-1].action == "abort"


def test_neither_a_jump_of_the_clock_nor_time_without_a_controller_counts(environment: Environment) -> None:
    environment.apply(steps=RAMP, progressDeadline="30s")
    first = environment.controller()
    environment.run(first, 20)
    environment.clock.set_back(-3600)
    environment.run(first, 5)
    assert stands(environment) == WAITING
    environment.clock.advance(3600)
    environment.run(environment.controller("b"), 25)
    assert stands(environment) == WAITING
    environment.run(first, 1)
    environment.run(environment.controller("b"), 25)
    assert stands(environment) == WAITING, "each controller knows what it saw"


LONG = template(metric(interval="50s", count=5), name="health")


@pytest.mark.parametrize(
    ("steps", "action"),
    [
        ([{"pause": {"duration": "10m"}}], None),
        ([{"pause": {}}], None),
        ([{"analysis": {"templates": [{"templateName": "health"}]}}], None),
        (RAMP, Pause(*NAME)),
        (RAMP, Kill(*NAME)),
    ],
    ids=["a pause", "a pause until promoted", "an analysis", "paused by hand", "killed"],
)
def test_what_waits_for_a_person_or_takes_its_own_time_is_never_overdue(
    environment: Environment, steps: list[dict[str, Any]], action: Any
) -> None:
    environment.apply_template(LONG)
    environment.apply(steps=steps, progressDeadline="5s", progressDeadlineAbort=True)
    if action is not None:
        act(environment.store, "alice", action, environment.clock)
    environment.run(environment.controller(), 30)
    assert environment.row().status.aborted == ()
    assert environment.row().status.reason != "progress_deadline_exceeded"


def test_a_policy_that_says_no_is_somebodys_word(environment: Environment) -> None:
    environment.seen.evidence = Evidence()
    environment.apply(steps=RAMP, progressDeadline="5s", progressDeadlineAbort=True)
    veto = PolicyVeto(environment.store, Denies(), "controller@a", environment.clock.monotonic)
    environment.run(environment.controller(veto=veto), 60)
    assert stands(environment) == ("Progressing", "control_denied", [])


def _trip(environment: Environment) -> None:
    act(environment.store, "breaker@box", Trip(*NAME, "4", 1, "10 failures in a row"), environment.clock)


def _pause_and_resume(environment: Environment) -> None:
    act(environment.store, "alice", Pause(*NAME), environment.clock)
    assert stands(environment) == ("Paused", "paused", [])
    act(environment.store, "alice", Resume(*NAME), environment.clock)


@pytest.mark.parametrize(
    ("happens", "becomes"),
    [
        (_trip, ("Degraded", "breaker_open", [])),
        (_pause_and_resume, WAITING),
        (lambda environment: environment.apply(steps=RAMP), WAITING),
        (lambda environment: environment.apply(steps=RAMP, canary={"version": "5"}, progressDeadline="10s"), WAITING),
    ],
    ids=["a trip", "a pause that was resumed", "the deadline is lifted", "another canary"],
)
def test_what_is_overdue_is_under_way(
    environment: Environment, happens: Callable[[Environment], None], becomes: tuple[str, str, list[str]]
) -> None:
    environment.apply(steps=RAMP, progressDeadline="10s")
    controller = environment.controller()
    environment.run(controller, 15)
    assert stands(environment) == OVERDUE
    happens(environment)
    environment.run(controller, 2)
    assert stands(environment) == becomes
