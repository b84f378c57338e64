"""Measuring and evaluating: what conditions see, when a measurement says nothing, and what it comes to."""

from __future__ import annotations

import random
from collections.abc import Mapping
from math import inf
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.control.analysis.ends import is_left_more
from extproc.control.analysis.measuring import (
    FeedbackMetrics,
    ObservedMetrics,
    described,
    evaluate,
)
from extproc.control.analysis.ports import EmbeddedProvider, Reading, Subject
from extproc.control.analysis.runs import Metric, Outcome
from extproc.control.analysis.windows import MOST_WINDOWS, SNAPSHOTS, Windows
from extproc.errors import Unreachable
from extproc.measure import UNIT_GROUPS, ArmTotals, EpochTotals, LabelTotals
from extproc.resources.providers import feedback as feedback_provider
from extproc.resources.providers import observed as observed_provider
from tests.support.templates import metric, metric_of, template

EMBEDDED = {"observed": observed_provider.PROVIDER.results, "feedback": feedback_provider.PROVIDER.results}
NOW = 1_800_000_000.0
PATIENCE_MS = 300.0
SUBJECT = Subject("payments/fraud-detector", 3, NOW, "canary", "control")


def one(provider: dict[str, Any], **changes: Any) -> Metric:
    """A metric of this provider, whose arguments have values."""
    changes = {"failureCondition": "result.ratio > 1000.0", **changes}
    return metric_of(template(metric(provider=provider, **changes), args=[{"name": "most", "value": "0.06"}]))


def observed(metric: str = "error_rate", **fields: Any) -> dict[str, Any]:
    return {"observed": {"metric": metric, **fields}}


def feedback(metric: str = "false_positive_rate", **fields: Any) -> dict[str, Any]:
    return {"feedback": {"metric": metric, **fields}}


def arm(
    requests: int,
    failures: int,
    *,
    latency: float = 10.0,
    decided: int | None = None,
    fallbacks: int = 0,
    missing: int = 0,
    abandoned: int = 0,
    surplus: int = 0,
) -> ArmTotals:
    """Requests and failures, and what was abandoned, spread evenly over all groups of units."""
    everything = requests + missing + abandoned
    decided = everything if decided is None else decided
    totals = ArmTotals(decided, fallbacks=fallbacks, missing=missing, surplus=surplus)
    totals.latency.add(15_000.0, missing)
    for number in range(abandoned):
        totals.abandon(number % UNIT_GROUPS)
        totals.latency.add(PATIENCE_MS)
    for number in range(requests):
        totals.requests += 1
        totals.failures += number < failures
        totals.latency.add(latency)
        counts = totals.groups.setdefault(number % UNIT_GROUPS, [0, 0])
        counts[0] += 1
        counts[1] += number < failures
    return totals


class Observations:
    """Totals as an observer would report them."""

    def __init__(self, canary: ArmTotals | None = None, control: ArmTotals | None = None, *, age: float = 0.0) -> None:
        self.epoch = EpochTotals(SUBJECT.rollout, SUBJECT.epoch, NOW - age)
        self.epoch.arms = {"canary": canary or arm(1000, 50), "control": control or arm(1000, 50)}
        self.away = False

    def totals(self, rollout: str, epoch: int) -> EpochTotals | None:
        if self.away:
            raise Unreachable.of("store_unreachable", "the observations are away")
        return self.epoch if (rollout, epoch) == (SUBJECT.rollout, SUBJECT.epoch) else None


class Labels:
    """Labels as feedback would have counted them."""

    def __init__(self, **arms: LabelTotals) -> None:
        self.arms = arms
        self.away = False

    def labels(self, rollout: str, epoch: int) -> Mapping[str, LabelTotals]:
        if self.away:
            raise Unreachable.of("store_unreachable", "the labels are away")
        return self.arms


def confusion(true_positives: int, false_positives: int, true_negatives: int, false_negatives: int) -> LabelTotals:
    """So many of each, dealt out to the groups of units."""
    totals = LabelTotals()
    for place, count in enumerate((true_positives, false_positives, true_negatives, false_negatives)):
        for number in range(count):
            totals.confusion.setdefault(number % UNIT_GROUPS, [0, 0, 0, 0])[place] += 1
    return totals


def measured(asked: Metric, *arms: ArmTotals, age: float = 0.0) -> Reading:
    return ObservedMetrics(Observations(*arms, age=age)).measure(asked, SUBJECT)


# What conditions see


def test_error_rates_come_with_bounds_of_their_difference() -> None:
    reading = measured(one(observed()), arm(2000, 200), arm(2000, 100))
    result = reading.result
    assert result is not None
    assert result["canary"] == {"requests": 2000, "failures": 200, "rate": 0.1, "abandoned": 0}
    assert result["control"] == {"requests": 2000, "failures": 100, "rate": 0.05, "abandoned": 0}
    assert (result["difference"], result["ratio"]) == (0.05, 2.0)
    assert 0 < result["lower"] < 0.05 < result["upper"] < 0.1


def test_decisions_whose_outcome_is_missing_count_as_failures() -> None:
    result = measured(one(observed()), arm(1820, 0, missing=180), arm(2000, 0)).result
    assert result is not None
    assert result["canary"] == {"requests": 2000, "failures": 180, "rate": 0.09, "abandoned": 0}
    assert result["difference"] == 0.09
    assert 0 < result["lower"] < 0.09 < result["upper"] < 0.18


def test_a_canary_that_is_not_heard_at_all_fails() -> None:
    reading = measured(
        one(observed(), failureCondition="result.canary.rate > 0.5"), arm(0, 0, missing=200), arm(200, 0)
    )
    assert reading.result is not None
    assert reading.result["canary"] == {"requests": 200, "failures": 200, "rate": 1.0, "abandoned": 0}


def test_latencies_are_not_too_low_for_those_that_were_not_waited_for() -> None:
    for change in ({"missing": 20}, {"abandoned": 20}):
        reading = measured(one(observed("latency", quantile=0.95)), arm(180, 0, **change), arm(1000, 0))
        assert reading.result is not None
        assert reading.result["canary"]["requests"] == 200
        assert reading.result["canary"]["value"] > 0.9 * PATIENCE_MS


# Clients that do not wait


def test_what_clients_abandon_is_a_metric_of_its_own() -> None:
    result = measured(one(observed("abandoned")), arm(1840, 9, abandoned=160), arm(1980, 0, abandoned=20)).result
    assert result is not None
    assert result["canary"] == {"requests": 2000, "abandoned": 160, "rate": 0.08}
    assert result["control"] == {"requests": 2000, "abandoned": 20, "rate": 0.01}
    assert result["difference"] == pytest.approx(0.07)
    assert 0 < result["lower"] < result["difference"] < result["upper"]


@pytest.mark.parametrize("abandoned", [0, 50, 500])
def test_what_both_arms_clients_abandon_alike_is_nobodys_error(abandoned: int) -> None:
    asked, both = one(observed()), {"abandoned": abandoned}
    reading = measured(asked, arm(1000, 20, **both), arm(1000, 20, **both))
    assert reading.result is not None
    assert reading.result["canary"] == {"requests": 1000, "failures": 20, "rate": 0.02, "abandoned": abandoned}


def test_what_the_canarys_clients_abandon_beyond_the_controls_share_are_errors() -> None:
    reading = measured(one(observed()), arm(1840, 0, abandoned=160), arm(1980, 0, abandoned=20))
    result = reading.result
    assert result is not None
    assert result["canary"] == {"requests": 2000, "failures": 160, "rate": 0.08, "abandoned": 160}
    assert result["control"] == {"requests": 2000, "failures": 20, "rate": 0.01, "abandoned": 20}
    assert 0 < result["lower"] < result["difference"] < result["upper"]


def test_a_control_that_more_clients_leave_is_no_ones_gain() -> None:
    result = measured(one(observed()), arm(1000, 20), arm(800, 16, abandoned=200)).result
    assert result is not None
    assert result["difference"] == 0.0


def test_a_canary_that_all_clients_leave_fails_every_metric() -> None:
    conditions = {
        "error_rate": "result.canary.rate > 0.5",
        "abandoned": "result.lower > 0.5",
        "latency": "result.ratio > 10.0",
    }
    for name, condition in conditions.items():
        asked = one(observed(name), failureCondition=condition)
        found = evaluate(asked, measured(asked, arm(0, 0, abandoned=200), arm(200, 0)), NOW)
        assert found.outcome is Outcome.FAILED, found


@pytest.mark.parametrize("requests", [100, 300, 1000, 5000])
def test_with_eight_percent_hanging_errors_and_latencies_do_not_pass(requests: int) -> None:
    hanging = requests * 8 // 100
    canary, control = arm(requests - hanging, 0, abandoned=hanging), arm(requests, 0)
    found = []
    for asked in (
        one(observed("error_rate"), failureCondition="result.lower > 0"),
        one(observed("latency", quantile=0.95), failureCondition="result.ratio > 1.5"),
        one(observed("latency", quantile=0.99), failureCondition="result.ratio > 1.5"),
    ):
        found.append(evaluate(asked, measured(asked, canary, control), NOW).outcome)
    assert found[1:] == [Outcome.FAILED, Outcome.FAILED]
    assert (found[0] is Outcome.FAILED) is (requests >= 1000)


def test_clients_that_leave_at_random_are_taken_for_evidence_in_hardly_any_epoch() -> None:
    draw = random.Random(11)
    taken = 0
    for _ in range(40):
        arms = (ArmTotals(), ArmTotals())
        for request in range(6000):
            totals = arms[draw.random() < 0.5]
            group = draw.randrange(UNIT_GROUPS)
            if draw.random() < 0.2:
                totals.abandon(group)
            else:
                totals.requests += 1
                totals.groups.setdefault(group, [0, 0])[0] += 1
            if request % 500 == 499 and is_left_more(*arms):
                taken += 1
                break
    assert taken <= 1


def test_a_smaller_alpha_widens_the_bounds() -> None:
    usual, strict = measured(one(observed())).result, measured(one(observed(alpha=0.001))).result
    assert usual is not None
    assert strict is not None
    assert strict["upper"] > usual["upper"]


def test_latencies_are_milliseconds_at_a_quantile() -> None:
    fast, slow = arm(900, 0, latency=10), arm(1000, 0, latency=40)
    fast.merge(arm(100, 0, latency=500))
    reading = measured(one(observed("latency", quantile=0.5)), slow, fast)
    assert reading.result is not None
    assert reading.result["canary"]["value"] == pytest.approx(40, rel=0.06)
    assert reading.result["control"]["value"] == pytest.approx(10, rel=0.06)
    high = measured(one(observed("latency")), slow, fast).result
    assert high is not None
    assert high["control"]["value"] == pytest.approx(500, rel=0.06)
    assert high["ratio"] == pytest.approx(40 / 500, rel=0.1)


def test_requests_are_counted() -> None:
    reading = measured(one(observed("requests")), arm(200, 0), arm(800, 0))
    assert reading.result == {
        "canary": {"requests": 200}, "control": {"requests": 800}, "difference": -600, "ratio": 0.25
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "canary", "control"),
    [
        ("false_positive_rate", (100, 80 / 400), (100, 40 / 400)),
        ("false_negative_rate", (60, 20 / 60), (60, 10 / 60)),
        ("precision", (120, 40 / 120), (90, 50 / 90)),
        ("recall", (60, 40 / 60), (60, 50 / 60)),
    ],
)
def test_labels_become_rates(name: str, canary: tuple[int, float], control: tuple[int, float]) -> None:
    labels = Labels(canary=confusion(40, 80, 320, 20), control=confusion(50, 40, 360, 10))
    result = FeedbackMetrics(labels, Observations()).measure(one(feedback(name)), SUBJECT).result
    assert result is not None
    assert result["canary"]["rate"] == pytest.approx(canary[1])
    assert result["control"]["rate"] == pytest.approx(control[1])
    assert result["lower"] < result["difference"] < result["upper"]


def test_the_labels_that_count_are_those_that_the_rate_is_about() -> None:
    labels = Labels(canary=confusion(400, 5, 44, 0), control=confusion(400, 5, 45, 0))
    reading = FeedbackMetrics(labels, Observations()).measure(one(feedback()), SUBJECT)
    assert reading.inconclusive == "49 labels in the canary arm, fewer than 50"
    enough = FeedbackMetrics(labels, Observations()).measure(one(feedback(minLabels=49)), SUBJECT).result
    assert enough is not None
    assert (enough["canary"]["labels"], enough["control"]["labels"]) == (49, 50)


def test_outcomes_have_means() -> None:
    def paid(each: float) -> LabelTotals:
        return LabelTotals(outcomes={"revenue": {group: [4, 4 * each + group % 3] for group in range(UNIT_GROUPS)}})

    asked = one(feedback("mean", outcome="revenue"))
    result = FeedbackMetrics(Labels(canary=paid(12), control=paid(10)), Observations()).measure(asked, SUBJECT).result
    assert result is not None
    assert result["canary"] == {"labels": 1024, "value": pytest.approx(12.25, abs=0.01)}
    assert result["difference"] == pytest.approx(2)
    assert 0 < result["lower"] < 2 < result["upper"]
    other = FeedbackMetrics(Labels(canary=paid(12), control=paid(10)), Observations()).measure(
        one(feedback("mean", outcome="other")), SUBJECT
    )
    assert other.inconclusive == "0 labels in the canary arm, fewer than 50"


def shape(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: shape(value) if isinstance(value, Mapping) else type(value) for name, value in result.items()}


@pytest.mark.parametrize(("provider", "name"), [(p, name) for p, results in EMBEDDED.items() for name in results])
def test_results_look_like_the_examples_that_conditions_are_checked_against(provider: str, name: str) -> None:
    paid = {"x": {group: [4, 8.5 + group] for group in range(UNIT_GROUPS)}}
    labels = [confusion(40, 80, 320, 20), confusion(50, 40, 360, 10)]
    for totals in labels:
        totals.outcomes.update(paid)
    providers: dict[str, EmbeddedProvider] = {
        "observed": ObservedMetrics(Observations()),
        "feedback": FeedbackMetrics(Labels(canary=labels[0], control=labels[1]), Observations()),
    }
    asked = one({provider: {"metric": name, **({"outcome": "x"} if name == "mean" else {})}})
    reading = providers[provider].measure(asked, SUBJECT)
    assert reading.result is not None
    assert shape(reading.result) == shape(EMBEDDED[provider][name])


@pytest.mark.parametrize(("canary", "ratio"), [(0, 1.0), (10, inf)])
def test_a_control_without_failures_has_a_ratio_too(canary: int, ratio: float) -> None:
    reading = measured(one(observed()), arm(1000, canary), arm(1000, 0))
    assert reading.result is not None
    assert reading.result["ratio"] == ratio


def test_counts_without_units_have_no_bounds() -> None:
    bare = ArmTotals(decided=1000, requests=1000, failures=500)
    reading = measured(one(observed()), bare, arm(1000, 10))
    assert reading.result is not None
    assert (reading.result["lower"], reading.result["upper"]) == (-inf, inf)


# When a measurement says nothing


@pytest.mark.parametrize(
    ("asked", "canary", "control", "reason"),
    [
        (observed(), arm(99, 0), arm(1000, 0), "99 requests in the canary arm, fewer than 100"),
        (observed(), arm(1000, 0), arm(99, 0), "99 requests in the control arm, fewer than 100"),
        (observed(minRequests=0), ArmTotals(), arm(9, 0), "0 requests in the canary arm, fewer than 1"),
        (
            observed("latency", minRequests=2000),
            arm(1000, 0),
            arm(9000, 0),
            "1000 requests in the canary arm, fewer than 2000",
        ),
        (
            observed(),
            arm(890, 0, decided=1000),
            arm(1000, 0),
            "110 of 1000 decisions of the canary arm have no outcome",
        ),
        (
            observed(),
            arm(900, 0),
            arm(880, 0, decided=1000),
            "120 of 1000 decisions of the control arm have no outcome",
        ),
        (
            observed(),
            arm(500, 0, abandoned=380, decided=1000),
            arm(1000, 0),
            "120 of 1000 decisions of the canary arm have no outcome",
        ),
        (
            observed(),
            arm(1000, 900, surplus=101),
            arm(1000, 0),
            "the access log told of 101 ends beside those of the 1000 decisions of the canary arm",
        ),
        (
            observed("requests"),
            arm(1000, 0, fallbacks=51),
            arm(900, 0),
            "51 of 1000 requests of the canary arm were answered by another version",
        ),
    ],
)
def test_what_does_not_compare_is_inconclusive_with_a_reason(
    asked: dict[str, Any], canary: ArmTotals, control: ArmTotals, reason: str
) -> None:
    assert measured(one(asked), canary, control) == Reading(inconclusive=reason)


@pytest.mark.parametrize(
    ("canary", "control"),
    [
        (arm(900, 0, decided=1000), arm(1000, 0)),
        (arm(1000, 0, decided=700), arm(1000, 0)),  # decisions that were not reported yet are none that are missing
        (arm(1000, 0, fallbacks=50), arm(1000, 0, fallbacks=900)),
        (arm(100, 0), arm(100, 0)),
        (arm(1000, 0, surplus=100), arm(1000, 0)),
    ],
)
def test_what_is_just_enough_is_measured(canary: ArmTotals, control: ArmTotals) -> None:
    assert measured(one(observed()), canary, control).result is not None


def test_requests_may_be_asked_for_when_there_are_none() -> None:
    assert measured(one(observed("requests", minRequests=0)), ArmTotals(), arm(9, 0)).result is not None


def test_old_observations_and_none_are_inconclusive_never_good() -> None:
    assert measured(one(observed()), age=10).result is not None
    assert measured(one(observed()), age=11).inconclusive == "the observations are 11 s old"
    clock_set_back = measured(one(observed()), age=-3600)
    assert clock_set_back.inconclusive == "the observations are 3600 s old"
    other = Subject("payments/fraud-detector", 4, NOW, "canary", "control")
    nothing = ObservedMetrics(Observations()).measure(one(observed()), other)
    assert nothing.inconclusive == "nothing was observed in this epoch"


def test_decisions_of_which_nothing_is_heard_are_inconclusive_however_good_all_was_before() -> None:
    observations = Observations()
    observations.epoch.unheard_since = NOW - 10
    assert ObservedMetrics(observations).measure(one(observed()), SUBJECT).result is not None
    observations.epoch.unheard_since = NOW - 11
    reading = ObservedMetrics(observations).measure(one(observed()), SUBJECT)
    assert reading == Reading(inconclusive="nothing was heard of what was decided in the last 11 s")
    observations.epoch.unheard_since = NOW + 3600
    reading = ObservedMetrics(observations).measure(one(observed()), SUBJECT)
    assert reading.inconclusive == "nothing was heard of what was decided in the last 3600 s"


def test_labels_are_not_the_canarys_where_another_version_answered_for_it() -> None:
    labels = Labels(canary=confusion(50, 5, 95, 10), control=confusion(50, 5, 95, 10))
    enough, too_many = (Observations(arm(1000, 0, fallbacks=fallbacks)) for fallbacks in (50, 51))
    assert FeedbackMetrics(labels, enough).measure(one(feedback()), SUBJECT).result is not None
    reading = FeedbackMetrics(labels, too_many).measure(one(feedback()), SUBJECT)
    assert reading.inconclusive == "51 of 1000 requests of the canary arm were answered by another version"


def test_labels_are_measured_where_nothing_is_observed() -> None:
    labels = Labels(canary=confusion(50, 5, 95, 10), control=confusion(50, 5, 95, 10))
    other = Subject("payments/fraud-detector", 4, NOW, "canary", "control")
    assert FeedbackMetrics(labels, Observations()).measure(one(feedback()), other).result is not None


def test_a_source_that_is_away_is_an_error() -> None:
    observations, labels = Observations(), Labels()
    observations.away = labels.away = True
    for reading in (
        ObservedMetrics(observations).measure(one(observed()), SUBJECT),
        FeedbackMetrics(Labels(), observations).measure(one(feedback()), SUBJECT),
        FeedbackMetrics(labels, Observations()).measure(one(feedback()), SUBJECT),
    ):
        assert "are away" in reading.error


# Windows


def test_a_window_counts_what_is_recent() -> None:
    observations = Observations(arm(1000, 500), arm(1000, 50))
    provider, asked = ObservedMetrics(observations), one(observed(window="1m"))

    def at(seconds: float) -> Mapping[str, Any]:
        observations.epoch.updated_at = NOW + seconds
        reading = provider.measure(asked, Subject(SUBJECT.rollout, SUBJECT.epoch, NOW + seconds, "canary", "control"))
        assert reading.result is not None
        return reading.result

    assert at(0)["canary"]["rate"] == 0.5
    observations.epoch.arms["canary"].merge(arm(1000, 0, latency=70))
    observations.epoch.arms["control"].merge(arm(1000, 50))
    assert at(30)["canary"]["rate"] == 0.25
    assert at(60)["canary"] == {"requests": 1000, "failures": 0, "rate": 0.0, "abandoned": 0}
    assert at(60)["control"]["rate"] == 0.05


def test_a_window_has_the_latencies_and_groups_of_its_requests() -> None:
    windows, before = Windows(), arm(1000, 10, latency=10)
    windows.within(60, "a", 1, 0, [before])
    before.merge(arm(256, 8, latency=90))
    (within,) = windows.within(60, "a", 1, 60, [before])
    assert within.latency.count == 256
    assert within.latency.quantile(0.1) == pytest.approx(90, rel=0.06)
    assert sum(counts[0] for counts in within.groups.values()) == 256
    assert sum(counts[1] for counts in within.groups.values()) == 8


def test_a_new_epoch_a_new_run_and_a_clock_set_back_begin_a_new_window() -> None:
    for epoch, requests, now in ((2, 500, 90.0), (1, 20, 90.0), (1, 500, -10.0)):
        windows = Windows()
        windows.within(60, "a", 1, 0, [arm(100, 0)])
        (within,) = windows.within(60, "a", epoch, now, [arm(requests, 0)])
        assert within.requests == requests


def test_a_window_has_what_was_abandoned_in_it() -> None:
    windows, before = Windows(), arm(100, 0, abandoned=300)
    windows.within(60, "a", 1, 0, [before])
    before.merge(arm(0, 0, abandoned=10))
    (within,) = windows.within(60, "a", 1, 60, [before])
    assert (within.abandoned, sum(within.abandoned_groups.values()), within.latency.count) == (10, 10, 10)


def test_windows_are_bounded() -> None:
    windows = Windows()
    for number in range(MOST_WINDOWS + 10):
        windows.within(60, f"r{number}", 1, 0, [ArmTotals()])
    assert len(windows._windows) == MOST_WINDOWS
    for second in range(1000):
        windows.within(60, "r9", 1, second / 10, [ArmTotals()])
    assert len(windows._windows["r9", 60].snapshots) <= SNAPSHOTS + 2


@example([(1, 1)] * 100)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 50)), min_size=1, max_size=40))
def test_a_window_is_never_shorter_than_asked_and_not_much_longer(steps: list[tuple[int, int]]) -> None:
    """Steps of (seconds, requests): the window counts all of the last 60 seconds, and nothing much older."""
    windows, totals, now, seen = Windows(), ArmTotals(), 0.0, [(-1.0, 0)]
    for seconds, requests in steps:
        now += seconds
        totals.requests += requests
        seen.append((now, requests))
        (within,) = windows.within(60, "a", 1, now, [totals])
        recent = sum(count for at, count in seen if at > now - 60)
        looked = max((at for at, _ in seen if at <= now - 60), default=-1.0) - 60 / SNAPSHOTS
        assert recent <= within.requests <= sum(count for at, count in seen if at > looked)


# Evaluating


RESULT = {
    "canary": {"requests": 1000, "rate": 0.07},
    "control": {"requests": 900, "rate": 0.05},
    "lower": 0.01,
    "upper": inf,
}


@pytest.mark.parametrize(
    ("success", "failure", "expected"),
    [
        (True, None, Outcome.SUCCESSFUL),
        (False, None, Outcome.FAILED),
        (None, True, Outcome.FAILED),
        (None, False, Outcome.SUCCESSFUL),
        (True, False, Outcome.SUCCESSFUL),
        (True, True, Outcome.FAILED),
        (False, True, Outcome.FAILED),
        (False, False, Outcome.INCONCLUSIVE),
    ],
)
def test_conditions_make_the_outcome_as_in_argo_rollouts(
    success: bool | None, failure: bool | None, expected: Outcome
) -> None:
    conditions = {True: "result.lower > 0", False: "result.lower < 0", None: None}
    asked = one(observed(), successCondition=conditions[success], failureCondition=conditions[failure])
    assert evaluate(asked, Reading(RESULT), NOW).outcome is expected


def test_a_measurement_says_what_was_measured_and_by_which_condition() -> None:
    found = evaluate(one(observed(), failureCondition="result.lower > 0"), Reading(RESULT), NOW)
    assert (found.metric, found.at) == ("errors", NOW)
    assert found.message == (
        "failureCondition is true: result.lower > 0 "
        "(canary requests 1000, rate 0.07; control requests 900, rate 0.05; lower 0.01; upper inf)"
    )
    assert found.value == {**RESULT, "upper": None}
    assert orjson.loads(orjson.dumps(found.value)) == found.value


def test_arguments_are_text_that_conditions_convert() -> None:
    asked = one(observed(), successCondition="result.canary.rate < double(args.most)", failureCondition=None)
    assert evaluate(asked, Reading(RESULT), NOW).outcome is Outcome.FAILED


def test_a_reading_that_says_nothing_is_inconclusive_whatever_the_conditions() -> None:
    found = evaluate(one(observed()), Reading(inconclusive="too few"), NOW)
    assert (found.outcome, found.message) == (Outcome.INCONCLUSIVE, "too few")


def test_what_could_not_be_measured_or_evaluated_is_an_error_never_a_bad_value() -> None:
    assert evaluate(one(observed()), Reading(error="away"), NOW).outcome is Outcome.ERROR
    assert evaluate(one(observed()), Reading(), NOW).outcome is Outcome.ERROR
    found = evaluate(one(observed(), failureCondition="1 / 0 > result.ratio"), Reading({"ratio": 1.0}), NOW)
    assert found.outcome is Outcome.ERROR
    assert "division by zero" in found.message


def test_large_counts_are_written_out() -> None:
    assert described({"canary": {"requests": 123_456_789}}) == "canary requests 123456789"
