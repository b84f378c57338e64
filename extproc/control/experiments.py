"""What becomes of an experiment: its variants are measured against the control; what fails is told, or taken away.

An experiment has no steps to wait at, so nothing pauses it: what is inconclusive, or cannot be measured, is measured
again. Its runs are of one epoch, and begin anew with it. Pure, as ``advance`` is.

Several variants are compared with one control, so each comparison has its share of ``alpha`` (Bonferroni's correction:
Dunn, "Multiple comparisons among means", Journal of the American Statistical Association 56, 1961): the bounds of all
of them together are wrong as seldom as those of one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from extproc.control.analysis import runs as analysis
from extproc.control.analysis.runs import Measured, Metric, Outcome, RunPlan, run_plan
from extproc.control.intent import Intent, Transition
from extproc.control.status_changes import EXPERIMENT_CONDITIONS, SAMPLE_RATIO, counted_apart, settled, variants_away
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.providers.chosen import ChosenProvider
from extproc.resources.rollout import RolloutSpec
from extproc.store.status import Status

VARIANT: Final = "variant/"
"""Before the name of a variant: the key of its run in ``Status.analysis``. No variant's name has a slash."""

EPOCH: Final = "epoch"
"""Key in ``Status.analysis``: the epoch that the runs of variants are of."""


@dataclass(frozen=True, slots=True)
class VariantPlan:
    """What is measured of each variant but the control, and whether one that fails ``is_taken_away``."""

    runs: Mapping[str, RunPlan]
    is_taken_away: bool


NOTHING: Final = VariantPlan({}, is_taken_away=False)


def variant_plan(spec: RolloutSpec, template: Callable[[str], AnalysisTemplate | None]) -> VariantPlan:
    """The plan of an experiment's ``spec``; ``template`` finds the AnalysisTemplates of its namespace."""
    if spec.analysis is None or not spec.is_experiment:
        return NOTHING
    run = run_plan(spec.analysis, template, background=True)
    names = [variant.name for variant in spec.variants[:-1]]
    shared = replace(run, metrics=tuple(_of_several(metric, len(names)) for metric in run.metrics))
    return VariantPlan(dict.fromkeys(names, shared), spec.analysis.on_failed == "control")


def _of_several(metric: Metric, comparisons: int) -> Metric:
    """The metric as one of so many comparisons, in a run that only a failure ends before its time."""
    return replace(
        metric,
        provider=_with_share_of_alpha(metric.provider, comparisons),
        starting_step=0,
        inconclusive_limit=sys.maxsize,
        consecutive_error_limit=sys.maxsize,
    )


def _with_share_of_alpha(provider: ChosenProvider, comparisons: int) -> ChosenProvider:
    """A provider that promises nothing for all looks together has no ``alpha`` to share."""
    alpha: float | None = getattr(provider.spec, "alpha", None)
    if alpha is None:
        return provider
    return replace(provider, spec=provider.spec.model_copy(update={"alpha": alpha / comparisons}))


def due(plan: VariantPlan, intent: Intent, status: Status, now: float) -> dict[str, list[Metric]]:
    """The metrics to be measured now, by run."""
    if status.killed or status.analysis.get(EPOCH) != status.epoch:
        return {}
    wanted = {}
    for name, run in _compared(plan, intent, status).items():
        if metrics := analysis.due(run, status.analysis[VARIANT + name], now, 0):
            wanted[VARIANT + name] = metrics
    return wanted


def advance(
    plan: VariantPlan,
    intent: Intent,
    status: Status,
    measured: Mapping[str, Sequence[Measured]],
    sample_ratio: str,
    now: float,
) -> Transition | None:
    """The next transition of an experiment at ``now`` (Unix seconds); None when nothing is to be done.

    ``measured`` are measurements by run, ``sample_ratio`` says why the arms do not have the units that they should.
    """
    if status.killed:
        return None
    after = replace(status, analysis=_with_measurements(plan, intent, status, measured, now))
    runs = begun(plan, after).items()
    found = {kind.removeprefix(VARIANT): analysis.outcome(run, after.analysis[kind]) for kind, run in runs}
    for name, version in intent.variants[:-1] if plan.is_taken_away else ():
        outcome, why = found.get(name, (None, ""))
        if outcome is Outcome.FAILED and version != status.stable and version not in status.taken_away:
            return _taken_away(after, name, version, why, now)
    return _told(intent, status, after, _conditions(status, found, sample_ratio))


def begun(plan: VariantPlan, status: Status) -> dict[str, RunPlan]:
    """The runs that were begun, by their keys in ``Status.analysis``."""
    return {VARIANT + name: run for name, run in plan.runs.items() if VARIANT + name in status.analysis}


def _compared(plan: VariantPlan, intent: Intent, status: Status) -> dict[str, RunPlan]:
    """The runs of variants that are served."""
    away = {name for name, _ in variants_away(intent, status)}
    return {name: run for name, run in plan.runs.items() if name not in away}


def _with_measurements(
    plan: VariantPlan, intent: Intent, status: Status, measured: Mapping[str, Sequence[Measured]], now: float
) -> Mapping[str, Any]:
    """The runs of the epoch in force, with what was measured; what is away is not measured, and begins anew."""
    same = status.analysis.get(EPOCH) == status.epoch
    runs: dict[str, Any] = {}
    for name, run in _compared(plan, intent, status).items():
        kind = VARIANT + name
        if not same or kind not in status.analysis:
            runs[kind] = analysis.start(run, now)
            continue
        runs[kind] = analysis.brought_up_to(run, status.analysis[kind], now, 0)
        if new := measured.get(kind):
            runs[kind] = analysis.record(run, runs[kind], new, now)
    return {EPOCH: status.epoch, **runs} if runs else {}


def _taken_away(status: Status, name: str, version: str, why: str, now: float) -> Transition:
    """The variant's units get the control from now on, and a tombstone keeps its version away."""
    message = f"variant {name} (version {version}) was aborted: {why}"
    after = replace(
        status,
        aborted=(*status.aborted, version),
        analysis={},
        phase="Degraded",
        reason="analysis_failed",
        message=message,
    )
    detail = {"variant": name, "version": version, "measurements": status.analysis[VARIANT + name]}
    return Transition(counted_apart(status, after, now), message, detail)


def _conditions(
    status: Status, found: Mapping[str, tuple[Outcome | None, str]], sample_ratio: str
) -> tuple[Mapping[str, Any], ...]:
    """What the runs came to; what was said of it before is not said in other words."""
    new = [
        {"type": f"Analysis{outcome}", "status": "True", "variant": name, "message": f"variant {name}: {why}"}
        for name, (outcome, why) in found.items()
        if outcome is not None
    ]
    if sample_ratio:
        new.append({"type": SAMPLE_RATIO, "status": "True", "variant": "", "message": sample_ratio})
    known = {(one["type"], one.get("variant")): one for one in status.conditions}
    others = [one for one in status.conditions if one["type"] not in EXPERIMENT_CONDITIONS]
    return (*others, *(known.get((one["type"], one["variant"]), one) for one in new))


def _told(
    intent: Intent, status: Status, after: Status, conditions: tuple[Mapping[str, Any], ...]
) -> Transition | None:
    """``after`` with ``conditions`` and the phase that they imply, if any of it is new."""
    told = replace(after, conditions=conditions)
    stands = settled(intent, told, told.reason, told.message)
    if stands.phase == status.phase and conditions == status.conditions:
        return Transition(after, "") if after != status else None
    news = [one["message"] for one in conditions if one not in status.conditions]
    return Transition(stands, "; ".join(news) or stands.message, {"conditions": [one["type"] for one in conditions]})
