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
from typing import Any, Final, NamedTuple

from extproc.control import experiments, transitions
from extproc.control.analysis import runs as analysis
from extproc.control.analysis.runs import Measured, Metric, Outcome, RunPlan, run_plan
from extproc.control.experiments import VariantPlan, variant_plan
from extproc.control.intent import Intent, Transition, intent_of
from extproc.control.overdue import how_long, told
from extproc.control.status_changes import (
    FEATURES_STALE,
    OVERDUE,
    UNDELIVERED,
    UNMET,
    going_on,
    is_overdue,
    is_under_way,
    overdue,
    paused,
    stands_still,
    step_begun,
)
from extproc.control.steps.kinds import kind_of
from extproc.control.steps.step import Gate, InForce, waiting
from extproc.control.transitions import ACCEPTED_EPOCH
from extproc.control.unmet import Unmet
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.rollout import Rollout
from extproc.resources.steps import AnyStep, analysis_of
from extproc.store.status import CLOCK_SET_BACK_SECONDS, Status

STEP: Final = transitions.STEP
BACKGROUND: Final = "background"
"""The two runs that may be under way: their keys in ``Status.analysis``."""

_DENIED: Final = "control_denied"
_DOUBTS: Final = (Outcome.INCONCLUSIVE, Outcome.ERROR)
_PAUSES: Final = {
    (STEP, Outcome.INCONCLUSIVE): "analysis_inconclusive",
    (STEP, Outcome.ERROR): "analysis_error",
    (BACKGROUND, Outcome.INCONCLUSIVE): "background_inconclusive",
    (BACKGROUND, Outcome.ERROR): "background_error",
}
_BACKGROUND_PAUSES: Final = frozenset(_PAUSES[BACKGROUND, doubt] for doubt in _DOUBTS)
_SAMPLE_RATIO: Final = "sample_ratio_mismatch"
_ON_PROMOTE: Final = {
    **{_PAUSES[STEP, doubt]: "goes on without this analysis" for doubt in _DOUBTS},
    **dict.fromkeys(_BACKGROUND_PAUSES, "goes on, and it is measured anew"),
    _SAMPLE_RATIO: "accepts it for this epoch",
}
"""What ``promote`` does to a pause that waits for somebody to look."""


class Deadline(NamedTuple):
    """For how many seconds a rollout may neither move nor wait for a person, and whether it is aborted then."""

    seconds: float
    aborts: bool


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What a document and its templates ask for.

    ``runs`` are those of its analysis steps, by the step's index, ``variants`` those of an experiment.
    """

    intent: Intent
    steps: tuple[AnyStep, ...]
    runs: Mapping[int, RunPlan]
    background: RunPlan | None
    variants: VariantPlan = experiments.NOTHING
    deadline: Deadline | None = None

    def run(self, kind: str, step: int) -> RunPlan | None:
        """The plan of the run ``kind`` while ``step`` is in force."""
        return self.background if kind == BACKGROUND else self.runs.get(step)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen since the last tick.

    ``measured`` are measurements by run (``STEP``, ``BACKGROUND``). ``unready`` says why the canary's upstream cannot
    take more requests, ``unheard`` why it is not known whether a host took the canary away, ``doubt`` why it is not
    known what became of requests, ``vetoed`` why a policy does not let it have more, ``sample_ratio`` why the arms do
    not have the units that they should, ``broken`` why the canary is to be taken away at once, ``undelivered`` why a
    proxy does not have the routes; empty: nothing is wrong. ``unmet`` is what the document asks for and a ``serve``
    does not have, ``stale`` which views it finds too old; None: nobody can say. ``in_step`` are the seconds that the
    step has been in force for, as far as they were counted and not read off a wall clock, which may be set; ``stalled``
    those of them in which it ``may_stall``.
    """

    measured: Mapping[str, Sequence[Measured]] = field(default_factory=dict)
    unready: str = ""
    unheard: str = ""
    doubt: str = ""
    vetoed: str = ""
    sample_ratio: str = ""
    broken: str = ""
    undelivered: str | None = ""
    unmet: Unmet | None = None
    stale: Unmet | None = None
    in_step: float | None = None
    stalled: float = 0.0


def plan_of(rollout: Rollout, template: Callable[[str], AnalysisTemplate | None]) -> RolloutPlan:
    """The plan of ``rollout``; ``template`` finds the AnalysisTemplates of its namespace.

    Raises:
        InvalidInput: ``alias_unresolved``.
    """
    spec = rollout.spec
    measured = ((index, analysis_of(step)) for index, step in enumerate(spec.steps))
    runs = {index: run_plan(gate, template) for index, gate in measured if gate is not None}
    if spec.is_experiment:
        return RolloutPlan(intent_of(rollout), (), {}, None, variant_plan(spec, template))
    background = run_plan(spec.analysis, template, background=True) if spec.analysis is not None else None
    limit = spec.progress_deadline
    deadline = Deadline(limit, spec.progress_deadline_abort) if limit is not None else None
    return RolloutPlan(intent_of(rollout), tuple(spec.steps), runs, background, deadline=deadline)


def due(plan: RolloutPlan, status: Status, now: float) -> dict[str, list[Metric]]:
    """The metrics to be measured now, by run."""
    if plan.intent.experiment:
        return experiments.due(plan.variants, plan.intent, status, now)
    if not is_under_way(status) or status.killed or now < status.step_at:
        return {}
    wanted: dict[str, list[Metric]] = {}
    for kind, run in _runs(plan, status):
        if metrics := analysis.due(run, status.analysis[kind], now, status.step):
            wanted[kind] = metrics
    return wanted


def advance(plan: RolloutPlan, status: Status, evidence: Evidence, now: float) -> Transition | None:
    """The next transition of a rollout at ``now`` (Unix seconds); None when nothing is to be done yet.

    Call it again with the new status until it gives None; what was measured counts once, so only the first call has
    ``measured``.
    """
    if plan.intent.experiment:
        seen = evidence.measured, evidence.sample_ratio
        moved = experiments.advance(plan.variants, plan.intent, status, *seen, now)
        return moved if moved is not None else _told(plan, status, evidence, now)
    if not is_under_way(status):
        anew = status.is_out_of_time(now)
        return transitions.planned_anew(status, now) if anew else _told(plan, status, evidence, now)
    if status.canary in status.tripped:
        why = status.message if status.reason == "breaker_open" else "a breaker tripped it"
        return transitions.abort(plan.intent, status, now, reason="breaker_open", why=why)
    if evidence.broken:
        why = f"on all hosts together {evidence.broken}"
        return transitions.abort(plan.intent, status, now, reason="breaker_open", why=why)
    if status.is_out_of_time(now):
        return transitions.planned_anew(status, now)
    if status.step_at - now > CLOCK_SET_BACK_SECONDS:
        return _clock_set_back(status, now)
    if status.killed or now < status.step_at:
        return None
    if (freed := _freed(plan, status, now)) is not None:
        return freed
    after = _with_measurements(plan, status, evidence, now)
    verdict = _verdict(plan, after, now) or _sample_ratio(after, evidence)
    if verdict is not None:
        return verdict
    if (moved := _step(plan, after, evidence, now)) is not None:
        return moved
    if after != status:
        return Transition(after, "")
    late = _late(plan, status, evidence, now)
    return late if late is not None else _told(plan, status, evidence, now)


def _told(plan: RolloutPlan, status: Status, evidence: Evidence, now: float) -> Transition | None:
    """Say what is so at the moment, and nothing else would show, and take back what was said and is over."""
    return (
        _undelivered(status, evidence.undelivered)
        or _unmet(plan, status, evidence)
        or _stale(plan, status, evidence)
        or told(status, _runs_of_all(plan, status), now)
    )


def _undelivered(status: Status, why: str | None) -> Transition | None:
    """Say ``why`` a proxy does not have the routes, if one has not; while nobody can say, nothing changes."""
    if why is None:
        return None
    return _condition(status, UNDELIVERED, {"message": why} if why else {}, "every Envoy has the routes again")


def _unmet(plan: RolloutPlan, status: Status, evidence: Evidence) -> Transition | None:
    """Say what is asked for in vain, as long as anything is to come of it; while nobody can say, nothing changes."""
    over = "what the document asks for is there, or no more asked for"
    return _of_hosts(plan, status, UNMET, evidence.unmet, over)


def _stale(plan: RolloutPlan, status: Status, evidence: Evidence) -> Transition | None:
    """Say which features are too old, likewise."""
    return _of_hosts(plan, status, FEATURES_STALE, evidence.stale, "features are as fresh as they have to be again")


def _of_hosts(plan: RolloutPlan, status: Status, kind: str, found: Unmet | None, over: str) -> Transition | None:
    found = found if plan.intent.experiment or is_under_way(status) else Unmet()
    if found is None:
        return None
    what = {"reason": found.code, "message": found.message} if found.code else {}
    return _condition(status, kind, what, over)


def _condition(status: Status, kind: str, what: Mapping[str, str], over: str) -> Transition | None:
    """The status with ``what`` as its condition ``kind``, without one if it is empty; None if it is so already."""
    known = [one for one in status.conditions if one["type"] == kind]
    told = [{"type": kind, "status": "True", **what}] if what else []
    if known == told:
        return None
    others = (one for one in status.conditions if one["type"] != kind)
    return Transition(replace(status, conditions=(*others, *told)), what.get("message", over))


def may_stall(plan: RolloutPlan, status: Status, now: float) -> bool:
    """Whether what holds a rollout up is to come by itself: no person, no policy, not the time of its step."""
    if not plan.steps or not is_under_way(status) or status.killed or status.phase == "Paused" or now < status.step_at:
        return False
    own_time = status.step < len(plan.steps) and kind_of(plan.steps[status.step]).own_time
    return not own_time and status.reason != _DENIED


def _runs_of_all(plan: RolloutPlan, status: Status) -> Mapping[str, RunPlan]:
    """The runs under way, of variants too."""
    if plan.intent.experiment:
        return {} if status.killed else experiments.begun(plan.variants, status)
    return dict(_runs(plan, status)) if is_under_way(status) else {}


def _runs(plan: RolloutPlan, status: Status) -> list[tuple[str, RunPlan]]:
    """The runs under way."""
    kinds = [(kind, plan.run(kind, status.step)) for kind in (STEP, BACKGROUND) if kind in status.analysis]
    return [(kind, run) for kind, run in kinds if run is not None]


def _clock_set_back(status: Status, now: float) -> Transition:
    """Nothing moves, and nothing waits for the old time to come again: step and measurements begin anew.

    A rise before it may be to come once more: the step begins with that, so nothing is promoted before it is in force.
    """
    message = "the clock was set back: the step's time begins anew"
    kept = {key: value for key, value in status.analysis.items() if key == ACCEPTED_EPOCH}
    return Transition(step_begun(replace(status, analysis=kept), now), message)


# -- what was measured


def _with_measurements(plan: RolloutPlan, status: Status, evidence: Evidence, now: float) -> Status:
    """The status with what was measured, and with the background run once the canary serves."""
    runs = dict(status.analysis)
    for kind, run in _runs(plan, status):
        runs[kind] = analysis.brought_up_to(run, runs[kind], now, status.step)
        if measured := evidence.measured.get(kind):
            runs[kind] = analysis.record(run, runs[kind], measured, now)
    if plan.background is not None and BACKGROUND not in runs and (status.weight > 0 or plan.background.error):
        runs[BACKGROUND] = analysis.start(plan.background, now, status.step)
    return replace(status, analysis=runs) if runs != status.analysis else status


def _verdict(plan: RolloutPlan, status: Status, now: float) -> Transition | None:
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


def _doubt_in_the_background(plan: RolloutPlan, status: Status, reason: str, why: str) -> Transition | None:
    """A pause that holds over any other, while the run begins anew: what is paused is still watched over."""
    detail = _measured(status, BACKGROUND)
    if plan.background is not None and plan.background.error:
        return _paused(status, reason, why, detail)  # there is nothing to begin
    runs = {kind: run for kind, run in status.analysis.items() if kind != BACKGROUND}
    if status.phase == "Paused" and status.reason in _BACKGROUND_PAUSES:
        return Transition(replace(status, analysis=runs), "")
    return _to_pause(replace(status, analysis=runs), reason, why, detail)


def _freed(plan: RolloutPlan, status: Status, now: float) -> Transition | None:
    """A pause ends by itself if the document has no analysis in the background any more, or it can be begun at last."""
    if status.phase != "Paused" or status.reason not in _BACKGROUND_PAUSES:
        return None
    run = status.analysis.get(BACKGROUND)
    if plan.background is None:
        message = "the document has no analysis in the background any more"
    elif run is not None and not run["metrics"] and not plan.background.error:
        message = "the analysis in the background can be begun"
    else:
        return None
    runs = {kind: state for kind, state in status.analysis.items() if kind != BACKGROUND}
    return Transition(going_on(replace(status, analysis=runs), now, "background_lifted", message), message)


def _sample_ratio(status: Status, evidence: Evidence) -> Transition | None:
    """Arms whose sizes nobody drew compare nothing: the rollout waits for somebody to look, once in an epoch."""
    if not evidence.sample_ratio or status.analysis.get(ACCEPTED_EPOCH) == status.epoch:
        return None
    return _paused(status, _SAMPLE_RATIO, evidence.sample_ratio, {})


def _paused(status: Status, reason: str, why: str, detail: Mapping[str, Any]) -> Transition | None:
    """A pause for ``reason``, unless the rollout stands still already for more than the time of a step."""
    return None if stands_still(status) else _to_pause(status, reason, why, detail)


def _to_pause(status: Status, reason: str, why: str, detail: Mapping[str, Any]) -> Transition:
    """A pause that says why, and how somebody ends it."""
    message = f"{why}; `dropout rollout promote` {_ON_PROMOTE[reason]}"
    return Transition(paused(status, reason, message), f"paused: {message}", {**detail, "reason": reason})


# -- steps


def _step(plan: RolloutPlan, status: Status, evidence: Evidence, now: float) -> Transition | None:
    """Do the step in force, or go on to the next if it is done."""
    if stands_still(status):
        return None
    if status.step >= len(plan.steps):
        return _finish(plan, status, evidence, now) if plan.steps else None
    in_step = now - status.step_at if evidence.in_step is None else evidence.in_step
    at = InForce(plan.intent, status, _gate(plan, status, evidence, now), in_step, plan.runs.get(status.step), now)
    return kind_of(plan.steps[status.step]).advance(at)


def _finish(plan: RolloutPlan, status: Status, evidence: Evidence, now: float) -> Transition | None:
    """After the last step the canary is stable, once it can take what stable takes and was looked at in every way."""
    if (gate := _gate(plan, status, evidence, now) or _unmeasured(plan, status)) is not None:
        return waiting(status, *gate)
    return transitions.promote_fully(plan.intent, status, len(plan.steps), now, why="all steps are done")


def _late(plan: RolloutPlan, status: Status, evidence: Evidence, now: float) -> Transition | None:
    """What has neither moved nor waited for a person for its progressDeadline is Degraded, or aborted."""
    if plan.deadline is None:
        message = "it has no progressDeadline any more"
        return Transition(going_on(status, now, "deadline_lifted", message), message) if is_overdue(status) else None
    if evidence.stalled < plan.deadline.seconds or not may_stall(plan, status, now):
        return None
    gate = _gate(plan, status, evidence, now) or _unmeasured(plan, status)
    late = overdue(status, gate[1] if gate is not None else "")
    if plan.deadline.aborts:
        return transitions.abort(plan.intent, status, now, reason=OVERDUE, why=late.message)
    return Transition(late, late.message) if not is_overdue(status) else None


def _gate(plan: RolloutPlan, status: Status, evidence: Evidence, now: float) -> Gate:
    """What holds the canary back, if anything does."""
    if evidence.unready:
        return "upstream_not_ready", evidence.unready
    if evidence.unheard:
        return "observer_unheard", evidence.unheard
    if evidence.doubt:
        return "outcomes_doubtful", evidence.doubt
    if late := _metrics_overdue(plan, status, now):
        return "background_overdue", late
    return (_DENIED, evidence.vetoed) if evidence.vetoed else None


def _metrics_overdue(plan: RolloutPlan, status: Status, now: float) -> str:
    """Which metrics that watch over the rollout should have been measured by now; empty: none."""
    if plan.background is None or BACKGROUND not in status.analysis:
        return ""
    late = analysis.overdue(plan.background, status.analysis[BACKGROUND], now, status.step)
    return f"overdue in the background: {', '.join(map(how_long, late))}" if late else ""


def _unmeasured(plan: RolloutPlan, status: Status) -> Gate:
    """Why it is too early to tell: steps may be done before what watches over them has measured anything good.

    It is not for long: a metric that cannot be measured pauses the rollout, and so does one beyond its limits.
    """
    if plan.background is None or BACKGROUND not in status.analysis:
        return None
    waited_for = analysis.never_successful(plan.background, status.analysis[BACKGROUND], status.step)
    names = ", ".join(metric.name for metric in waited_for)
    return ("background_unmeasured", f"not Successful in the background yet: {names}") if names else None
