"""What all transitions of a status have in common: its epochs, its start from weight 0, its stable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson
from xxhash import xxh64_hexdigest

from extproc.clock import Clock
from extproc.control.intent import Intent
from extproc.snapshot.store import RAISE_DELAY_SECONDS, Status

STABLE_DRIFT: Final = "StableDrift"
"""The condition of a rollout whose spec.stable names another version than the one that was adopted."""

STABLE_TRIPPED: Final = "StableTripped"
"""The condition of a rollout whose stable version was tripped, when that could not undo its promotion."""


def is_under_way(status: Status) -> bool:
    """Whether there is a canary that was neither promoted nor aborted."""
    return status.canary not in (None, status.stable) and status.phase in ("Progressing", "Paused")


def stands_still(status: Status) -> bool:
    """Whether it is paused by more than the time of a step: only somebody's word makes it go on."""
    return status.phase == "Paused" and status.reason != "pause_step"


def step_begun(status: Status, now: float) -> Status:
    """The status whose step's time counts from now, or from when a pending rise is due."""
    return replace(status, step_at=status.effective_at if status.is_pending(now) else now)


def going_on(status: Status, now: float, reason: str, message: str) -> Status:
    """The status under way again, with its step begun anew."""
    return replace(step_begun(status, now), phase="Progressing", reason=reason, message=message)


def settled(intent: Intent, status: Status, reason: str, message: str) -> Status:
    """The status with the phase that its versions imply; ``reason`` is why it progresses, if it does.

    What is paused stays so, for the reason that it was paused for.
    """
    if status.canary is None:
        what = "experiment" if intent.experiment else "shadow"
        return replace(status, phase="Healthy", reason="live", message=f"the {what} is live")
    if status.canary == status.stable:
        message = f"version {status.canary} is stable"
        return replace(at_zero(status), phase="Healthy", reason="canary_is_stable", message=message)
    if status.canary in status.aborted:
        message = f"version {status.canary} was aborted; `dropout rollout retry {intent.key}` lifts that"
        return replace(at_zero(status), phase="Degraded", reason="aborted", message=message)
    if status.phase == "Paused":
        return status
    return replace(status, phase="Progressing", reason=reason, message=message)


def at_zero(status: Status) -> Status:
    """The status without anything that the canary gets, and with no measurement under way."""
    return replace(status, weight=0, previous_weight=0, previous_stable="", shadow=0, analysis={})


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
    does stable where the other version was taken away, or the rollout killed: no edit gives that one to everybody.
    """
    adopted = status.stable == status.spec_stable and not drifts(status)
    taken = status.killed or intent.stable in (*status.aborted, *status.tripped)
    live = not taken and (intent.experiment or (status.canary is None and adopted))
    if live or intent.stable == status.stable:
        after = with_other_stable(status, intent.stable)
        return replace(after, spec_stable=intent.stable, conditions=without_drift(after))
    if intent.stable == status.spec_stable:
        return replace(status, conditions=without_drift(status))
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
    conditions = tuple(condition for condition in status.conditions if condition["type"] != STABLE_TRIPPED)
    return replace(status, stable=stable, previous={}, conditions=conditions)


def drifts(status: Status) -> bool:
    """Whether the document wants another stable than the one that was adopted."""
    return any(condition["type"] == STABLE_DRIFT for condition in status.conditions)


def without_drift(status: Status) -> tuple[Mapping[str, Any], ...]:
    """The conditions but for that one."""
    return tuple(condition for condition in status.conditions if condition["type"] != STABLE_DRIFT)


def ranges_key(intent: Intent, status: Status) -> str:
    """A fingerprint of what decides who is in which arm, and which versions the arms are."""
    weight = status.drawn if status.canary in status.aborted else status.weight
    return xxh64_hexdigest(orjson.dumps([intent.draw, status.stable, status.canary, weight]))


def with_epoch(intent: Intent, before: Status, after: Status, now: float) -> Status:
    """``after`` in an epoch of its own if its ranges are not those of ``before``."""
    key = ranges_key(intent, after)
    if key == before.ranges_key:
        return after
    return next_epoch(before, replace(after, ranges_key=key), now, at_once=not after.previous_stable)


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
