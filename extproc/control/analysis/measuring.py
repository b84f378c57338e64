"""Measuring what is embedded, and evaluating what was measured: providers know numbers, ``evaluate`` knows conditions.

An embedded provider compares the arms as they were randomised, within one epoch: whatever version served a request,
and whatever else the policy or a breaker did, it counts for the arm that its unit drew (intention to treat).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite
from typing import Any, Final

from extproc.control.analysis.ends import is_left_more, left, with_abandoned, with_missing
from extproc.control.analysis.ports import LabelSource, ObservationSource, Reading, Subject
from extproc.control.analysis.runs import Measured, Metric, Outcome
from extproc.control.analysis.sequential import Comparison, Groups, compare, ratio
from extproc.control.analysis.windows import Windows
from extproc.errors import DropoutError
from extproc.measure import (
    ArmTotals,
    LabelTotals,
)
from extproc.measure.outcomes import Counts
from extproc.resources.conditions import Condition, ConditionError
from extproc.resources.providers.feedback import FeedbackSpec
from extproc.resources.providers.observed import ObservedSpec

STALE_SECONDS: Final = 10.0
"""Older observations say nothing about now."""

UNHEARD_SHARE: Final = 0.10
"""With more decisions than this of which nothing is known, outcomes are not those of the arm."""

SURPLUS_SHARE: Final = 0.10
"""With more ends than this told of beyond the decisions, others write to the log, and what they said first counted."""

FALLBACK_SHARE: Final = 0.05
"""With more of the canary's requests than this answered by another version, its arm is not the canary."""

_SHOWN: Final = 5
_KEPT: Final = 100
"""How many numbers of a list are shown in a line, and how many are kept with a measurement."""


def evaluate(metric: Metric, reading: Reading, now: float) -> Measured:
    """What ``reading`` comes to by the conditions of ``metric``."""
    if reading.error or (reading.result is None and not reading.inconclusive):
        return Measured(metric.name, now, Outcome.ERROR, None, reading.error or "nothing was measured")
    value = _as_json(reading.result)
    if reading.inconclusive or reading.result is None:
        return Measured(metric.name, now, Outcome.INCONCLUSIVE, value, reading.inconclusive)
    try:
        success = _holds(metric.success, metric, reading.result)
        failure = _holds(metric.failure, metric, reading.result)
    except ConditionError as error:
        return Measured(metric.name, now, Outcome.ERROR, value, str(error))
    outcome, why = _verdict(metric, success, failure)
    return Measured(metric.name, now, outcome, value, f"{why} ({described(reading.result)})")


def _holds(condition: Condition | None, metric: Metric, result: Any) -> bool | None:
    return None if condition is None else condition.holds(result, metric.args)


def _verdict(metric: Metric, success: bool | None, failure: bool | None) -> tuple[Outcome, str]:
    """The outcome and the condition that made it; None is a condition that is not there."""
    if failure and metric.failure is not None:
        return Outcome.FAILED, f"failureCondition is true: {metric.failure.source}"
    if success and metric.success is not None:
        return Outcome.SUCCESSFUL, f"successCondition is true: {metric.success.source}"
    if metric.success is None and metric.failure is not None:
        return Outcome.SUCCESSFUL, f"failureCondition is false: {metric.failure.source}"
    if metric.failure is None and metric.success is not None:
        return Outcome.FAILED, f"successCondition is false: {metric.success.source}"
    return Outcome.INCONCLUSIVE, "neither successCondition nor failureCondition is true"


def described(result: Any) -> str:
    """A result in a line: ``canary requests 1200, rate 0.0702; control ...; difference 0.0202; ...``."""
    if not isinstance(result, Mapping):
        return f"result {_listed(result)}"
    parts = []
    for name, value in result.items():
        numbers = value.items() if isinstance(value, Mapping) else [("", value)]
        parts.append(f"{name} " + ", ".join(f"{field} {_number(number)}".strip() for field, number in numbers))
    return "; ".join(parts)


def _listed(result: Any) -> str:
    """Of many numbers the first few."""
    if not isinstance(result, list):
        return _number(result)
    numbers = [_number(number) for number in result[:_SHOWN]]
    return f"[{', '.join(numbers)}{', ...' if len(result) > _SHOWN else ''}]"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _as_json(value: Any) -> Any:
    """The value as JSON has it; a bound that is infinite is null."""
    if isinstance(value, Mapping):
        return {name: _as_json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as_json(inner) for inner in value[:_KEPT]]
    return value if not isinstance(value, float) or isfinite(value) else None


# Requests, as observed


class ObservedMetrics:
    """The provider of ``observed`` metrics. It remembers counts for ``window``, so keep one for as long as possible."""

    def __init__(self, source: ObservationSource) -> None:
        self._source = source
        self._windows = Windows()

    def measure(self, metric: Metric, of: Subject) -> Reading:
        """Measure ``metric``, whose provider is ``observed``."""
        spec = metric.provider.spec
        assert isinstance(spec, ObservedSpec)
        try:
            totals = self._source.totals(of.rollout, of.epoch)
        except DropoutError as error:
            return Reading(error=str(error))
        if totals is None:
            return Reading(inconclusive="nothing was observed in this epoch")
        # What lies ahead is as old as what lies behind: the clock was set back, and nobody knows since when.
        if (age := abs(of.now - totals.updated_at)) > STALE_SECONDS:
            return Reading(inconclusive=f"the observations are {age:.0f} s old")
        if totals.unheard_since is not None and (silent := abs(of.now - totals.unheard_since)) > STALE_SECONDS:
            return Reading(inconclusive=f"nothing was heard of what was decided in the last {silent:.0f} s")
        arms = [totals.arms.get(arm, ArmTotals()) for _, arm in of.arms()]
        if spec.window is not None:
            arms = self._windows.within(spec.window, (of.rollout, of.canary), of.epoch, of.now, arms)
        blamed = spec.metric == "error_rate" and is_left_more(*arms)
        if reason := _not_comparable(arms[0], arms[1], spec, blamed=blamed):
            return Reading(inconclusive=reason)
        if blamed:
            arms = [with_abandoned(arm) for arm in arms]
        return Reading(_observed(arms[0], arms[1], spec))


def _not_comparable(canary: ArmTotals, control: ArmTotals, spec: ObservedSpec, *, blamed: bool) -> str:
    """Why the counts say nothing about the two versions; empty if they do. ``blamed``: what was abandoned counts."""
    at_least = spec.min_requests if spec.metric == "requests" else max(spec.min_requests, 1)
    for name, arm in (("canary", canary), ("control", control)):
        counted = _counted_of(arm, spec, blamed=blamed)
        if counted < at_least:
            return f"{counted} requests in the {name} arm, fewer than {at_least}"
        if (unheard := arm.decided - arm.ends.left.requests) > UNHEARD_SHARE * arm.decided:
            return f"{unheard} of {arm.decided} decisions of the {name} arm have no outcome"
        if doubt := surplus_of(name, arm):
            return doubt
    return _not_the_canarys(canary)


def surplus_of(name: str, arm: ArmTotals) -> str:
    """Why what the log told of an arm is in doubt; empty if it is not."""
    if arm.surplus <= SURPLUS_SHARE * arm.decided:
        return ""
    return f"the access log told of {arm.surplus} ends beside those of the {arm.decided} decisions of the {name} arm"


def _counted_of(arm: ArmTotals, spec: ObservedSpec, *, blamed: bool) -> int:
    """How many requests the metric is about."""
    if spec.metric == "latency":
        return arm.latency.count
    return arm.outcomes.requests if spec.metric == "error_rate" and not blamed else arm.ends.left.requests


def _not_the_canarys(canary: ArmTotals) -> str:
    """Why the arm says nothing about the canary; empty if it does."""
    if canary.fallbacks > FALLBACK_SHARE * canary.requests:
        return f"{canary.fallbacks} of {canary.requests} requests of the canary arm were answered by another version"
    return ""


def _observed(canary: ArmTotals, control: ArmTotals, spec: ObservedSpec) -> dict[str, Any]:
    arms = {"canary": canary, "control": control}
    counts: dict[str, dict[str, Any]]
    if spec.metric == "latency":
        counts = {
            name: {"requests": arm.latency.count, "value": arm.latency.quantile(spec.quantile) or 0.0}
            for name, arm in arms.items()
        }
        return {**counts, **_differing(counts["canary"]["value"], counts["control"]["value"])}
    if spec.metric == "requests":
        counts = {name: {"requests": arm.ends.left.requests} for name, arm in arms.items()}
        return {**counts, **_differing(counts["canary"]["requests"], counts["control"]["requests"])}
    if spec.metric == "abandoned":
        counts = {name: _share(arm.ends.left, "abandoned") for name, arm in arms.items()}
        found = compare(left(canary), left(control), spec.alpha, share=True)
    else:
        counts = {name: {**_share(arm.outcomes, "failures"), "abandoned": arm.abandoned} for name, arm in arms.items()}
        found = compare(with_missing(canary), with_missing(control), spec.alpha, share=True)
    return {**counts, **_differing(counts["canary"]["rate"], counts["control"]["rate"]), **_bounds(found)}


def _share(counts: Counts, name: str) -> dict[str, Any]:
    return {"requests": counts.requests, name: counts.failures, "rate": counts.rate}


def _differing(canary: float, control: float) -> dict[str, float]:
    return {"difference": canary - control, "ratio": ratio(canary, control)}


def _bounds(found: Comparison | None) -> dict[str, float]:
    """The bounds of the difference; infinite where the groups of units say nothing."""
    return {"lower": -inf, "upper": inf} if found is None else {"lower": found.lower, "upper": found.upper}


# Labels


class FeedbackMetrics:
    """The provider of ``feedback`` metrics: of ``labels``, as long as those are the canary's by what was observed."""

    def __init__(self, labels: LabelSource, source: ObservationSource) -> None:
        self._labels = labels
        self._source = source

    def measure(self, metric: Metric, of: Subject) -> Reading:
        """Measure ``metric``, whose provider is ``feedback``."""
        spec = metric.provider.spec
        assert isinstance(spec, FeedbackSpec)
        try:
            totals = self._source.totals(of.rollout, of.epoch)
            labels = self._labels.labels(of.rollout, of.epoch)
        except DropoutError as error:
            return Reading(error=str(error))
        if totals is not None and (reason := _not_the_canarys(totals.arms.get(of.canary, ArmTotals()))):
            return Reading(inconclusive=reason)
        return _of_labels({name: _counted(labels.get(arm), spec) for name, arm in of.arms()}, spec)


def _of_labels(groups: Mapping[str, Groups], spec: FeedbackSpec) -> Reading:
    """The reading of labels, which are by arm and group: how many, and how much of what is looked for."""
    share = spec.metric != "mean"
    result: dict[str, Any] = {}
    for name, of_arm in groups.items():
        labelled, part = (sum(counts[i] for counts in of_arm.values()) for i in (0, 1))
        at_least = max(spec.min_labels, 1)
        if labelled < at_least:
            return Reading(inconclusive=f"{labelled:.0f} labels in the {name} arm, fewer than {at_least}")
        result[name] = {"labels": int(labelled), "rate" if share else "value": part / labelled}
    values = [result[name]["rate" if share else "value"] for name in groups]
    found = compare(groups["canary"], groups["control"], spec.alpha, share=share)
    return Reading({**result, **_differing(*values), **_bounds(found)})


def _counted(labels: LabelTotals | None, spec: FeedbackSpec) -> Groups:
    """By group of units: how many labels the metric is about, and how much of them it looks for."""
    if labels is None:
        return {}
    if spec.metric == "mean":
        return labels.outcomes.get(spec.outcome or "", {})
    return labels.of_rate(spec.metric)
