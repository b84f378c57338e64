"""Whatever is specified, observed, done by hand or told by the clock: what a rollout never does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from extproc.control import transitions
from extproc.control.analysis.runs import Measured, Outcome, outcome
from extproc.control.intent import Transition
from extproc.control.rollout import BACKGROUND, STEP, Evidence, RolloutPlan, advance, due, may_stall, plan_of
from extproc.control.status_changes import OVERDUE, is_overdue, is_under_way, stands_still, step_begun
from extproc.control.step_time import StepTime
from extproc.control.transitions import ACCEPTED_EPOCH
from extproc.control.undo import trip_of_stable, undo
from extproc.errors import Refused
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.loading import parse_rollout
from extproc.resources.steps import AnalysisStep, SetWeightStep
from extproc.store.ports import RAISE_DELAY_SECONDS
from extproc.store.records import Tombstone
from extproc.store.status import CLOCK_SET_BACK_SECONDS, Status
from tests.support.rollouts import CANARY, document
from tests.support.templates import metric, template

TEMPLATES = {
    "health": AnalysisTemplate.model_validate(template(metric(interval="10s", count=3, inconclusiveLimit=1))),
    "live": AnalysisTemplate.model_validate(template(metric(name="live", interval="10s", failureLimit=1), name="live")),
}
DOUBTS = frozenset({Outcome.INCONCLUSIVE, Outcome.ERROR})
DECIDED_BY_A_RUN = frozenset(
    {"analysis_failed", "analysis_inconclusive", "analysis_error", "background_inconclusive", "background_error"}
)
PAUSES_FOR_DOUBT = frozenset({"background_inconclusive", "background_error", "sample_ratio_mismatch"})

ENDS_A_DOUBT = frozenset({"promote", "promote fully", "undo", "abort", "retry", "trip", "move", "set"})

ANALYSIS: dict[str, Any] = {"analysis": {"templates": [{"templateName": "health"}]}}
rise = st.sampled_from([1, 5, 25.5, 50, 100]).map(lambda weight: {"setWeight": weight})
any_step = st.one_of(
    st.just(ANALYSIS),
    rise,
    st.sampled_from(["1s", "30s", "10m"]).map(lambda duration: {"pause": {"duration": duration}}),
    st.just({"pause": {}}),
    st.sampled_from([0, 50, 100]).map(lambda percent: {"shadow": {"percent": percent}}),
    st.just({"setWeight": 0}),
)
# Half of the ramps are what people write: a rise, a look at it, and so on. The other half is whatever there may be.
steps = st.lists(any_step, min_size=1, max_size=6) | st.lists(rise, min_size=1, max_size=3).map(
    lambda rises: [step for one in rises for step in (one, ANALYSIS)]
)
deadlines: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{}, {"progressDeadline": "25s"}, {"progressDeadline": "25s", "progressDeadlineAbort": True}]
)
outcomes_seen = st.just([Outcome.SUCCESSFUL] * 3) | st.lists(st.sampled_from(list(Outcome)), min_size=1, max_size=3)


def plan_for(ramp: list[dict[str, Any]], canary: str, deadline: dict[str, Any], *, background: bool) -> RolloutPlan:
    spec: dict[str, Any] = {**CANARY, "canary": {"version": canary}, "steps": ramp, **(deadline if ramp else {})}
    if background:
        spec["analysis"] = {"templates": [{"templateName": "live"}]}
    return plan_of(parse_rollout(document(spec)), TEMPLATES.get)


class Rollout(RuleBasedStateMachine):
    """One rollout, a clock that may jump, a controller that may be late, people who do what they like."""

    @initialize(ramp=steps, background=st.booleans(), deadline=deadlines)
    def create(self, ramp: list[dict[str, Any]], background: bool, deadline: dict[str, Any]) -> None:
        self.now, self.monotonic = 1_000_000.0, 0.0
        self.moved_at = 0.0
        self.step_time = StepTime(lambda: self.monotonic)
        self.ramp, self.background, self.deadline = ramp, background, deadline
        self.plan = self.plan_of("4")
        self.status = transitions.create(self.plan.intent, Tombstone(), self.now).status
        self.evidence = Evidence()
        self.by_hand = {0}

    def plan_of(self, canary: str) -> RolloutPlan:
        return plan_for(self.ramp, canary, self.deadline, background=self.background)

    @property
    def weights_of_the_steps(self) -> set[int]:
        return {0, *(step.set_weight for step in self.plan.steps if isinstance(step, SetWeightStep))}

    # -- the world

    @rule(seconds=st.sampled_from([0.05, 0.3, 1, 9, 31, 700]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.monotonic += seconds

    @rule(seconds=st.sampled_from([1, 60, 3600]))
    def set_the_clock_back(self, seconds: float) -> None:
        self.now -= seconds

    @rule(unready=st.sampled_from(["", "no endpoint is healthy"]), ratio=st.sampled_from(["", "", "", "off"]))
    def observe(self, unready: str, ratio: str) -> None:
        self.evidence = Evidence(unready=unready, sample_ratio=ratio)

    # -- the controller

    @rule(outcomes=outcomes_seen, times=st.integers(1, 8))
    def go_on(self, outcomes: list[Outcome], times: int) -> None:
        """So often measurements are due, and the controller is there."""
        for _ in range(times):
            self.wait(10)
            self.tick(outcomes)

    @rule(outcomes=outcomes_seen)
    def tick(self, outcomes: list[Outcome]) -> None:
        wanted = due(self.plan, self.status, self.now)
        measured = {
            kind: [
                Measured(metric.name, self.now, came_to, None, "seen")
                for metric, came_to in zip(metrics, outcomes, strict=False)
            ]
            for kind, metrics in wanted.items()
        }
        self.step_time.begin()
        self.step_time.in_step("it", self.status, self.now)
        stalled = self.step_time.stalled("it", may_stall(self.plan, self.status, self.now))
        evidence = replace(self.evidence, measured=measured, stalled=stalled)
        for _ in range(30):
            transition = advance(self.plan, self.status, evidence, self.now)
            if transition is None:
                self.check_at_rest(evidence)
                return
            self.check(transition, evidence)
            self.status = transition.status
            evidence = replace(evidence, measured={}, stalled=0.0)
        raise AssertionError("it never comes to rest")

    def check(self, transition: Transition, evidence: Evidence) -> None:
        before, after = self.status, transition.status
        seen = {measured.outcome for several in evidence.measured.values() for measured in several}
        event(f"{after.phase}, {after.reason}")
        if before.is_out_of_time(self.now) and after.aborted == before.aborted:
            planned = replace(before, effective_at=after.effective_at, step_at=after.step_at)
            assert after == planned, "what was to come is planned anew, and nothing else moves"
            assert 0 < after.effective_at - self.now <= RAISE_DELAY_SECONDS + 1e-6
            return
        if not is_under_way(before):
            assert after == replace(before, conditions=after.conditions), "of what is over only what was said is over"
            return
        routed = ("stable", "canary", "weight", "step", "phase", "shadow", "aborted", "tripped", "epoch")
        if any(getattr(before, name) != getattr(after, name) for name in routed):
            assert transition.message, "what moved is in the history"
        if after.weight != before.weight and after.phase in ("Progressing", "Paused"):
            step = self.plan.steps[before.step]
            assert isinstance(step, SetWeightStep)
            assert (step.set_weight, after.step) == (after.weight, before.step + 1), "weights are what the steps say"
        if after.aborted != before.aborted:
            assert (after.weight, after.weight_at(self.now), after.phase) == (0, 0, "Degraded")
            late = after.reason == OVERDUE and self.plan.deadline is not None and self.plan.deadline.aborts
            assert before.tripped or Outcome.FAILED in seen or _failed_before(before) or late
        if after.reason == OVERDUE and not is_overdue(before):
            assert not before.killed
            assert before.phase == "Progressing", "what waits for a person is not overdue"
            assert self.plan.deadline is not None
            assert self.monotonic - self.moved_at >= self.plan.deadline.seconds, "nothing moved for so long"
        if _moved(before, after):
            self.moved_at = self.monotonic
        if after.reason in DECIDED_BY_A_RUN and after.reason != before.reason:
            of_run = transition.detail["measurements"]["metrics"].values()
            assert any(metric["measurements"] for metric in of_run), "it is in the history from what measurement"
        if after.stable != before.stable:
            assert (after.stable, before.step, after.phase) == (before.canary, len(self.plan.steps), "Healthy")
            assert before.weight_at(self.now) == before.weight, "no promotion before a rise is in force"
        if before.step_at - self.now > CLOCK_SET_BACK_SECONDS and not before.tripped:
            assert replace(after, step_at=0, analysis={}) == replace(step_begun(before, 0), step_at=0, analysis={})
        if after.weight > before.weight or after.stable != before.stable:
            assert not evidence.unready, "nothing is given to what cannot serve"
        if after.step > before.step or after.stable != before.stable:
            background = self.plan.run(BACKGROUND, before.step)
            if background is not None and BACKGROUND in after.analysis:
                came_to = outcome(background, after.analysis[BACKGROUND])[0]
                assert came_to not in DOUBTS, "nothing goes forward in doubt"
            assert not stands_still(before)
            assert not before.killed
        if after.step > before.step and isinstance(self.plan.steps[before.step], AnalysisStep):
            run = self.plan.run(STEP, before.step)
            assert run is not None
            assert outcome(run, transition.detail["measurements"])[0] is Outcome.SUCCESSFUL

    def check_at_rest(self, evidence: Evidence) -> None:
        status = self.status
        assert not status.is_out_of_time(self.now), "nothing waits for an old time to come again"
        if not is_under_way(status) or status.killed:
            return
        assert status.canary not in status.tripped
        assert status.step_at - self.now <= CLOCK_SET_BACK_SECONDS, "nothing waits for an old time to come again"
        if self.now < status.step_at:
            return
        if self.plan.deadline is None or (evidence.stalled >= self.plan.deadline.seconds and not stands_still(status)):
            assert is_overdue(status) == (self.plan.deadline is not None)
        runs = {kind: self.plan.run(kind, status.step) for kind in (STEP, BACKGROUND) if kind in status.analysis}
        decided = {outcome(run, status.analysis[kind])[0] for kind, run in runs.items() if run is not None}
        assert Outcome.FAILED not in decided
        assert stands_still(status) or not decided & DOUBTS
        if evidence.sample_ratio and status.analysis.get(ACCEPTED_EPOCH) != status.epoch:
            assert stands_still(status)

    # -- people

    @rule(
        action=st.sampled_from(
            [
                *("promote", "pause", "resume", "abort", "retry", "trip", "kill", "restore", "move", "set"),
                *("other steps", "other stable", "promote fully", "undo"),
            ]
        )
    )
    def act(self, action: str) -> None:
        before = self.status
        try:
            transition = self.transition(action)
        except Refused:
            return
        if transition is not None:
            assert transition.message
            self.status = transition.status
            self.moved_at = self.monotonic if _moved(before, self.status) else self.moved_at
        if before.phase == "Paused" and before.reason in PAUSES_FOR_DOUBT and action not in ENDS_A_DOUBT:
            assert (self.status.phase, self.status.reason) == (before.phase, before.reason), "nothing else ends a doubt"

    @rule(of_the_promoted=st.booleans())
    def trip_the_stable(self, of_the_promoted: bool) -> None:
        """It is never refused: a trip that undoes nothing is a condition."""
        before, attempt = self.status, self.status.attempt
        attempt = before.previous.get("attempt", attempt) if of_the_promoted else attempt
        transition = trip_of_stable(self.plan.intent, before, attempt, "it fails", self.now, self.now)
        if transition is not None:
            self.status = transition.status
            self.moved_at = self.monotonic if _moved(before, self.status) else self.moved_at

    @rule()
    def resume(self) -> None:
        """Whoever sees a pause tries this first."""
        self.act("resume")

    def transition(self, action: str) -> Transition | None:
        intent, status, now = self.plan.intent, self.status, self.now
        match action:
            case "promote":
                return transitions.promote(intent, status, now)
            case "pause":
                return transitions.pause(intent, status)
            case "resume":
                return transitions.resume(intent, status, now)
            case "abort":
                return transitions.abort(intent, status, now)
            case "retry":
                return transitions.retry(intent, status, now)
            case "trip":
                return transitions.trip(intent, status, status.canary or "", status.attempt, "it fails", now)
            case "kill":
                return transitions.kill(status, now)
            case "restore":
                return transitions.restore(status, now)
            case "set":
                self.by_hand.add(3300)
                return transitions.set_weight(intent, status, 3300, now)
            case "other steps":
                self.by_hand |= self.weights_of_the_steps
                self.ramp = [*self.ramp[1:], {"setWeight": 1}]
                self.plan = self.plan_of(status.canary or "4")
                return transitions.configure(self.plan.intent, status, now)
            case "promote fully":
                return transitions.promote_fully(intent, status, len(self.plan.steps), now)
            case "undo":
                return undo(intent, status, now)
            case "other stable":
                other = replace(intent, stable="2" if status.stable != "2" else "3")
                return transitions.adopt(other, transitions.configure(other, status, now).status, now)
        versions = {"4": "5", "5": "6", "6": "4"}
        self.plan = self.plan_of(versions[status.canary or "4"])
        return transitions.configure(self.plan.intent, status, now)

    # -- always

    @invariant()
    def only_known_weights(self) -> None:
        assert self.status.weight in self.weights_of_the_steps | self.by_hand

    @invariant()
    def a_step_begins_once_what_was_given_before_it_is_in_force(self) -> None:
        if is_under_way(self.status) and not stands_still(self.status) and self.status.is_pending(self.now):
            assert self.status.step_at >= self.status.effective_at

    @invariant()
    def what_is_taken_away_has_no_weight(self) -> None:
        if self.status.canary in self.status.aborted:
            assert self.status.weight == 0

    @invariant()
    def a_canary_is_stable_or_taken_away_or_under_way(self) -> None:
        over = self.status.canary in (self.status.stable, *self.status.taken_away)
        assert over or is_under_way(self.status)

    @invariant()
    def a_status_is_written_and_read_as_it_is(self) -> None:
        assert Status.from_dict(self.status.as_dict()) == self.status


def _failed_before(status: Status) -> bool:
    """Whether a run under way had failed by what it holds already."""
    return any("Failed" in str(status.analysis.get(kind, "")) for kind in (STEP, BACKGROUND))


def _moved(before: Status, after: Status) -> bool:
    return (before.step, before.weight, before.shadow) != (after.step, after.weight, after.shadow)


class TestRollout(Rollout.TestCase):
    settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestRolloutAtLength(Rollout.TestCase):
    settings = settings(max_examples=600, stateful_step_count=40, deadline=None)
