"""An analysis as it runs: what is due, what measurements came to, and when it is decided. Pure: no clock, no I/O.

The rules are Argo Rollouts': a limit is exceeded by one more, not reached; a measurement that could not be taken is an
Error, which is no bad value, and is tried again soon. What is stricter here: a metric passes only with at least one
Successful measurement, so that a run that never knew anything is Inconclusive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Any, Final

import orjson
from xxhash import xxh64_hexdigest

from extproc.errors import InvalidInput
from extproc.resources.analysis_spec import AnalysisSpec
from extproc.resources.analysis_template import AnalysisTemplate, MetricSpec
from extproc.resources.conditions import Condition, compile_condition
from extproc.resources.providers.chosen import ChosenProvider
from extproc.resources.uses import UNKNOWN_ARGUMENT, given_args, misuses

KEPT_MEASUREMENTS: Final = 10
"""How many measurements of a metric are remembered; all are counted."""

ERROR_RETRY_SECONDS: Final = 10.0
"""A measurement that could not be taken is tried again after so long."""

EARLY_SECONDS: Final = 0.5
"""How much sooner than after its interval a measurement may come. Whoever asks what is due does so once a second and
never on the dot: without it, every other interval would last a second longer than it says.
"""


class Outcome(StrEnum):
    """What a measurement, or a whole run, came to."""

    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a run, with all that evaluating it takes. Durations are seconds.

    ``count`` is None for a metric that is measured until the run is stopped. ``meaning`` fingerprints what it measures
    and by its conditions: measurements of another one say nothing about it.
    """

    name: str
    interval: float | None
    count: int | None
    initial_delay: float
    starting_step: int
    failure_limit: int
    inconclusive_limit: int
    consecutive_error_limit: int
    dry_run: bool
    success: Condition | None
    failure: Condition | None
    provider: ChosenProvider
    timeout: float
    args: Mapping[str, str]
    meaning: str

    @property
    def overdue_after(self) -> float:
        """How long after it is due a measurement may come at most."""
        return (self.interval or 0.0) + self.timeout


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run measures; with an ``error`` it cannot, and says why: a template that is missing, say."""

    metrics: tuple[Metric, ...]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement of a metric: when (Unix seconds), what it came to, the value as JSON, and why in words."""

    metric: str
    at: float
    outcome: Outcome
    value: Any = None
    message: str = ""


def run_plan(
    analysis: AnalysisSpec, template: Callable[[str], AnalysisTemplate | None], *, background: bool = False
) -> RunPlan:
    """What running ``analysis`` means, with the templates that ``template`` finds by name.

    A step waits for its analysis; in the ``background`` nothing does, so there a metric may go on for ever, or wait for
    a later step.
    """
    names = [ref.template_name for ref in analysis.templates]
    try:
        templates = [template(name) for name in names]
        for name, found in zip(names, templates, strict=True):
            if found is None:
                return RunPlan((), f"there is no AnalysisTemplate {name}")
        for misuse in misuses(analysis, templates, in_step=not background):
            if misuse.code != UNKNOWN_ARGUMENT:
                return RunPlan((), misuse.message)
        metrics = (metric for found in templates if found for metric in _metrics(analysis, found, background))
        return RunPlan(tuple(metrics))
    except InvalidInput as error:
        return RunPlan((), f"an AnalysisTemplate is not valid: {error}")


def _metrics(analysis: AnalysisSpec, template: AnalysisTemplate, background: bool) -> Iterator[Metric]:
    args = {name: value for name, value in given_args(analysis, template).items() if value is not None}
    for spec in template.spec.metrics:
        yield Metric(
            name=spec.name,
            interval=spec.interval,
            count=_count(spec),
            initial_delay=spec.initial_delay or 0.0,
            starting_step=spec.starting_step if background else 0,
            failure_limit=spec.failure_limit,
            inconclusive_limit=spec.inconclusive_limit,
            consecutive_error_limit=spec.consecutive_error_limit,
            dry_run=spec.dry_run,
            success=_condition(spec.success_condition),
            failure=_condition(spec.failure_condition),
            provider=spec.provider,
            timeout=spec.timeout,
            args=args,
            meaning=_meaning(spec, args),
        )


def _meaning(spec: MetricSpec, args: Mapping[str, str]) -> str:
    asked = spec.provider.spec.model_dump(mode="json", exclude_unset=True)
    said = [spec.provider.name, asked, spec.success_condition, spec.failure_condition, dict(args)]
    return xxh64_hexdigest(orjson.dumps(said, option=orjson.OPT_SORT_KEYS))


def _condition(source: str | None) -> Condition | None:
    return None if source is None else compile_condition(source)


def _count(spec: MetricSpec) -> int | None:
    """Without an interval there is one measurement."""
    return 1 if spec.interval is None else spec.count


def start(plan: RunPlan, now: float, step: int = 0) -> Mapping[str, Any]:
    """The state of a run that begins at ``now`` (Unix seconds), at ``step``: JSON, bounded by the number of metrics."""
    return brought_up_to(plan, {"started": now, "metrics": {}}, now, step)


def brought_up_to(plan: RunPlan, run: Mapping[str, Any], now: float, step: int) -> Mapping[str, Any]:
    """The state of the run at ``now``: what is to be measured from now on begins.

    That is what waited for its step, what its template has only now, and what means something else than it did.
    """
    begun = {
        metric.name: _begun(metric, run["started"], now)
        for metric in plan.metrics
        if step >= metric.starting_step and not _means_the_same(metric, run["metrics"].get(metric.name))
    }
    return {**run, "metrics": {**run["metrics"], **begun}} if begun else run


def due(plan: RunPlan, run: Mapping[str, Any], now: float, step: int) -> list[Metric]:
    """The metrics to measure at ``now``, while the rollout is at ``step``."""
    if outcome(plan, run)[0] is not None:
        return []
    return [metric for metric in plan.metrics if step >= metric.starting_step and _is_due(metric, run, now)]


def record(plan: RunPlan, run: Mapping[str, Any], measured: Sequence[Measured], now: float) -> dict[str, Any]:
    """The state of the run after these measurements; a decided run, or metric, takes no more of them."""
    if outcome(plan, run)[0] is not None:
        return dict(run)
    metrics = {metric.name: metric for metric in plan.metrics}
    states = {name: state for name, state in run["metrics"].items() if name in metrics}
    for one in measured:
        metric = metrics.get(one.metric)
        if metric is not None and not _has_ended(metric, state := states.get(metric.name) or _state(metric, run)):
            states[metric.name] = _after(metric, state, one, now)
    return {"started": run["started"], "metrics": states}


def outcome(plan: RunPlan, run: Mapping[str, Any]) -> tuple[Outcome | None, str]:
    """What the run came to and by what measurement, in words; None while it goes on."""
    if plan.error:
        return Outcome.ERROR, plan.error
    states = {metric.name: _state(metric, run) for metric in plan.metrics}
    deciding = [metric for metric in plan.metrics if not metric.dry_run]
    for bad in (Outcome.FAILED, Outcome.ERROR, Outcome.INCONCLUSIVE):
        for metric in deciding:
            if _exceeds(metric, states[metric.name], bad):
                return bad, _because(metric, states[metric.name], bad)
    going_on = [metric for metric in plan.metrics if not _has_ended(metric, states[metric.name])]
    if any(metric.count is not None for metric in going_on):
        return None, ""
    for metric in deciding:
        if metric not in going_on and not states[metric.name]["counts"][Outcome.SUCCESSFUL]:
            return Outcome.INCONCLUSIVE, _never(metric, states[metric.name])
    if going_on:
        return None, ""
    if not deciding:
        return Outcome.INCONCLUSIVE, "there are only metrics that never decide (dryRun)"
    return Outcome.SUCCESSFUL, "; ".join(_because(metric, states[metric.name]) for metric in deciding)


def never_successful(plan: RunPlan, run: Mapping[str, Any], step: int) -> list[Metric]:
    """The metrics that may decide at ``step`` and of which nothing good is known yet, whatever their limits allow."""
    deciding = (metric for metric in plan.metrics if not metric.dry_run and step >= metric.starting_step)
    return [metric for metric in deciding if not _state(metric, run)["counts"][Outcome.SUCCESSFUL]]


def overdue(plan: RunPlan, run: Mapping[str, Any], now: float, step: int) -> list[Metric]:
    """The metrics that may decide at ``step`` and should have been measured by ``now``; Errors are no measurements."""
    states = run["metrics"]
    begun = [metric for metric in plan.metrics if step >= metric.starting_step and metric.name in states]
    return [metric for metric in begun if not metric.dry_run and _is_overdue(metric, states[metric.name], now)]


def _is_overdue(metric: Metric, state: Mapping[str, Any], now: float) -> bool:
    return not _has_ended(metric, state) and now > _overdue_at(metric, state)


def _overdue_at(metric: Metric, state: Mapping[str, Any]) -> float:
    at: float | None = state.get("overdueAt")
    return state["due"] + metric.overdue_after if at is None else at


def _begun(metric: Metric, started: float, now: float) -> dict[str, Any]:
    """A metric of a run that was ``started`` before, to be measured from ``now`` on."""
    due = started + metric.initial_delay
    return {
        "of": metric.meaning,
        "counts": {str(kind): 0 for kind in Outcome},
        "consecutiveErrors": 0,
        "due": due,
        "overdueAt": max(due, now) + metric.overdue_after,
        "measurements": [],
    }


def _means_the_same(metric: Metric, state: Mapping[str, Any] | None) -> bool:
    """Whether what was measured is what the metric is now; of what an older Dropout wrote nobody can say more."""
    return state is not None and state.get("of", metric.meaning) == metric.meaning


def _state(metric: Metric, run: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a metric of the run stands, one that has not begun too."""
    state: Mapping[str, Any] | None = run["metrics"].get(metric.name)
    return _begun(metric, run["started"], run["started"]) if state is None else state


def _is_due(metric: Metric, run: Mapping[str, Any], now: float) -> bool:
    state = _state(metric, run)
    if _has_ended(metric, state):
        return False
    if now >= state["due"]:
        return True
    last = state["measurements"][-1:]
    # A clock that was set back a long way would make the next measurement wait for as long.
    return bool(last) and state["due"] - now > 2 * (state["due"] - last[0]["at"])


def _after(metric: Metric, state: Mapping[str, Any], measured: Measured, now: float) -> dict[str, Any]:
    """The state of a metric after one more measurement."""
    failed = measured.outcome is Outcome.ERROR
    one = {"at": measured.at, "outcome": str(measured.outcome), "value": measured.value, "message": measured.message}
    wait = ERROR_RETRY_SECONDS if failed else metric.interval or 0.0
    counts = state["counts"]
    after: dict[str, Any] = {
        "of": metric.meaning,
        "counts": {**counts, str(measured.outcome): counts[measured.outcome] + 1},
        "consecutiveErrors": state["consecutiveErrors"] + 1 if failed else 0,
        "due": now + max(wait - EARLY_SECONDS, 0.0),
        "measurements": [*state["measurements"], one][-KEPT_MEASUREMENTS:],
    }
    if failed:
        return {**after, "overdueAt": _overdue_at(metric, state)}
    return {**after, "overdueAt": None if _has_ended(metric, after) else after["due"] + metric.overdue_after}


def _exceeds(metric: Metric, state: Mapping[str, Any], bad: Outcome) -> bool:
    """Whether there is more of a bad outcome than its limit allows."""
    if bad is Outcome.ERROR:
        return bool(state["consecutiveErrors"] > metric.consecutive_error_limit)
    limit = metric.failure_limit if bad is Outcome.FAILED else metric.inconclusive_limit
    return bool(state["counts"][bad] > limit)


def _has_ended(metric: Metric, state: Mapping[str, Any]) -> bool:
    """Whether there is nothing more to measure."""
    bad = (Outcome.FAILED, Outcome.ERROR, Outcome.INCONCLUSIVE)
    return _taken(state) >= (inf if metric.count is None else metric.count) or any(
        _exceeds(metric, state, kind) for kind in bad
    )


def _taken(state: Mapping[str, Any]) -> int:
    """How many measurements there were; Errors are none."""
    taken: int = sum(state["counts"].values()) - state["counts"][Outcome.ERROR]
    return taken


def _never(metric: Metric, state: Mapping[str, Any]) -> str:
    """That the metric ended without a Successful measurement, and what the last one said."""
    last = state["measurements"][-1]["message"] if state["measurements"] else ""
    return f"metric {metric.name} was never Successful" + (f"; measured last: {last}" if last else "")


def _because(metric: Metric, state: Mapping[str, Any], kind: Outcome = Outcome.SUCCESSFUL) -> str:
    """The metric, how often it came to ``kind``, and the last measurement that did."""
    found = [one for one in state["measurements"] if one["outcome"] == kind]
    times = state["consecutiveErrors"] if kind is Outcome.ERROR else state["counts"][kind]
    often = "" if times == 1 else f" {times} times"
    message = f": {found[-1]['message']}" if found and found[-1]["message"] else ""
    return f"metric {metric.name} was {kind}{often}{message}"
