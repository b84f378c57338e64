"""What all transitions of a status have in common: its epochs, its start from weight 0, its stable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson
from xxhash import xxh64_hexdigest

from extproc.clock import Clock
from extproc.control.intent import Intent
from extproc.store.ports import RAISE_DELAY_SECONDS
from extproc.store.status import Status, kept_away

STABLE_DRIFT: Final = "StableDrift"
"""The condition of a rollout whose spec.stable names another version than the one that was adopted."""

SPEC_BEHIND: Final = "SpecBehind"
"""The condition of a rollout whose document still names what its last promotion replaced."""

STABLE_TRIPPED: Final = "StableTripped"
"""The condition of a rollout whose stable version was tripped, when that could not undo its promotion."""


PROGRESS_DEADLINE: Final = "ProgressDeadlineExceeded"
"""The condition of a rollout that has neither moved nor waited for a person for its progressDeadline."""

OVERDUE: Final = "progress_deadline_exceeded"
"""The reason that such a rollout is Degraded for, or aborted."""

UNDELIVERED: Final = "Undelivered"
"""The condition of a rollout under way while a proxy does not have the routes that were rendered last."""

METRIC_OVERDUE: Final = "MetricOverdue"
"""The condition of a rollout while a metric that may decide should have been measured and was not."""

UNMET: Final = "Unmet"
"""The condition of a rollout that asks for something that a ``serve`` does not have."""

FEATURES_STALE: Final = "FeaturesStale"
"""The condition of a rollout that reads a view of which a ``serve`` finds too much too old."""

TOLD: Final = frozenset({UNDELIVERED, METRIC_OVERDUE, UNMET, FEATURES_STALE})
"""Conditions that say what is so at the moment, and are taken away when it is not, whatever became of the rollout."""

SAMPLE_RATIO: Final = "SampleRatioMismatch"
"""The condition of an experiment whose arms do not have the units that they should."""

EXPERIMENT_FAULTS: Final = {"AnalysisFailed": "analysis_failed", SAMPLE_RATIO: "sample_ratio_mismatch"}
"""Conditions of an experiment that make it Degraded, and the reason that it has then, the worst first."""

EXPERIMENT_CONDITIONS: Final = frozenset(
    {*EXPERIMENT_FAULTS, "AnalysisSuccessful", "AnalysisInconclusive", "AnalysisError"}
)
"""All conditions that only an experiment has: what became of the analysis of a variant, and whether the split holds."""

_LIVE: Final = "the experiment is live"


def is_under_way(status: Status) -> bool:
    """Whether there is a canary that was neither promoted nor aborted."""
    goes_on = status.phase in ("Progressing", "Paused") or is_overdue(status)
    return status.canary not in (None, status.stable) and goes_on


def stands_still(status: Status) -> bool:
    """Whether it is paused by more than the time of a step: only somebody's word makes it go on."""
    return status.phase == "Paused" and status.reason != "pause_step"


def paused(status: Status, reason: str, message: str) -> Status:
    """The status that waits for somebody's word, or for the time of a pause."""
    return replace(_in_time(status), phase="Paused", reason=reason, message=message)


def is_overdue(status: Status) -> bool:
    """Whether what is under way is Degraded, because nothing moves; it goes on when something does."""
    return _has(status, PROGRESS_DEADLINE)


def overdue(status: Status, why: str) -> Status:
    """The status that is so; ``why`` is what it waits for, empty if nobody can say."""
    message = "nothing has moved for longer than progressDeadline" + (f": {why}" if why else "")
    condition = {"type": PROGRESS_DEADLINE, "status": "True", "message": message}
    conditions = (*_without(status, PROGRESS_DEADLINE), condition)
    return replace(status, phase="Degraded", reason=OVERDUE, message=message, conditions=conditions)


def _in_time(status: Status) -> Status:
    """The status that has its whole progressDeadline again."""
    if not is_overdue(status):
        return status
    message = "the time of its progressDeadline begins anew"
    conditions = _without(status, PROGRESS_DEADLINE)
    return replace(status, phase="Progressing", reason="step_begun", message=message, conditions=conditions)


def step_begun(status: Status, now: float) -> Status:
    """The status whose step's time counts from now, or from when a pending rise is due."""
    return replace(_in_time(status), step_at=status.effective_at if status.is_pending(now) else now)


def going_on(status: Status, now: float, reason: str, message: str) -> Status:
    """The status under way again, with its step begun anew."""
    return replace(step_begun(status, now), phase="Progressing", reason=reason, message=message)


def settled(intent: Intent, status: Status, reason: str, message: str) -> Status:
    """The status with the phase that its versions imply; ``reason`` is why it progresses, if it does.

    What is paused stays so, for the reason that it was paused for.
    """
    if intent.experiment:
        reason, message = _of_experiment(intent, status)
        return replace(status, phase="Degraded" if message else "Healthy", reason=reason, message=message or _LIVE)
    if status.canary is None:
        return replace(status, phase="Healthy", reason="live", message=f"version {status.stable} is stable")
    if status.canary == status.stable:
        message = f"version {status.canary} is stable"
        return replace(at_zero(status), phase="Healthy", reason="canary_is_stable", message=message)
    if status.canary in status.aborted:
        message = f"version {status.canary} was aborted; `dropout rollout retry {intent.key}` lifts that"
        return replace(at_zero(status), phase="Degraded", reason="aborted", message=message)
    if status.phase == "Paused":
        return status
    return replace(status, phase="Progressing", reason=reason, message=message)


def without_canary(intent: Intent) -> str:
    """Why what is done to a canary cannot be done here, and what can be."""
    if not intent.experiment:
        return f"{intent.key} has no canary; give its document one, and apply it"
    return (
        f"{intent.key} is an experiment, which has variants and no canary: "
        f"change their weights or coverage in its document and apply it; `dropout kill {intent.key}` leaves only the "
        f"control, `dropout restore {intent.key}` ends that, and `dropout rollout retry {intent.key}` gives back a "
        "variant that was taken away"
    )


def variants_away(intent: Intent, status: Status) -> list[tuple[str, str]]:
    """The variants of an experiment, each with its version, whose units get the control in its place."""
    away = status.taken_away - {status.stable}
    return [(name, version) for name, version in intent.variants if version in away]


def _of_experiment(intent: Intent, status: Status) -> tuple[str, str]:
    """Why an experiment is not as its document wants it: the reason, and in words; no words if it is."""
    if away := variants_away(intent, status):
        how = dict.fromkeys(status.tripped, "tripped") | dict.fromkeys(status.aborted, "aborted")
        which = "; ".join(f"variant {name} (version {version}) was {how[version]}" for name, version in away)
        reason = "aborted" if any(version in status.aborted for _, version in away) else "breaker_open"
        return reason, f"{which}: the control is served in its place; `dropout rollout retry {intent.key}` lifts that"
    for kind, reason in EXPERIMENT_FAULTS.items():
        found = [condition["message"] for condition in status.conditions if condition["type"] == kind]
        if found:
            return reason, "; ".join(found)
    return "live", ""


def at_zero(status: Status) -> Status:
    """The status without anything that the canary gets, and with no measurement under way."""
    return replace(_in_time(status), weight=0, previous_weight=0, previous_stable="", shadow=0, analysis={})


def from_the_start(status: Status, now: float) -> Status:
    """The status before the first step, for another attempt."""
    return replace(
        at_zero(status),
        effective_at=now,
        drawn=0,
        step=0,
        step_at=now,
        attempt=status.attempt + 1,
        without=(),
        phase="Progressing",
    )


def with_stable(intent: Intent, status: Status) -> Status:
    """The status with what spec.stable means for it: live, agreeing with what was adopted, or drifted.

    What was promoted before the canary left the document stays stable, whatever is edited, until an operator adopts. So
    does stable where the other version was taken away, or the rollout killed: no edit gives that one to everybody. Nor
    does the end of the kill: a drift ends when an operator adopts, or the document names again what is stable.
    """
    taken = status.killed or intent.stable in status.taken_away
    takes_edits = intent.experiment or (status.canary is None and status.stable == status.spec_stable)
    live = takes_edits and not taken and not drifts(status)
    if live or intent.stable == status.stable:
        after = with_other_stable(status, intent.stable)
        return replace(after, spec_stable=intent.stable, conditions=without_drift(after))
    if intent.stable == status.spec_stable and not intent.experiment:
        behind = {"type": SPEC_BEHIND, "status": "True", "message": _behind(intent, status)}
        return replace(status, conditions=(*without_drift(status), behind))
    drift = {
        "type": STABLE_DRIFT,
        "status": "True",
        "message": f"spec.stable is version {intent.stable} now; version {status.stable} stays stable until "
        f"`dropout rollout adopt {intent.key}`",
    }
    return replace(status, conditions=(*without_drift(status), drift))


def with_other_stable(status: Status, stable: str) -> Status:
    """The status with ``stable``; what was said of another one before is over."""
    if stable == status.stable:
        return status
    return replace(status, stable=stable, previous={}, conditions=_without(status, STABLE_TRIPPED))


def drifts(status: Status) -> bool:
    """Whether the document wants another stable than the one that was adopted."""
    return _has(status, STABLE_DRIFT)


def without_drift(status: Status) -> tuple[Mapping[str, Any], ...]:
    """The conditions but for what is said of a document that names another stable than there is."""
    return tuple(one for one in status.conditions if one["type"] not in (STABLE_DRIFT, SPEC_BEHIND))


def behind_message(status: Status) -> str:
    """That the document names what was replaced, and the way out; empty if it does not."""
    return "".join(one["message"] for one in status.conditions if one["type"] == SPEC_BEHIND)


def other_stable(status: Status) -> Mapping[str, Any] | None:
    """The condition that the document names another stable than there is; None if it does not."""
    return next((one for one in status.conditions if one["type"] in (STABLE_DRIFT, SPEC_BEHIND)), None)


def _behind(intent: Intent, status: Status) -> str:
    return (
        f"the document still names version {intent.stable} as stable; "
        f"`dropout get rollout {intent.key} --as-served` prints it with version {status.stable}"
    )


def _has(status: Status, condition: str) -> bool:
    return any(one["type"] == condition for one in status.conditions)


def _without(status: Status, condition: str) -> tuple[Mapping[str, Any], ...]:
    return tuple(one for one in status.conditions if one["type"] != condition)


def ranges_key(intent: Intent, status: Status) -> str:
    """A fingerprint of what decides who is in which arm, and which versions the arms are."""
    weight = status.drawn if status.canary in status.aborted else status.weight
    return xxh64_hexdigest(orjson.dumps([intent.assignment, status.stable, status.canary, weight]))


def with_epoch(intent: Intent, before: Status, after: Status, now: float) -> Status:
    """``after`` in an epoch of its own if its ranges, or what is kept away from them, are not those of ``before``."""
    key = ranges_key(intent, after)
    if key == before.ranges_key:
        return counted_apart(before, after, now)
    return next_epoch(before, replace(after, ranges_key=key), now, at_once=not after.previous_stable)


def counted_apart(before: Status, after: Status, now: float) -> Status:
    """``after`` in an epoch of its own if it keeps other versions away than ``before``.

    An arm whose version is taken away, or given back, is served by another one from now on: what is counted of it, and
    of those that it is compared with, is of another time.
    """
    if kept_away(before) == kept_away(after):
        return after
    return next_epoch(before, after, now, at_once=True)


def together(before: Status, after: Status, now: float) -> Status:
    """``after``, a rise or another stable, from when every worker has it: until then what ``before`` gave is in force.

    If each worker took it over when it saw it, a unit that meets two of them would change sides twice.
    """
    stable = before.stable_at(now)
    return replace(
        after,
        previous_stable=stable if stable != after.stable else "",
        previous_weight=before.weight_at(now),
        effective_at=now + RAISE_DELAY_SECONDS,
    )


def overlaps(before: Status, after: Status, now: float) -> bool:
    """Whether ``after`` plans a rise while one of ``before`` is still to come.

    Workers that have the first in force already would go back to what was before it until the second is due: so a rise
    waits for the one before. One that lies too far ahead is waited for by nobody: it is replaced.
    """
    waits = before.is_pending(now) and not before.is_out_of_time(now)
    return waits and after.is_pending(now) and after.effective_at != before.effective_at


def arrived(status: Status, now: float) -> Status:
    """The status without what was in force before a rise that has come: no clock that is set back brings it again."""
    if status.is_pending(now):
        return status
    return replace(status, previous_weight=status.weight, previous_stable="", previous_epoch=status.epoch)


def next_epoch(before: Status, after: Status, now: float, *, at_once: bool = False) -> Status:
    """``after`` in a new epoch; ``at_once``: what holds until a pending rise is new too, and gets one of its own."""
    if not after.is_pending(now):
        return replace(after, epoch=before.epoch + 1, previous_epoch=before.epoch + 1)
    if at_once:
        return replace(after, epoch=before.epoch + 2, previous_epoch=before.epoch + 1)
    return replace(after, epoch=before.epoch + 1, previous_epoch=before.epoch_at(now))


def from_commit_on(now: float, clock: Clock) -> Callable[[Status], Status]:
    """What a ``Write`` of a transition made at ``now`` does at its commit: count a rise from there.

    A rise falls due so long after its commit, not after it began to wait for the store's lock; a step that begins
    with it begins with it then, too.
    """

    def at_commit(status: Status) -> Status:
        if not status.is_pending(now):
            return status
        due = clock.now() + status.effective_at - now
        step_at = due if status.step_at == status.effective_at else status.step_at
        return replace(status, effective_at=due, step_at=step_at)

    return at_commit
