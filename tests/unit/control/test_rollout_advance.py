"""A rollout's way through its steps: what moves it, what holds it, what ends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from extproc.control import transitions
from extproc.control.analysis.runs import Measured, Outcome, run_plan
from extproc.control.intent import Transition
from extproc.control.rollout import BACKGROUND, STEP, Evidence, RolloutPlan, advance, due, plan_of
from extproc.control.status_changes import arrived
from extproc.resources.analysis_spec import AnalysisSpec
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.loading import parse_rollout
from extproc.store.ports import RAISE_DELAY_SECONDS
from extproc.store.records import Tombstone
from extproc.store.status import Status
from tests.support.rollouts import CANARY, document
from tests.support.templates import metric, template

NOW = 1000.0
NOTHING = Evidence()
RAMP: list[dict[str, Any]] = [
    {"shadow": {"percent": 100}},
    {"pause": {"duration": "10m"}},
    {"setWeight": 5},
    {"analysis": {"templates": [{"templateName": "health"}]}},
    {"setWeight": 50},
    {"pause": {}},
]
HEALTH = template(metric(interval="10s", count=2, inconclusiveLimit=1), name="health")
LIVE = template(metric(name="live", interval="10s"), name="live")
RAMP_GATE = AnalysisSpec.model_validate({"templates": [{"templateName": "health"}]})
PATIENT = template(metric(name="live", interval="10s", inconclusiveLimit=9, failureLimit=9), name="patient")
LATER = template(metric(name="live", interval="10s", startingStep=2), name="later")
TEMPLATES = {body["metadata"]["name"]: AnalysisTemplate.model_validate(body) for body in (HEALTH, LIVE, PATIENT, LATER)}


def plan_for(steps: Sequence[Mapping[str, Any]], *, background: str | None = None) -> RolloutPlan:
    spec: dict[str, Any] = {**CANARY, "steps": list(steps)}
    if background is not None:
        spec["analysis"] = {"templates": [{"templateName": background}]}
    return plan_of(parse_rollout(document(spec)), TEMPLATES.get)


def fresh(plan: RolloutPlan) -> Status:
    return transitions.create(plan.intent, Tombstone(), NOW).status


def moved(transition: Transition | None) -> Status:
    assert transition is not None
    return transition.status


def settle(plan: RolloutPlan, status: Status, now: float, evidence: Evidence = NOTHING) -> tuple[Status, list[str]]:
    """The status when nothing more is to be done at ``now``, and what history says of the way there."""
    said = []
    for _ in range(20):
        transition = advance(plan, status, evidence, now)
        if transition is None:
            return status, said
        evidence = replace(evidence, measured={})
        status = transition.status
        if transition.message:
            said.append(transition.message)
    raise AssertionError(f"it never comes to rest: {said}")


def measured(kind: str, outcome: Outcome, at: float, metric: str = "errors") -> Evidence:
    return Evidence(measured={kind: [Measured(metric, at, outcome, {"rate": 0.5}, f"{outcome} at {at}")]})


def test_the_steps_are_done_in_their_order_each_in_its_time() -> None:
    plan = plan_for(RAMP)
    status, said = settle(plan, fresh(plan), NOW)
    assert said == ["100 percent of the units' requests are mirrored", "paused by step 1 for 10m"]
    assert (status.shadow, status.step, status.phase, status.reason) == (10_000, 1, "Paused", "pause_step")
    assert advance(plan, status, NOTHING, NOW + 599) is None

    status, said = settle(plan, status, NOW + 600)
    assert said == ["the pause of step 1 is over", "weight 0 to 5"]
    assert (status.weight, status.weight_at(NOW + 600), status.shadow) == (500, 0, 0)
    now = NOW + 600 + RAISE_DELAY_SECONDS
    status, said = settle(plan, status, now)
    assert said == ["the analysis of step 3 begins"]
    assert [metric.name for metric in due(plan, status, now)[STEP]] == ["errors"]

    status, _ = settle(plan, status, now, measured(STEP, Outcome.SUCCESSFUL, now))
    assert status.step == 3
    status, _ = settle(plan, status, now + 10, measured(STEP, Outcome.SUCCESSFUL, now + 10))
    assert (status.step, status.weight) == (5, 5000)
    status, said = settle(plan, status, now + 11)
    assert said == ["paused by step 5 until promoted"]
    assert advance(plan, status, NOTHING, now + 1e6) is None

    status = transitions.promote(plan.intent, status, now + 20).status
    status, said = settle(plan, status, now + 20)
    assert status.message == "version 4 is stable in place of 3: all steps are done"
    (told,) = said
    assert told.startswith(f"{status.message}; the document still names")
    assert (status.stable, status.phase, status.reason, status.weight) == ("4", "Healthy", "promoted", 0)


def test_a_step_begins_when_the_rise_before_it_is_in_force() -> None:
    plan = plan_for([{"setWeight": 5}, {"setWeight": 50}])
    status, _ = settle(plan, fresh(plan), NOW)
    assert (status.weight, status.step) == (500, 1)
    assert advance(plan, status, NOTHING, NOW + RAISE_DELAY_SECONDS / 2) is None
    assert moved(advance(plan, status, NOTHING, NOW + RAISE_DELAY_SECONDS)).weight == 5000


def test_a_rollout_without_steps_is_left_to_whoever_sets_its_weight() -> None:
    plan = plan_for([])
    assert advance(plan, fresh(plan), NOTHING, NOW + 1e6) is None


def test_a_failed_analysis_takes_the_canary_away_in_one_transition_and_says_from_what() -> None:
    plan = plan_for(RAMP[2:])
    status, _ = settle(plan, fresh(plan), NOW)
    status, _ = settle(plan, status, NOW + 1)
    transition = advance(plan, status, measured(STEP, Outcome.FAILED, NOW + 1), NOW + 1)
    after = moved(transition)
    assert transition is not None
    assert (after.weight, after.weight_at(NOW + 1), after.phase, after.reason) == (0, 0, "Degraded", "analysis_failed")
    assert (after.aborted, after.drawn) == (("4",), 500)
    assert "errors" in after.message
    assert transition.detail["measurements"]["metrics"]["errors"]["measurements"][0]["outcome"] == "Failed"
    assert advance(plan, after, NOTHING, NOW + 1e6) is None


def test_an_inconclusive_analysis_pauses_until_somebody_promotes_and_passes_nothing() -> None:
    plan = plan_for(RAMP[2:])
    status, _ = settle(plan, fresh(plan), NOW)
    status, _ = settle(plan, status, NOW + 1)
    now = NOW + 1
    for _ in range(2):
        status, _ = settle(plan, status, now, measured(STEP, Outcome.INCONCLUSIVE, now))
        now += 10
    assert (status.phase, status.reason, status.step, status.weight) == ("Paused", "analysis_inconclusive", 1, 500)
    assert advance(plan, status, NOTHING, now + 1e6) is None
    status = transitions.promote(plan.intent, status, now).status
    status, _ = settle(plan, status, now)
    assert (status.step, status.weight) == (3, 5000)


@pytest.mark.parametrize("kind", [STEP, BACKGROUND])
@pytest.mark.parametrize("doubt", [Outcome.INCONCLUSIVE, Outcome.ERROR])
def test_a_pause_for_doubt_says_from_what_measurements_and_how_it_ends(kind: str, doubt: Outcome) -> None:
    if kind == STEP:
        plan, name = plan_for(RAMP[2:]), "errors"
    else:
        plan, name = plan_for([{"setWeight": 5}, {"pause": {}}], background="live"), "live"
    status, _ = settle(plan, fresh(plan), NOW)
    now = NOW + 1
    status, _ = settle(plan, status, now)
    transition = None
    while status.phase == "Progressing" or status.reason == "pause_step":
        now += 10
        transition = advance(plan, status, measured(kind, doubt, now, name), now)
        status = moved(transition)
    assert transition is not None
    assert (status.reason, transition.detail["analysis"]) == (transition.detail["reason"], kind)
    goes_on = "goes on without this analysis" if kind == STEP else "goes on, and it is measured anew"
    assert status.message.endswith(f"; `dropout rollout promote` {goes_on}")
    of_metric = transition.detail["measurements"]["metrics"][name]
    assert of_metric["measurements"][-1]["outcome"] == doubt


def test_a_template_that_is_missing_pauses_with_an_error() -> None:
    plan = plan_for([{"setWeight": 5}, {"analysis": {"templates": [{"templateName": "nowhere"}]}}])
    status, _ = settle(plan, fresh(plan), NOW)
    status, _ = settle(plan, status, NOW + 1)
    assert (status.phase, status.reason) == ("Paused", "analysis_error")
    assert "nowhere" in status.message


def test_the_background_analysis_begins_with_the_first_weight_and_guards_every_gate() -> None:
    plan = plan_for([{"pause": {"duration": "5s"}}, {"setWeight": 5}, {"pause": {}}], background="live")
    status, _ = settle(plan, fresh(plan), NOW)
    assert due(plan, status, NOW + 4) == {}
    status, _ = settle(plan, status, NOW + 5)
    status, _ = settle(plan, status, NOW + 6)
    assert status.reason == "pause_step"
    assert [metric.name for metric in due(plan, status, NOW + 6)[BACKGROUND]] == ["live"]
    after, _ = settle(plan, status, NOW + 60, measured(BACKGROUND, Outcome.FAILED, NOW + 60, "live"))
    assert (after.phase, after.reason, after.weight) == ("Degraded", "analysis_failed", 0)


def test_a_metric_whose_step_comes_late_is_not_overdue_when_it_comes() -> None:
    pause = {"pause": {"duration": "10m"}}
    plan = plan_for([{"setWeight": 5}, pause, {"setWeight": 50}, pause], background="later")
    status, _ = settle(plan, fresh(plan), NOW)
    status, _ = settle(plan, status, NOW + 1)
    status, said = settle(plan, status, NOW + 601)
    assert (status.weight, status.conditions) == (5000, ())
    assert said == ["the pause of step 1 is over", "weight 5 to 50"]


def test_each_of_two_analyses_in_a_row_measures_for_itself_whether_the_first_passed_or_was_ended() -> None:
    gate = {"analysis": {"templates": [{"templateName": "health"}]}}
    plan = plan_for([{"setWeight": 5}, gate, gate, {"setWeight": 50}])
    status, _ = settle(plan, fresh(plan), NOW)
    status, _ = settle(plan, status, NOW + 1)
    first, _ = settle(plan, status, NOW + 2, measured(STEP, Outcome.SUCCESSFUL, NOW + 2))
    passed, _ = settle(plan, first, NOW + 12, measured(STEP, Outcome.SUCCESSFUL, NOW + 12))
    doubtful = status
    for seconds in (2, 12):
        doubtful, _ = settle(plan, doubtful, NOW + seconds, measured(STEP, Outcome.INCONCLUSIVE, NOW + seconds))
    ended, _ = settle(plan, transitions.promote(plan.intent, doubtful, NOW + 13).status, NOW + 13)
    for second in (passed, ended):
        assert (second.step, second.weight, second.reason) == (2, 500, "analysis")
        assert second.analysis[STEP]["metrics"]["errors"]["measurements"] == []


def test_fewer_copies_are_given_whatever_holds_the_canary_back() -> None:
    plan = plan_for([{"shadow": {"percent": 100}}, {"shadow": {"percent": 10}}, {"setWeight": 5}])
    first = moved(advance(plan, fresh(plan), NOTHING, NOW))
    status, _ = settle(plan, first, NOW, Evidence(unready="no endpoint is healthy"))
    assert (status.shadow, status.step, status.reason) == (1000, 2, "upstream_not_ready")


def test_a_template_that_changes_while_a_step_measures_begins_that_anew() -> None:
    plan = plan_for([{"setWeight": 5}, {"analysis": {"templates": [{"templateName": "health"}]}}, {"setWeight": 50}])
    status, _ = settle(plan, fresh(plan), NOW)
    status, _ = settle(plan, status, NOW + 1)
    status, _ = settle(plan, status, NOW + 2, measured(STEP, Outcome.SUCCESSFUL, NOW + 2))
    stricter = template(metric(interval="10s", count=2, failureCondition="result.lower > -1"), name="health")
    plan = replace(plan, runs={1: run_plan(RAMP_GATE, lambda _: AnalysisTemplate.model_validate(stricter))})
    status, _ = settle(plan, status, NOW + 12, measured(STEP, Outcome.SUCCESSFUL, NOW + 12))
    assert (status.step, status.weight) == (1, 500)
    status, _ = settle(plan, status, NOW + 22, measured(STEP, Outcome.SUCCESSFUL, NOW + 22))
    assert (status.step, status.weight) == (3, 5000)


def test_a_failure_aborts_what_was_paused_by_hand_too() -> None:
    plan = plan_for([{"setWeight": 5}, {"setWeight": 50}], background="live")
    status, _ = settle(plan, fresh(plan), NOW)
    status = moved(transitions.pause(plan.intent, status))
    status, _ = settle(plan, status, NOW + 1)
    status, _ = settle(plan, status, NOW + 2, measured(BACKGROUND, Outcome.FAILED, NOW + 2, "live"))
    assert (status.phase, status.weight) == ("Degraded", 0)


def test_doubt_in_the_background_outlasts_a_pause_by_hand_and_what_is_paused_is_watched_on() -> None:
    plan = plan_for([{"setWeight": 5}, {"setWeight": 50}], background="live")
    status, _ = settle(plan, fresh(plan), NOW)
    status = moved(transitions.pause(plan.intent, status))
    status, _ = settle(plan, status, NOW + 1)
    for at in (NOW + 2, NOW + 12):
        status, said = settle(plan, status, at, measured(BACKGROUND, Outcome.INCONCLUSIVE, at, "live"))
        assert (status.phase, status.reason, status.weight) == ("Paused", "background_inconclusive", 500)
        assert bool(said) == (at == NOW + 2)
        assert [metric.name for metric in due(plan, status, at)[BACKGROUND]] == ["live"]
    after, _ = settle(plan, status, NOW + 22, measured(BACKGROUND, Outcome.FAILED, NOW + 22, "live"))
    assert (after.phase, after.weight) == ("Degraded", 0)


def test_a_background_analysis_without_its_template_pauses_and_says_so_once() -> None:
    plan = plan_for([{"setWeight": 5}, {"setWeight": 50}], background="nowhere")
    status, said = settle(plan, fresh(plan), NOW)
    assert (status.phase, status.reason, len(said)) == ("Paused", "background_error", 1)
    assert status.weight == 0, "nothing is raised that nobody watches over"
    assert settle(plan, status, NOW + 60)[1] == []


@pytest.mark.parametrize("background", [None, "live"])
def test_a_pause_for_a_template_that_is_missing_ends_when_it_is_there_or_no_more_asked_for(
    background: str | None,
) -> None:
    steps: list[Any] = [{"setWeight": 5}, {"pause": {}}]
    status, _ = settle(plan_for(steps, background="nowhere"), fresh(plan_for(steps)), NOW)
    after, said = settle(plan_for(steps, background=background), status, NOW + 1)
    assert "in the background" in said[0]
    assert (after.weight, after.phase) == (500, "Progressing")


@pytest.mark.parametrize("background", ["live", "patient"])
def test_nothing_is_promoted_before_the_background_analysis_was_successful_once(background: str) -> None:
    plan = plan_for([{"setWeight": 5}], background=background)
    status, _ = settle(plan, fresh(plan), NOW)
    waits, said = settle(plan, status, NOW + 1)
    assert (waits.stable, waits.phase, waits.reason) == ("3", "Progressing", "background_unmeasured")
    assert said == ["waits: not Successful in the background yet: live"]
    for outcome, stable in (
        (Outcome.ERROR, "3"),
        (Outcome.INCONCLUSIVE, "3"),
        (Outcome.FAILED, "3"),
        (Outcome.SUCCESSFUL, "4"),
    ):
        assert [metric.name for metric in due(plan, waits, NOW + 2)[BACKGROUND]] == ["live"]
        after, _ = settle(plan, waits, NOW + 2, measured(BACKGROUND, outcome, NOW + 2, "live"))
        assert after.stable == stable


def test_what_cannot_be_measured_in_the_background_pauses_what_waits_for_it() -> None:
    plan = plan_for([{"setWeight": 5}], background="live")
    status, _ = settle(plan, fresh(plan), NOW)
    status, _ = settle(plan, status, NOW + 1)
    for at in (NOW + 2, NOW + 12, NOW + 22, NOW + 32, NOW + 42):
        assert status.phase == "Progressing"
        status, _ = settle(plan, status, at, measured(BACKGROUND, Outcome.ERROR, at, "live"))
    assert (status.stable, status.phase, status.reason) == ("3", "Paused", "background_error")


def test_doubt_in_the_background_stops_a_pause_from_running_out() -> None:
    plan = plan_for([{"setWeight": 5}, {"pause": {"duration": "1m"}}, {"setWeight": 50}], background="live")
    status, _ = settle(plan, fresh(plan), NOW)
    status, _ = settle(plan, status, NOW + 1)
    status, _ = settle(plan, status, NOW + 2, measured(BACKGROUND, Outcome.INCONCLUSIVE, NOW + 2, "live"))
    assert (status.phase, status.reason) == ("Paused", "background_inconclusive")
    later, _ = settle(plan, status, NOW + 1e6)
    assert (later.phase, later.reason, later.step) == ("Paused", "background_inconclusive", status.step)
    status = transitions.promote(plan.intent, status, NOW + 100).status
    status, _ = settle(plan, status, NOW + 100)
    assert (status.reason, status.step, BACKGROUND in status.analysis) == ("pause_step", 1, True)


def test_a_trip_aborts_whatever_else_holds() -> None:
    plan = plan_for(RAMP)
    status, _ = settle(plan, fresh(plan), NOW)
    for standing in (status, replace(status, killed=True), moved(transitions.pause(plan.intent, status))):
        tripped = moved(transitions.trip(plan.intent, standing, "4", standing.attempt, "9 of 10 failed", NOW))
        after = moved(advance(plan, tripped, NOTHING, NOW - 5000))
        assert (after.phase, after.reason, after.aborted) == ("Degraded", "breaker_open", ("4",))
        assert "9 of 10 failed" in after.message


def test_history_does_not_blame_a_trip_on_something_else_that_happened_since() -> None:
    plan = plan_for(RAMP[2:])
    tripped = moved(transitions.trip(plan.intent, fresh(plan), "4", 1, "9 of 10 failed", NOW))
    edited = transitions.configure(replace(plan.intent, steps="others"), tripped, NOW).status
    after = moved(advance(plan, edited, NOTHING, NOW))
    assert "9 of 10 failed" in after.message
    again = replace(fresh(plan), tripped=("4",), reason="canary_moved", message="canary moved from 5 to 4")
    assert "canary moved" not in moved(advance(plan, again, NOTHING, NOW)).message


def test_no_weight_is_given_to_what_cannot_serve_and_history_says_so_once() -> None:
    plan = plan_for([{"setWeight": 5}, {"setWeight": 50}, {"setWeight": 10}])
    away = Evidence(unready="Envoy knows no cluster fraud-detector-v4")
    status, said = settle(plan, fresh(plan), NOW, away)
    assert said == ["waits: Envoy knows no cluster fraud-detector-v4"]
    assert (status.weight, status.step, status.reason) == (0, 0, "upstream_not_ready")
    assert advance(plan, status, away, NOW + 60) is None
    status, said = settle(plan, status, NOW + 61)
    assert said == ["weight 0 to 5"]
    status, _ = settle(plan, status, NOW + 62)
    assert status.weight == 5000
    status, said = settle(plan, status, NOW + 63, away)
    assert said == ["weight 50 to 10", "waits: Envoy knows no cluster fraud-detector-v4"]
    assert (status.weight, status.stable) == (1000, "3")


def test_a_sample_ratio_that_is_off_pauses_once_in_an_epoch() -> None:
    plan = plan_for([{"setWeight": 5}, {"pause": {"duration": "1m"}}, {"setWeight": 50}])
    off = Evidence(sample_ratio="canary has 3000 units of 4096")
    status, _ = settle(plan, fresh(plan), NOW)
    status, _ = settle(plan, status, NOW + 1, off)
    assert (status.phase, status.reason) == ("Paused", "sample_ratio_mismatch")
    status = transitions.promote(plan.intent, status, NOW + 2).status
    status, _ = settle(plan, status, NOW + 2, off)
    assert status.reason == "pause_step"
    status, _ = settle(plan, status, NOW + 63, off)
    status, _ = settle(plan, status, NOW + 64, off)
    assert (status.weight, status.reason) == (5000, "sample_ratio_mismatch")


def test_a_killed_rollout_stands_still() -> None:
    plan = plan_for([{"setWeight": 5}])
    assert advance(plan, replace(fresh(plan), killed=True), NOTHING, NOW + 60) is None


def test_a_clock_that_is_set_back_moves_nothing_and_holds_nothing_up() -> None:
    plan = plan_for([{"setWeight": 5}, {"pause": {"duration": "1m"}}, {"setWeight": 50}])
    status, _ = settle(plan, fresh(plan), NOW)
    status, _ = settle(plan, status, NOW + 10)
    early = NOW - 3600
    after, said = settle(plan, arrived(status, NOW + 10), early)
    assert said == ["the clock was set back: the step's time begins anew"]
    assert (after.weight_at(early), after.step, after.phase) == (500, 1, "Paused")
    assert settle(plan, after, early + 59)[0].step == 1
    assert settle(plan, after, early + 60)[0].weight == 5000


@pytest.mark.parametrize("back", [53, 60])
def test_a_clock_that_is_set_back_behind_a_rise_promotes_nothing_before_that_is_in_force_again(back: float) -> None:
    plan = plan_for([{"setWeight": 50}, {"pause": {"duration": "10s"}}])
    unready = Evidence(unready="no endpoint is healthy")
    status, _ = settle(plan, fresh(plan), NOW)
    for seconds in (1, 50):
        status, _ = settle(plan, status, NOW + seconds, unready)
    assert status.step == len(plan.steps)
    now = NOW + 50 - back
    status, _ = settle(plan, status, now)
    assert status.is_pending(now)
    assert (status.stable, status.step_at) == ("3", status.effective_at)
    assert settle(plan, status, status.effective_at)[0].stable == "4"


def test_a_step_begins_again_when_an_adopted_stable_is_in_force() -> None:
    plan = plan_for([{"setWeight": 50}])
    status, _ = settle(plan, fresh(plan), NOW)
    other = replace(plan.intent, stable="2")
    drifted = transitions.configure(other, status, NOW + 0.1).status
    adopted = moved(transitions.adopt(other, drifted, NOW + 0.1))
    assert (adopted.stable, adopted.step_at) == ("2", adopted.effective_at)


def test_a_canary_that_moves_midway_starts_over() -> None:
    plan = plan_for(RAMP)
    status, _ = settle(plan, fresh(plan), NOW)
    other = plan_of(parse_rollout(document({**CANARY, "steps": RAMP, "canary": {"version": "5"}})), TEMPLATES.get)
    status = transitions.configure(other.intent, replace(status, step=4, weight=500), NOW + 1).status
    assert (status.canary, status.step, status.weight, status.shadow) == ("5", 0, 0, 0)
    assert settle(other, status, NOW + 1)[0].reason == "pause_step"


@pytest.mark.parametrize("weight", [0, 5])
def test_a_weight_that_is_there_already_is_a_step_done(weight: int) -> None:
    plan = plan_for([{"setWeight": weight}, {"setWeight": weight}, {"pause": {}}])
    status, said = settle(plan, fresh(plan), NOW)
    if weight:
        status, said = settle(plan, status, NOW + 1)
    assert f"the weight is {weight} already" in said
    assert status.epoch == (2 if weight else 1)


def test_a_proxy_that_lacks_the_routes_is_a_condition_for_as_long_whatever_the_rollout_waits_for() -> None:
    behind = Evidence(undelivered="Envoy does not see the folder")
    plan = plan_for([{"setWeight": 5}, {"pause": {}}])
    risen, _ = settle(plan, fresh(plan), NOW)
    paused, _ = settle(plan, risen, NOW + 60)
    told, said = settle(plan, paused, NOW + 60, behind)
    assert said == ["Envoy does not see the folder"]
    assert told.conditions == ({"type": "Undelivered", "status": "True", "message": said[0]},)
    assert replace(told, conditions=()) == paused
    over = replace(told, stable="4", phase="Healthy")
    assert settle(plan, over, NOW + 60)[0].conditions == ()
    assert settle(plan, told, NOW + 60, Evidence(undelivered=None)) == (told, []), "who is silent may lack them yet"
    assert settle(plan, told, NOW + 60) == (paused, ["every Envoy has the routes again"])
