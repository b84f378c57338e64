"""One rollout's way from its first step to a promotion or an abort: pure, total, no I/O.

``advance`` looks at where a rollout stands and at what was observed, and gives the next status, one transition at a
time. What threatens users comes first and holds at every gate: a trip or a failed analysis aborts a rollout that is
paused, too. Nothing goes forward while something is inconclusive.

    Progressing ──step by step──► Healthy (promoted)
        │  ▲
        │  └─ promote, resume, or the pause's time is up
        ▼
    Paused ──────────────────────► Degraded (aborted, with a tombstone), from Progressing too
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from extproc.control import transitions
from extproc.control.analysis import runs as analysis
from extproc.control.analysis.runs import Measured, Metric, Outcome, RunPlan, run_plan
from extproc.control.intent import Intent, Transition, intent_of
from extproc.control.standing import is_under_way, stands_still, step_begun
from extproc.control.transitions import ACCEPTED_EPOCH
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.fields import format_duration, format_percent
from extproc.resources.rollout import Rollout, Step
from extproc.snapshot.store import CLOCK_SET_BACK_SECONDS, Status

STEP: Final = transitions.STEP
BACKGROUND: Final = "background"
"""The two runs that may be under way: their keys in ``Status.analysis``."""

_DOUBTS: Final = (Outcome.INCONCLUSIVE, Outcome.ERROR)
_PAUSES: Final = {
    (STEP, Outcome.INCONCLUSIVE): "analysis_inconclusive",
    (STEP, Outcome.ERROR): "analysis_error",
    (BACKGROUND, Outcome.INCONCLUSIVE): "background_inconclusive",
    (BACKGROUND, Outcome.ERROR): "background_error",
}
_BACKGROUND_PAUSES: Final = frozenset(_PAUSES[BACKGROUND, doubt] for doubt in _DOUBTS)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a document and its templates ask for. ``runs`` are those of its analysis steps, by the step's index."""

    intent: Intent
    steps: tuple[Step, ...]
    runs: Mapping[int, RunPlan]
    background: RunPlan | None

    def run(self, kind: str, step: int) -> RunPlan | None:
        """The plan of the run ``kind`` while ``step`` is in force."""
        return self.background if kind == BACKGROUND else self.runs.get(step)


@dataclass(frozen=True, slots=True)
class Observations:
    """What was seen since the last look.

    ``measured`` are measurements by run (``STEP``, ``BACKGROUND``). ``unready`` says why the canary's upstream cannot
    take more requests, ``unheard`` why it is not known whether a host took the canary away, ``held`` why a policy does
    not let it have more, ``sample_ratio`` why the arms do not have the units that they should, ``broken`` why the
    canary is to be taken away at once; empty: nothing is wrong. ``in_step`` are the seconds that the step has been in
    force for, as far as they were counted and not read off a wall clock, which may be set.
    """

    measured: Mapping[str, Sequence[Measured]] = field(default_factory=dict)
    unready: str = ""
    unheard: str = ""
    held: str = ""
    sample_ratio: str = ""
    broken: str = ""
    in_step: float | None = None


def plan_of(rollout: Rollout, template: Callable[[str], AnalysisTemplate | None]) -> Plan:
    """The plan of ``rollout``; ``template`` finds the AnalysisTemplates of its namespace.

    Raises:
        InvalidInput: ``alias_unresolved``.
    """
    spec = rollout.spec
    runs = {
        index: run_plan(step.analysis, template) for index, step in enumerate(spec.steps) if step.analysis is not None
    }
    background = run_plan(spec.analysis, template, background=True) if spec.analysis is not None else None
    return Plan(intent_of(rollout), tuple(spec.steps), runs, background)


def due(plan: Plan, status: Status, now: float) -> dict[str, list[Metric]]:
    """The metrics to be measured now, by run."""
    if not is_under_way(status) or status.killed or now < status.step_at:
        return {}
    wanted: dict[str, list[Metric]] = {}
    for kind, run in _runs(plan, status):
        if metrics := analysis.due(run, status.analysis[kind], now, status.step):
            wanted[kind] = metrics
    return wanted


def advance(plan: Plan, status: Status, observations: Observations, now: float) -> Transition | None:
    """The next transition of a rollout at ``now`` (Unix seconds); None when nothing is to be done yet.

    Call it again with the new status until it gives None; what was measured counts once, so only the first call has
    ``measured``.
    """
    if not is_under_way(status):
        return transitions.planned_anew(status, now) if status.is_out_of_time(now) else None
    if status.canary in status.tripped:
        why = status.message if status.reason == "breaker_open" else "a breaker tripped it"
        return transitions.abort(plan.intent, status, now, reason="breaker_open", why=why)
    if observations.broken:
        why = f"on all hosts together {observations.broken}"
        return transitions.abort(plan.intent, status, now, reason="breaker_open", why=why)
    if status.is_out_of_time(now):
        return transitions.planned_anew(status, now)
    if status.step_at - now > CLOCK_SET_BACK_SECONDS:
        return _clock_set_back(status, now)
    if status.killed or now < status.step_at:
        return None
    after = _with_measurements(plan, status, observations, now)
    verdict = _verdict(plan, after, now) or _sample_ratio(after, observations)
    if verdict is not None:
        return verdict
    if (moved := _step(plan, after, observations, now)) is not None:
        return moved
    return Transition(after, "") if after != status else None


def _runs(plan: Plan, status: Status) -> list[tuple[str, RunPlan]]:
    """The runs under way."""
    kinds = [(kind, plan.run(kind, status.step)) for kind in (STEP, BACKGROUND) if kind in status.analysis]
    return [(kind, run) for kind, run in kinds if run is not None]


def _clock_set_back(status: Status, now: float) -> Transition:
    """Nothing moves, and nothing waits for the old time to come again: step and measurements begin anew."""
    message = "the clock was set back: the step's time begins anew"
    kept = {key: value for key, value in status.analysis.items() if key == ACCEPTED_EPOCH}
    return Transition(replace(status, step_at=now, analysis=kept), message)


# -- what was measured


def _with_measurements(plan: Plan, status: Status, observations: Observations, now: float) -> Status:
    """The status with what was measured, and with the background run once the canary serves."""
    runs = dict(status.analysis)
    for kind, run in _runs(plan, status):
        if measured := observations.measured.get(kind):
            runs[kind] = analysis.record(run, runs[kind], measured, now)
    if plan.background is not None and BACKGROUND not in runs and status.weight > 0:
        runs[BACKGROUND] = analysis.start(plan.background, now)
    return replace(status, analysis=runs) if runs != status.analysis else status


def _verdict(plan: Plan, status: Status, now: float) -> Transition | None:
    """What the runs under way come to, if that is not to go on: a failure aborts, doubt pauses."""
    found = [(kind, *analysis.outcome(run, status.analysis[kind])) for kind, run in _runs(plan, status)]
    for kind, outcome, why in found:
        if outcome is Outcome.FAILED:
            detail = _measured(status, kind)
            return transitions.abort(plan.intent, status, now, reason="analysis_failed", why=why, detail=detail)
    for kind, outcome, why in found:
        if outcome not in _DOUBTS:
            continue
        reason = _PAUSES[kind, outcome]
        if kind == STEP:
            doubt = _paused(status, reason, why, _measured(status, kind))
        else:
            doubt = _doubt_in_the_background(plan, status, reason, why)
        if doubt is not None:
            return doubt
    return None


def _measured(status: Status, kind: str) -> dict[str, Any]:
    """What history keeps of a run that decided."""
    return {"analysis": kind, "measurements": status.analysis[kind]}


def _doubt_in_the_background(plan: Plan, status: Status, reason: str, why: str) -> Transition | None:
    """A pause that holds over any other, while the run begins anew: what is paused is still watched over."""
    detail = _measured(status, BACKGROUND)
    if plan.background is not None and plan.background.error:
        return _paused(status, reason, why, detail)  # there is nothing to begin
    runs = {kind: run for kind, run in status.analysis.items() if kind != BACKGROUND}
    if status.phase == "Paused" and status.reason in _BACKGROUND_PAUSES:
        return Transition(replace(status, analysis=runs), "")
    return _to_pause(replace(status, analysis=runs), reason, why, detail)


def _sample_ratio(status: Status, observations: Observations) -> Transition | None:
    """Arms whose sizes nobody drew compare nothing: the rollout waits for somebody to look, once in an epoch."""
    if not observations.sample_ratio or status.analysis.get(ACCEPTED_EPOCH) == status.epoch:
        return None
    return _paused(status, "sample_ratio_mismatch", observations.sample_ratio, {})


def _paused(status: Status, reason: str, why: str, detail: Mapping[str, Any]) -> Transition | None:
    """A pause for ``reason``, unless the rollout stands still already for more than the time of a step."""
    return None if stands_still(status) else _to_pause(status, reason, why, detail)


def _to_pause(status: Status, reason: str, why: str, detail: Mapping[str, Any]) -> Transition:
    after = replace(status, phase="Paused", reason=reason, message=why)
    return Transition(after, f"paused: {why}", {**detail, "reason": reason})


# -- steps


def _step(plan: Plan, status: Status, observations: Observations, now: float) -> Transition | None:
    """Do the step in force, or go on to the next if it is done."""
    if stands_still(status):
        return None
    if status.step >= len(plan.steps):
        return _finish(plan, status, observations, now) if plan.steps else None
    step = plan.steps[status.step]
    if step.pause is not None:
        return _pause(status, step.pause.duration, observations, now)
    if step.analysis is not None:
        return _analysis(plan, status, now)
    if step.shadow is not None:
        return _shadow(status, step.shadow.percent, observations, now)
    assert step.set_weight is not None
    return _set_weight(plan, status, step.set_weight, observations, now)


def _set_weight(plan: Plan, status: Status, weight: int, observations: Observations, now: float) -> Transition | None:
    """The canary serves from here on, so a shadow step before is over."""
    if weight > status.weight and (gate := _gate(observations)) is not None:
        return _waiting(status, *gate)
    if weight == status.weight:
        return _next(replace(status, shadow=0), "weight_set", f"the weight is {format_percent(weight)} already", now)
    set_ = transitions.weighted(plan.intent, replace(status, shadow=0), weight, now)
    moved = _next(set_.status, "weight_set", set_.message, now)
    return replace(moved, detail={**moved.detail, **set_.detail})


def _shadow(status: Status, percent: int, observations: Observations, now: float) -> Transition | None:
    if percent > status.shadow and (gate := _gate(observations)) is not None:
        return _waiting(status, *gate)
    message = f"{format_percent(percent)} percent of the units' requests are mirrored"
    return _next(replace(status, shadow=percent), "shadow_set", message, now)


def _pause(status: Status, duration: float | None, observations: Observations, now: float) -> Transition | None:
    if status.phase != "Paused":
        how_long = f"for {format_duration(duration)}" if duration is not None else "until promoted"
        message = f"paused by step {status.step} {how_long}"
        return Transition(replace(status, phase="Paused", reason="pause_step", message=message), message)
    in_step = now - status.step_at if observations.in_step is None else observations.in_step
    if duration is None or in_step < duration:
        return None
    return _next(replace(status, phase="Progressing"), "pause_over", f"the pause of step {status.step} is over", now)


def _analysis(plan: Plan, status: Status, now: float) -> Transition | None:
    """An analysis that fails or is in doubt was dealt with before; here it begins, goes on, or has passed."""
    run = plan.runs[status.step]
    if STEP not in status.analysis:
        message = f"the analysis of step {status.step} begins"
        runs = {**status.analysis, STEP: analysis.start(run, now)}
        return Transition(replace(status, reason="analysis", message=message, analysis=runs), message)
    outcome, why = analysis.outcome(run, status.analysis[STEP])
    if outcome is not Outcome.SUCCESSFUL:
        return None
    runs = {kind: state for kind, state in status.analysis.items() if kind != STEP}
    moved = _next(replace(status, analysis=runs), "analysis_passed", why, now)
    return replace(moved, detail={**moved.detail, "measurements": status.analysis[STEP]})


def _finish(plan: Plan, status: Status, observations: Observations, now: float) -> Transition | None:
    """After the last step the canary is stable, once it can take what stable takes and was looked at in every way."""
    if (gate := _gate(observations) or _unmeasured(plan, status)) is not None:
        return _waiting(status, *gate)
    return transitions.promote_fully(plan.intent, status, len(plan.steps), now, why="all steps are done")


def _gate(observations: Observations) -> tuple[str, str] | None:
    """Why the canary gets no more for now: the reason, and in words."""
    if observations.unready:
        return "upstream_not_ready", observations.unready
    if observations.unheard:
        return "observer_unheard", observations.unheard
    return ("control_denied", observations.held) if observations.held else None


def _unmeasured(plan: Plan, status: Status) -> tuple[str, str] | None:
    """Why it is too early to judge: steps may be done before what watches over them has measured anything.

    It is not for long: a metric that cannot be measured pauses the rollout.
    """
    if plan.background is None or BACKGROUND not in status.analysis:
        return None
    waited_for = analysis.never_measured(plan.background, status.analysis[BACKGROUND], status.step)
    names = ", ".join(metric.name for metric in waited_for)
    return ("background_unmeasured", f"not measured in the background yet: {names}") if names else None


def _waiting(status: Status, reason: str, why: str) -> Transition | None:
    """More than could be served, or than is allowed, is not given: the rollout waits, and says why, once."""
    if (status.reason, status.message) == (reason, why):
        return None
    return Transition(replace(status, reason=reason, message=why), f"waits: {why}")


def _next(status: Status, reason: str, message: str, now: float) -> Transition:
    """The step is done. The next one counts from now, or from when a pending rise is due."""
    after = replace(step_begun(status, now), step=status.step + 1, reason=reason, message=message)
    detail: dict[str, Any] = {"step": status.step}
    return Transition(after, message, detail)
