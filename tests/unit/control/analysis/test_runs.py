"""An analysis as it runs: what is due when, and when it is decided. Argo's rules, one by one and as properties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.control.analysis.runs import (
    ERROR_RETRY_SECONDS,
    KEPT_MEASUREMENTS,
    Measured,
    Outcome,
    RunPlan,
    brought_up_to,
    due,
    never_successful,
    outcome,
    overdue,
    record,
    run_plan,
    start,
)
from extproc.resources.analysis_spec import AnalysisSpec
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.loading import parse_rollout, parse_template
from tests.support.rollouts import CANARY, document
from tests.support.templates import ERRORS, metric, template

NOW = 1_800_000_000.0
PASS, FAIL, UNKNOWN, BROKEN = Outcome.SUCCESSFUL, Outcome.FAILED, Outcome.INCONCLUSIVE, Outcome.ERROR


def analysis(*names: str, **args: str) -> AnalysisSpec:
    body = {
        "templates": [{"templateName": name} for name in names or ("health",)],
        "args": [{"name": name, "value": value} for name, value in args.items()],
    }
    found = parse_rollout(document({**CANARY, "analysis": body})).spec.analysis
    assert found is not None
    return found


def plan(*metrics: dict[str, Any], background: bool = False) -> RunPlan:
    made = run_plan(analysis(), lambda name: parse_template(template(*metrics)), background=background)
    assert made.error == ""
    return made


def repeated(**changes: Any) -> dict[str, Any]:
    """A metric that is measured three times, a minute apart."""
    return metric(**{"interval": "1m", "count": 3, **changes})


class Run:
    """A run whose due metrics are measured as told, with a clock of its own."""

    def __init__(self, plan: RunPlan) -> None:
        self.plan = plan
        self.now = NOW
        self.state = start(plan, NOW)

    def due(self, step: int = 0) -> list[str]:
        return [metric.name for metric in due(self.plan, self.state, self.now, step)]

    def take(self, *outcomes: Outcome, name: str = "errors") -> Run:
        """Measurements of one metric, each when the one before allows it."""
        for one in outcomes:
            self.state = record(self.plan, self.state, [Measured(name, self.now, one, None, f"at {one}")], self.now)
            self.now += 60
        return self

    @property
    def outcome(self) -> Outcome | None:
        return outcome(self.plan, self.state)[0]

    @property
    def message(self) -> str:
        return outcome(self.plan, self.state)[1]


# What is due


def test_a_metric_without_an_interval_is_measured_once() -> None:
    run = Run(plan())
    assert run.due() == ["errors"]
    assert run.outcome is None
    run.take(PASS)
    assert run.due() == []
    assert run.outcome is PASS


def test_a_metric_with_an_interval_is_due_when_it_has_passed_until_its_count_is_reached() -> None:
    run = Run(plan(repeated()))
    for _ in range(3):
        assert run.due() == ["errors"]
        run.take(PASS)
        run.now -= 1
        assert run.due() == []
        run.now += 1
    assert run.due() == []
    assert run.outcome is PASS


def test_an_interval_lasts_no_second_longer_because_ticks_come_a_little_early() -> None:
    run = Run(plan(metric(interval="1s", count=100)))
    for tick in range(10):
        run.now = NOW + tick - 0.003 * (tick % 3)
        assert run.due() == ["errors"]
        run.take(PASS)


def test_without_a_count_it_goes_on_until_it_is_stopped() -> None:
    run = Run(plan(metric(interval="1m"), background=True)).take(*[PASS] * 50)
    assert run.due() == ["errors"]
    assert run.outcome is None


def test_a_delay_puts_the_first_measurement_off() -> None:
    run = Run(plan(metric(initialDelay="30s")))
    assert run.due() == []
    run.now += 30
    assert run.due() == ["errors"]


def test_a_metric_waits_for_its_step() -> None:
    run = Run(plan(metric(startingStep=2), background=True))
    assert run.due(step=1) == []
    assert run.due(step=2) == ["errors"]


def test_what_may_decide_and_was_never_successful_is_known() -> None:
    metrics = (metric(failureLimit=1), metric(name="later", startingStep=2), metric(name="dry", dryRun=True))
    of = plan(*({**one, "interval": "1m", "inconclusiveLimit": 1} for one in metrics), background=True)
    run = start(of, 0.0)
    assert [one.name for one in never_successful(of, run, 1)] == ["errors"]
    assert [one.name for one in never_successful(of, run, 2)] == ["errors", "later"]
    for seen, known in ((BROKEN, False), (UNKNOWN, False), (FAIL, False), (PASS, True)):
        after = record(of, run, [Measured("errors", 1.0, seen)], 1.0)
        assert (never_successful(of, after, 1) == []) is known


def test_what_waited_for_its_step_or_for_its_template_is_overdue_a_while_after_that_and_not_at_once() -> None:
    errors = metric(interval="1m")
    of = plan(errors, metric(name="later", interval="1m", startingStep=2), background=True)
    run = start(of, NOW)
    assert [one.name for one in overdue(of, run, NOW + 91, 2)] == ["errors"]
    run = brought_up_to(of, run, NOW + 600, 2)
    assert [one.name for one in overdue(of, run, NOW + 690, 2)] == ["errors"]
    assert [one.name for one in overdue(of, run, NOW + 691, 2)] == ["errors", "later"]

    of = plan(errors, metric(name="new", interval="1m"), background=True)
    run = brought_up_to(of, run, NOW + 900, 2)
    assert [one.name for one in overdue(of, run, NOW + 990, 2)] == ["errors"]
    assert [one.name for one in overdue(of, run, NOW + 991, 2)] == ["errors", "new"]
    assert brought_up_to(of, run, NOW + 991, 2) is run


@pytest.mark.parametrize(
    "changes",
    [
        {"failureCondition": "result.lower > 0.01"},
        {"successCondition": "result.canary.rate < 0.01"},
        {"provider": {"observed": {"metric": "abandoned"}}},
    ],
)
def test_what_was_measured_of_another_metric_of_that_name_counts_no_more(changes: dict[str, Any]) -> None:
    run = Run(plan(repeated())).take(PASS, PASS)
    run.plan = plan(repeated(**changes))
    run.state = brought_up_to(run.plan, run.state, run.now, 0)
    assert (run.due(), run.take(PASS, PASS).outcome) == (["errors"], None)
    assert run.take(PASS).outcome is PASS


def test_other_arguments_make_another_metric_and_other_limits_do_not() -> None:
    def of(count: int, most: str) -> RunPlan:
        errors = repeated(failureCondition="result.canary.rate > double(args.most)", count=count)
        return run_plan(analysis(most=most), lambda _: parse_template(template(errors, args=[{"name": "most"}])))

    run = Run(of(3, "0.2")).take(PASS, PASS)
    assert brought_up_to(of(2, "0.2"), run.state, NOW, 0) is run.state
    assert brought_up_to(of(3, "0.1"), run.state, NOW, 0)["metrics"]["errors"]["counts"][PASS] == 0


def test_what_an_older_dropout_measured_counts_on() -> None:
    run = Run(plan(repeated())).take(PASS, PASS)
    old = {name: value for name, value in run.state["metrics"]["errors"].items() if name != "of"}
    run.state = {**run.state, "metrics": {"errors": old}}
    assert brought_up_to(run.plan, run.state, run.now, 0) is run.state
    assert run.take(PASS).outcome is PASS


def test_what_ends_and_never_was_successful_is_not_told_only_when_the_endless_end() -> None:
    once = metric(name="once", inconclusiveLimit=1)
    run = Run(plan(metric(interval="1m"), once, repeated(name="twice", count=2), background=True))
    run.take(PASS).take(UNKNOWN, name="once").take(PASS, name="twice")
    assert run.outcome is None
    assert run.take(PASS, name="twice").outcome is UNKNOWN


def test_in_a_step_there_is_no_later_step_to_wait_for() -> None:
    run = Run(plan(metric(startingStep=2)))
    assert run.due(step=1) == ["errors"]


def test_an_error_is_tried_again_soon_and_does_not_count() -> None:
    run = Run(plan(repeated(count=1)))
    run.take(BROKEN)
    run.now += ERROR_RETRY_SECONDS - 60 - 1
    assert run.due() == []
    run.now += 1
    assert run.due() == ["errors"]
    assert run.take(PASS).outcome is PASS


def test_a_clock_that_is_set_back_far_does_not_stop_the_measuring() -> None:
    run = Run(plan(repeated())).take(PASS)
    run.now -= 70
    assert run.due() == []
    run.now -= 3600
    assert run.due() == ["errors"]
    run.take(PASS)
    run.now -= 1
    assert run.due() == []


def test_a_clock_that_is_set_back_shortens_no_delay() -> None:
    run = Run(plan(metric(initialDelay="10m")))
    run.now -= 3600
    assert run.due() == []


# When it is decided: (metric, what it was measured to be, what that comes to)


@pytest.mark.parametrize(
    ("changes", "measured", "expected"),
    [
        ({}, [PASS, PASS, PASS], PASS),
        ({}, [PASS, PASS], None),
        ({}, [FAIL], FAIL),
        ({"failureLimit": 1}, [FAIL], None),
        ({"failureLimit": 1}, [FAIL, PASS, PASS], PASS),
        ({"failureLimit": 1}, [FAIL, PASS, FAIL], FAIL),
        ({}, [UNKNOWN], UNKNOWN),
        ({"inconclusiveLimit": 2}, [UNKNOWN, UNKNOWN, PASS], PASS),
        ({"inconclusiveLimit": 1}, [UNKNOWN, PASS, UNKNOWN], UNKNOWN),
        ({"inconclusiveLimit": 3}, [UNKNOWN, UNKNOWN, UNKNOWN], UNKNOWN),
        ({"failureLimit": 3}, [FAIL, FAIL, FAIL], UNKNOWN),
        ({}, [BROKEN] * 4, None),
        ({}, [BROKEN] * 5, BROKEN),
        ({}, [*[BROKEN] * 4, PASS, *[BROKEN] * 4, PASS, PASS], PASS),
        ({"consecutiveErrorLimit": 0}, [BROKEN], BROKEN),
    ],
)
def test_a_limit_is_exceeded_by_one_more(
    changes: dict[str, Any], measured: Sequence[Outcome], expected: Outcome | None
) -> None:
    assert Run(plan(repeated(**changes))).take(*measured).outcome is expected


def test_a_decision_says_by_which_metric_and_measurement() -> None:
    assert Run(plan()).take(FAIL).message == "metric errors was Failed: at Failed"
    run = Run(plan(repeated(failureLimit=1))).take(FAIL, FAIL)
    assert run.message == "metric errors was Failed 2 times: at Failed"
    assert Run(plan(repeated())).take(PASS, PASS, PASS).message == "metric errors was Successful 3 times: at Successful"
    never = Run(plan(repeated(failureLimit=3))).take(FAIL, FAIL, FAIL)
    assert never.message == "metric errors was never Successful; measured last: at Failed"


def test_a_dry_run_is_measured_and_never_decides() -> None:
    run = Run(plan(metric(name="dry", dryRun=True), metric(name="real")))
    run.take(FAIL, name="dry")
    assert run.outcome is None
    assert run.take(PASS, name="real").outcome is PASS
    only = Run(plan(metric(dryRun=True))).take(PASS)
    assert (only.outcome, only.message) == (UNKNOWN, "there are only metrics that never decide (dryRun)")


def test_a_run_ends_with_its_last_metric_but_fails_with_its_first() -> None:
    both = plan(metric(name="one"), metric(name="other"))
    assert Run(both).take(PASS, name="one").outcome is None
    assert Run(both).take(FAIL, name="one").outcome is FAIL
    assert Run(both).take(PASS, name="one").take(PASS, name="other").outcome is PASS


def test_what_fails_weighs_more_than_what_cannot_be_told() -> None:
    three = plan(*(metric(name=name, consecutiveErrorLimit=0) for name in ("a", "b", "c")))
    state = start(three, NOW)
    measured = [Measured("a", NOW, UNKNOWN), Measured("b", NOW, BROKEN), Measured("c", NOW, FAIL)]
    assert outcome(three, record(three, state, measured[:1], NOW))[0] is UNKNOWN
    assert outcome(three, record(three, state, measured[:2], NOW))[0] is BROKEN
    assert outcome(three, record(three, state, measured, NOW))[0] is FAIL


def test_the_last_measurements_are_kept_and_all_are_counted() -> None:
    run = Run(plan(metric(interval="1m"), background=True)).take(*[PASS] * 25)
    state = run.state["metrics"]["errors"]
    assert len(state["measurements"]) == KEPT_MEASUREMENTS
    assert state["counts"]["Successful"] == 25
    assert state["measurements"][-1] == {
        "at": run.now - 60,
        "outcome": "Successful",
        "value": None,
        "message": "at Successful",
    }


# What cannot be run


def test_a_template_that_is_missing_is_an_error_not_a_verdict() -> None:
    broken = run_plan(analysis("health", "gone"), lambda name: parse_template(template()) if name == "health" else None)
    assert outcome(broken, start(broken, NOW)) == (BROKEN, "there is no AnalysisTemplate gone")
    assert due(broken, start(broken, NOW), NOW, 0) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (template(metric(interval="1s")), "in a step it would never end"),
        (template(args=[{"name": "most"}]), "the argument 'most' of the template payments/health needs a value"),
    ],
)
def test_a_template_that_does_not_fit_is_an_error(body: dict[str, Any], message: str) -> None:
    broken = run_plan(analysis(), lambda name: parse_template(body))
    assert outcome(broken, start(broken, NOW))[0] is BROKEN
    assert message in broken.error


def test_a_template_that_is_no_longer_valid_is_an_error() -> None:
    def read(name: str) -> AnalysisTemplate:
        return parse_template(template(metric(failureCondition="1 +")))

    assert "is not CEL" in run_plan(analysis(), read).error


def test_an_argument_that_no_template_has_is_of_no_consequence() -> None:
    assert run_plan(analysis(most="1"), lambda name: parse_template(template())).error == ""


def test_arguments_come_from_the_rollout_and_else_from_the_template() -> None:
    asked = template(args=[{"name": "a", "value": "1"}, {"name": "b", "value": "2"}])
    (only,) = run_plan(analysis(a="9"), lambda name: parse_template(asked)).metrics
    assert only.args == {"a": "9", "b": "2"}


def test_in_the_background_a_metric_may_go_on_for_ever() -> None:
    endless = run_plan(analysis(), lambda name: parse_template(template(metric(interval="1s"))), background=True)
    assert (endless.error, endless.metrics[0].count) == ("", None)


def test_a_metric_that_its_template_has_only_since_the_run_began_is_measured_too() -> None:
    run = Run(plan()).take(PASS)
    run.plan = plan(ERRORS, metric(name="new"))
    assert run.outcome is None
    assert run.due() == ["new"]
    run.take(PASS, name="new")
    assert run.outcome is PASS
    assert set(run.state["metrics"]) == {"errors", "new"}


def test_what_nobody_asked_for_is_not_recorded() -> None:
    run = Run(plan()).take(FAIL, name="other")
    assert run.outcome is None
    assert set(run.state["metrics"]) == {"errors"}


# Properties


LIMITS = st.fixed_dictionaries(
    {
        "count": st.integers(1, 6),
        "failureLimit": st.integers(0, 6),
        "inconclusiveLimit": st.integers(0, 6),
        "consecutiveErrorLimit": st.integers(0, 4),
        "dryRun": st.booleans(),
    }
).map(lambda made: {**made, **{name: min(made[name], made["count"]) for name in ("failureLimit", "inconclusiveLimit")}})
PLANS = st.lists(LIMITS, min_size=1, max_size=3).map(
    lambda limits: plan(*(repeated(name=f"m{number}", **made) for number, made in enumerate(limits)))
)
TAKEN = st.lists(st.tuples(st.sampled_from(["m0", "m1", "m2"]), st.sampled_from(list(Outcome))), max_size=40)


def states(of: RunPlan, taken: Sequence[tuple[str, Outcome]]) -> list[dict[str, Any]]:
    """The run's state after each measurement."""
    found = [start(of, NOW)]
    for number, (name, one) in enumerate(taken):
        now = NOW + 60 * number
        found.append(record(of, found[-1], [Measured(name, now, one)], now))
    return found


@given(PLANS, TAKEN)
def test_no_run_is_successful_while_a_limit_is_exceeded_or_a_metric_never_was(
    of: RunPlan, taken: Sequence[tuple[str, Outcome]]
) -> None:
    for state in states(of, taken):
        if outcome(of, state)[0] is not PASS:
            continue
        deciding = [one for one in of.metrics if not one.dry_run]
        assert deciding
        for one in deciding:
            counts = state["metrics"][one.name]["counts"]
            assert counts["Failed"] <= one.failure_limit
            assert counts["Inconclusive"] <= one.inconclusive_limit
            assert state["metrics"][one.name]["consecutiveErrors"] <= one.consecutive_error_limit
            assert counts["Successful"] >= 1


@given(PLANS, TAKEN)
def test_what_is_decided_stays_decided(of: RunPlan, taken: Sequence[tuple[str, Outcome]]) -> None:
    found = [outcome(of, state) for state in states(of, taken)]
    decided = [one for one in found if one[0] is not None]
    assert found[len(found) - len(decided) :] == decided
    assert len(set(decided)) <= 1


@given(PLANS, TAKEN)
def test_nothing_is_due_of_what_has_ended(of: RunPlan, taken: Sequence[tuple[str, Outcome]]) -> None:
    for state in states(of, taken):
        names = {one.name for one in due(of, state, NOW + 1e9, 9)}
        assert (outcome(of, state)[0] is None) == bool(names)


@given(PLANS, TAKEN)
def test_a_run_survives_json(of: RunPlan, taken: Sequence[tuple[str, Outcome]]) -> None:
    for state in states(of, taken):
        assert orjson.loads(orjson.dumps(state)) == state


@given(PLANS, st.lists(st.sampled_from(list(Outcome)), min_size=3, max_size=3), st.permutations(range(3)))
def test_the_order_in_which_metrics_were_measured_is_of_no_consequence(
    of: RunPlan, outcomes: Sequence[Outcome], order: Sequence[int]
) -> None:
    measured = [Measured(f"m{number}", NOW, one) for number, one in enumerate(outcomes)]
    state = start(of, NOW)
    assert record(of, state, measured, NOW) == record(of, state, [measured[place] for place in order], NOW)


@given(PLANS, TAKEN, st.sampled_from(list(Outcome)))
def test_recording_changes_nothing_that_was_given(
    of: RunPlan, taken: Sequence[tuple[str, Outcome]], last: Outcome
) -> None:
    state = states(of, taken)[-1]
    before = orjson.dumps(state)
    record(of, state, [Measured("m0", NOW, last)], NOW)
    assert orjson.dumps(state) == before
