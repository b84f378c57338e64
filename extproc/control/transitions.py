"""What each action does to a rollout's status: pure functions, no store and no clock.

Spec is intent, status is truth. A transition takes what the document wants and the status as it stands, and gives the
next status with what to write into history; None means that there is nothing to do, so nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from extproc.assignment import BUCKETS
from extproc.control.intent import Intent, Transition
from extproc.control.status_changes import (
    EXPERIMENT_CONDITIONS,
    at_zero,
    behind_message,
    counted_apart,
    drifts,
    from_the_start,
    going_on,
    is_under_way,
    next_epoch,
    paused,
    ranges_key,
    settled,
    stands_still,
    step_begun,
    together,
    variants_away,
    with_epoch,
    with_other_stable,
    with_stable,
    without_canary,
    without_drift,
)
from extproc.errors import InvalidInput, Refused
from extproc.resources.fields import format_percent
from extproc.snapshot.held import MOST_KILLS
from extproc.store.ports import RAISE_DELAY_SECONDS
from extproc.store.records import Tombstone
from extproc.store.status import Status

MANUAL_PAUSES: Final = frozenset({"paused", "manual_weight"})
"""Reasons of a pause that somebody made by hand; ``resume`` undoes these alone."""

STEP_PAUSES: Final = frozenset({"pause_step", "analysis_inconclusive", "analysis_error"})
"""Reasons of a pause that a step made; to promote is to have done with that step."""

STEP: Final = "step"
"""Key in ``Status.analysis``: the run of the step in force."""

MOST_RESTORED: Final = 64
"""Ids of kills that were ended and are remembered, the newest: so that no host brings one of them back."""

ACCEPTED_EPOCH: Final = "accepted_epoch"
"""Key in ``Status.analysis``: the epoch whose sample ratio somebody has seen and accepted."""


def create(intent: Intent, tombstone: Tombstone, now: float) -> Transition:
    """The first apply adopts; after a delete stable is what it would be without, and what was taken away stays so.

    Epochs and attempts go on from there, the canary's weight begins at 0.
    """
    last = tombstone.last or Status("", attempt=0)
    if not last.stable:
        last = replace(last, stable=intent.stable, spec_stable=intent.stable)
    promised = with_stable(intent, last)
    status = Status(
        stable=promised.stable,
        canary=intent.canary,
        effective_at=now,
        step_at=now,
        epoch=tombstone.epoch + 1,
        previous_epoch=tombstone.epoch + 1,
        attempt=last.attempt + 1,
        aborted=tombstone.aborted,
        tripped=last.tripped,
        killed=last.killed,
        kills=last.kills,
        restored=last.restored,
        spec_stable=promised.spec_stable,
        steps_key=intent.steps,
        conditions=promised.conditions,
    )
    status = settled(intent, status, "adopted", f"version {status.stable} was adopted as stable")
    return Transition(replace(status, ranges_key=ranges_key(intent, status)), "created", _versions(status))


def repair(intent: Intent, tombstone: Tombstone, now: float) -> Transition:
    """A rollout of which nobody can read where it stood: begun anew, and killed until somebody restores it.

    The version that was stable last stays so, whatever the document says; the operator adopts another.
    """
    status = replace(create(intent, tombstone, now).status, killed=True)
    message = "made anew, because it could not be read; killed until restored"
    return Transition(status, message, _versions(status))


def configure(intent: Intent, status: Status, now: float) -> Transition:
    """A document that changed: a canary that moved starts over, a stable that moved is reported and not routed.

    Other steps begin with the first of them, from the weight that there is; a pause that no step made holds on.
    """
    after, message = with_stable(intent, status), "configured"
    if intent.steps != status.steps_key:
        after = replace(after, steps_key=intent.steps)
        if is_under_way(after):
            after, message = _from_the_first_step(after, now), "the steps changed: the first one begins"
    if intent.canary != status.canary:
        kept = tuple(one for one in after.conditions if one["type"] not in EXPERIMENT_CONDITIONS)
        after = from_the_start(replace(after, canary=intent.canary, conditions=kept), now)
        message = f"canary moved from {status.canary or 'none'} to {intent.canary or 'none'}"
        after = settled(intent, after, "canary_moved", message)
    elif intent.experiment or after.stable != status.stable:
        after = settled(intent, after, after.reason, after.message)
    return Transition(with_epoch(intent, status, after, now), message, _versions(after))


def adopt(intent: Intent, status: Status, now: float) -> Transition | None:
    """Take the stable that the document names now, in all workers together; with the control an epoch begins.

    Raises:
        Refused: ``version_aborted``, ``rollout_killed``, when it is the canary, as ``promote_fully`` does.
    """
    if intent.stable == status.stable == status.spec_stable and not drifts(status):
        return None
    if intent.stable == status.canary != status.stable:
        _refuse_for_everybody(intent, status, intent.stable)
    after = with_other_stable(status, intent.stable)
    after = replace(after, spec_stable=intent.stable, conditions=without_drift(after))
    if status.canary == status.stable != intent.stable:  # what was promoted is a canary again
        after = from_the_start(after, now)
    elif intent.stable != status.stable:  # what was measured against another control counts no more
        after = replace(after, analysis={})
    if intent.stable != status.stable:
        after = step_begun(together(status, after, now), now)
    message = f"version {intent.stable} was adopted as stable in place of {status.stable}"
    after = settled(intent, after, "adopted", message)
    return Transition(with_epoch(intent, status, after, now), message, _versions(after))


def set_weight(intent: Intent, status: Status, weight: int, now: float) -> Transition | None:
    """Give the canary ``weight`` hundredths of a percent: a fall at once, a rise when every worker has it.

    A rollout with steps is paused by that, or the next step would undo it; one without has nothing to be paused.

    Raises:
        InvalidInput: ``weight_invalid``.
        Refused: ``not_a_canary_rollout``, ``no_canary``, ``version_aborted``.
    """
    if weight > BUCKETS:
        raise InvalidInput.of("weight_invalid", f"a weight has at most {BUCKETS} hundredths", field="weight")
    canary = _moving_canary(intent, status)
    _refuse_taken_away(intent, status, canary)
    if weight == status.weight:
        return planned_anew(status, now) if status.is_out_of_time(now) else None
    set_ = weighted(intent, status, weight, now)
    if intent.steps:
        return replace(set_, status=paused(set_.status, "manual_weight", set_.message))
    return replace(set_, status=replace(set_.status, phase="Progressing", reason="weight_set"))


def weighted(intent: Intent, status: Status, weight: int, now: float) -> Transition:
    """Another weight than the one there is: a fall is in force now, a rise a moment later."""
    current = status.weight_at(now)
    message = f"weight {format_percent(current)} to {format_percent(weight)}"
    after = replace(
        status, weight=weight, previous_weight=weight, previous_stable="", effective_at=now, reason="weight_set"
    )
    if weight > current:
        after = together(status, after, now)
    after = replace(after, message=message, ranges_key=ranges_key(intent, after))
    return Transition(
        next_epoch(status, after, now), message, {"from": format_percent(current), "to": format_percent(weight)}
    )


def abort(
    intent: Intent,
    status: Status,
    now: float,
    *,
    reason: str = "aborted",
    why: str = "",
    detail: Mapping[str, Any] | None = None,
) -> Transition | None:
    """Take the canary away now. Arms stay as they were drawn, and a tombstone keeps the version away.

    A pending rise is called off, and its epoch with it: a worker that is ahead may have drawn by it already.

    ``detail`` is what history keeps of why, beside the version and its weight.

    Raises:
        Refused: ``not_a_canary_rollout``, ``no_canary``.
    """
    canary = _moving_canary(intent, status)
    if canary in status.aborted:
        return None
    current = status.weight_at(now)
    message = f"version {canary} was aborted at weight {format_percent(current)}" + (f": {why}" if why else "")
    after = replace(
        at_zero(status),
        effective_at=now,
        previous_epoch=status.epoch,
        drawn=current,
        aborted=(*status.aborted, canary),
        phase="Degraded",
        reason=reason,
        message=message,
    )
    after = with_epoch(intent, status, after, now)
    return Transition(after, message, {**(detail or {}), "version": canary, "weight": format_percent(current)})


def retry(intent: Intent, status: Status, now: float) -> Transition:
    """Lift the canary's tombstone, and what a breaker said, and start over; of an experiment, give variants back.

    Raises:
        Refused: ``not_aborted``.
    """
    if intent.experiment and settled(intent, status, "", "").phase == "Degraded":
        return _variants_back(intent, status, now)
    canary = status.canary
    if canary is None or canary not in status.taken_away:
        which = "variant" if intent.experiment else "version"
        message = f"no {which} of {intent.key} waits for a retry, as far as the store was told{_away_for_good(status)}"
        raise Refused.of("not_aborted", message)
    message = f"version {canary} may be tried again, from weight 0"
    after = from_the_start(status, now)
    after = replace(
        after,
        aborted=tuple(version for version in status.aborted if version != canary),
        tripped=tuple(version for version in status.tripped if version != canary),
    )
    after = settled(intent, after, "retried", message)
    after = replace(after, ranges_key=ranges_key(intent, after))
    return Transition(next_epoch(status, after, now, at_once=True), message, {"version": canary})


def _away_for_good(status: Status) -> str:
    """Which versions were taken away that a retry would not give back: the document does not name them any more."""
    how = dict.fromkeys(status.tripped, "tripped") | dict.fromkeys(status.aborted, "aborted")
    away = sorted(how.keys() - {status.stable})
    return "".join(f"; version {version} is {how[version]}, but not in the document" for version in away)


def pause(intent: Intent, status: Status) -> Transition | None:
    """Stay where the rollout is until it is resumed; what watches over it goes on.

    What stands still already does so for its own reason, so that to resume it does not overrule that.

    Raises:
        Refused: ``not_a_canary_rollout``, ``no_canary``, ``version_aborted``.
    """
    _refuse_over(intent, status)
    if stands_still(status):
        return None
    message = "paused by hand"
    return Transition(paused(status, "paused", message), message)


def resume(intent: Intent, status: Status, now: float) -> Transition:
    """Undo a pause by hand; a timed step begins anew.

    Raises:
        Refused: ``not_a_canary_rollout``, ``no_canary``, ``version_aborted``, ``not_paused``.
    """
    _refuse_over(intent, status)
    if status.phase != "Paused" or status.reason not in MANUAL_PAUSES:
        if status.phase != "Paused":
            raise Refused.of("not_paused", f"{intent.key} is not paused, so there is nothing to resume")
        raise Refused.of(
            "not_paused",
            f"{intent.key} was not paused by hand, but waits ({status.reason}); `dropout rollout promote` ends that",
        )
    message = "resumed"
    return Transition(going_on(status, now, "resumed", message), message)


def promote(intent: Intent, status: Status, now: float, without: Sequence[str] = ()) -> Transition | None:
    """End the pause that the rollout is in, whatever it waits for, and go on with the next step.

    What paused it is taken note of: a step's measurements begin anew, and a sample ratio that was off is accepted for
    the epoch. Observers on hosts ``without`` which it is to go on are not waited for in this attempt; given some, there
    need not be a pause.

    Raises:
        Refused: ``not_a_canary_rollout``, ``no_canary``, ``version_aborted``, ``not_paused``.
    """
    _refuse_over(intent, status)
    status, before = not_waiting_for(status, without), status
    going_without = f"it goes on without the observers on {', '.join(status.without)}" if without else ""
    if status.phase != "Paused" and without:
        return Transition(status, going_without, {"without": list(without)}) if status != before else None
    if status.phase != "Paused":
        raise Refused.of("not_paused", f"{intent.key} is not paused; `promote --full` makes its canary stable now")
    done = status.reason in STEP_PAUSES
    what = f"step {status.step}" if done else f"the pause at step {status.step}"
    message = f"{what} was ended by hand ({status.reason})" + (f"; {going_without}" if going_without else "")
    after = replace(going_on(status, now, "promoted", message), step=status.step + done)
    runs = _runs_beside_the_step(status)
    if status.reason == "sample_ratio_mismatch":
        runs[ACCEPTED_EPOCH] = status.epoch
    detail: dict[str, Any] = {"step": status.step, **({"without": list(without)} if without else {})}
    return Transition(replace(after, analysis=runs), message, detail)


def not_waiting_for(status: Status, hosts: Sequence[str]) -> Status:
    """The status of an attempt that does not wait for the observers on ``hosts``."""
    return replace(status, without=tuple(dict.fromkeys((*status.without, *hosts))))


def promote_fully(
    intent: Intent,
    status: Status,
    steps: int,
    now: float,
    *,
    why: str = "promoted by hand",
    without: Sequence[str] = (),
) -> Transition:
    """Make the canary stable, in all workers together; ``steps`` is the number of steps, all of which are done so.

    Observers on hosts ``without`` which it is done are not waited for.

    Raises:
        Refused: ``not_a_canary_rollout``, ``no_canary``, ``version_aborted``, ``rollout_killed``.
    """
    canary = _moving_canary(intent, status)
    _refuse_for_everybody(intent, status, canary)
    message = f"version {canary} is stable in place of {status.stable}: {why}"
    message += f", without the observers on {', '.join(without)}" if without else ""
    after = replace(
        with_other_stable(at_zero(not_waiting_for(status, without)), canary),
        previous={"stable": status.stable, "at": now, "attempt": status.attempt},
        drawn=0,
        step=steps,
        step_at=now,
        phase="Healthy",
        reason="promoted",
        message=message,
    )
    after = with_stable(intent, after)
    if behind := behind_message(after):  # told once; from then on the condition says it
        message += f"; {behind}"
    after = with_epoch(intent, status, together(status, after, now), now)
    detail: dict[str, Any] = {"stable": canary, "before": status.stable}
    return Transition(after, message, {**detail, **({"without": list(without)} if without else {})})


def trip(
    intent: Intent, status: Status, version: str, attempt: int, why: str, now: float, at: float = 0.0
) -> Transition | None:
    """A breaker's word, of ``at`` (Unix seconds), on a canary or a variant.

    What was said of an earlier attempt is void, and so is what was said of a variant before it was lifted.
    """
    if attempt != status.attempt or version == status.stable or version in status.taken_away:
        return None
    known = at > status.lifted.get(version, -1.0) if intent.experiment else version == status.canary
    if not known:
        return None
    names = [name for name, of_variant in intent.variants if of_variant == version]
    which = f"variant {', '.join(names)} (version {version})" if names else f"version {version}"
    message = f"{which} was tripped: {why}"
    phase = "Degraded" if intent.experiment else status.phase
    after = replace(status, tripped=(*status.tripped, version), phase=phase, reason="breaker_open", message=message)
    return Transition(counted_apart(status, after, now), message, {"version": version})


def planned_anew(status: Status, now: float) -> Transition:
    """A rise that was planned before the clock was set back: it comes now, in all workers together."""
    due = now + RAISE_DELAY_SECONDS
    step_at = due if status.step_at == status.effective_at else status.step_at
    message = "the clock was set back: what was to come is planned anew"
    return Transition(replace(status, effective_at=due, step_at=step_at), message)


def lift(intent: Intent, status: Status, version: str, attempt: int, at: float, now: float) -> Transition | None:
    """A variant whose probe went well at ``at`` (Unix seconds) is served again, by every host."""
    if not intent.experiment or attempt != status.attempt or version not in status.tripped:
        return None
    message = f"version {version} is served again: its probe went well"
    after = replace(
        status,
        tripped=tuple(other for other in status.tripped if other != version),
        lifted={**status.lifted, version: at},
    )
    after = counted_apart(status, settled(intent, after, "", ""), now)
    return Transition(after, message, {"version": version})


def _variants_back(intent: Intent, status: Status, now: float) -> Transition:
    """Another attempt for all variants, in an epoch of its own; who is in which arm stays as it is."""
    away = dict.fromkeys(version for _, version in variants_away(intent, status))
    what = f"version{'s' if len(away) > 1 else ''} {', '.join(away)}" if away else "the experiment"
    message = f"{what} may be tried again"
    after = replace(
        status,
        aborted=tuple(version for version in status.aborted if version not in away),
        tripped=(),
        lifted={},
        attempt=status.attempt + 1,
        analysis={},
        conditions=tuple(one for one in status.conditions if one["type"] not in EXPERIMENT_CONDITIONS),
    )
    after = next_epoch(status, settled(intent, after, "", ""), now)
    return Transition(after, message, {"versions": list(away)})


def kill(status: Status, now: float, kill_id: str = "") -> Transition | None:
    """Leave only stable, at once; arms stay as they are drawn, in an epoch of their own.

    Each counts beside those that there are, by its id: whatever ends another one does not end it. One that was ended
    before it came here counts no more.
    """
    if kill_id in (*status.kills, *status.restored):
        return None
    if status.killed and (not kill_id or len(status.kills) >= MOST_KILLS):
        return None
    kills = (*status.kills, *([kill_id] if kill_id else []))
    message = "killed: only stable is served"
    after = counted_apart(status, replace(status, killed=True, kills=kills), now)
    return Transition(after, message, {"kill": kill_id} if kill_id else {})


def end_kill(status: Status, kill_id: str, now: float) -> Transition | None:
    """One kill is over, which a host held by itself; the others stand."""
    if kill_id in status.restored:
        return None
    if status.kills == (kill_id,):
        return restore(status, now)
    after = replace(
        status,
        kills=tuple(other for other in status.kills if other != kill_id),
        restored=(*status.restored, kill_id)[-MOST_RESTORED:],
    )
    return Transition(after, f"the kill {kill_id} was ended", {"kills": [kill_id]})


def restore(status: Status, now: float, held: Sequence[str] = ()) -> Transition | None:
    """Undo every kill, those too that hosts ``held`` by themselves (their ids).

    A canary's weight rises again from 0, in all workers together, and its step begins anew.
    """
    ended = tuple(dict.fromkeys((*status.kills, *held)))
    if not status.killed and not ended:
        return None
    message = "restored"
    after = replace(status, killed=False, kills=(), restored=(*status.restored, *ended)[-MOST_RESTORED:])
    if status.weight:
        after = replace(after, previous_weight=0, previous_stable="", effective_at=now + RAISE_DELAY_SECONDS)
        message = f"restored: weight {format_percent(status.weight)}"
    after = next_epoch(status, after, now, at_once=True)
    return Transition(step_begun(after, now), message, {"kills": list(ended)} if ended else {})


def _from_the_first_step(status: Status, now: float) -> Status:
    """What is under way, with other steps. What holds it back beside them, a doubt or a trip, still does."""
    after = replace(step_begun(status, now), step=0, analysis=_runs_beside_the_step(status))
    held = status.canary in status.tripped or (stands_still(status) and status.reason not in STEP_PAUSES)
    return after if held else going_on(after, now, "steps_changed", "the steps changed")


def _runs_beside_the_step(status: Status) -> dict[str, Any]:
    """What of ``Status.analysis`` outlasts the step."""
    return {kind: run for kind, run in status.analysis.items() if kind != STEP}


def _refuse_for_everybody(intent: Intent, status: Status, canary: str) -> None:
    _refuse_taken_away(intent, status, canary)
    if status.killed:  # stable is what a kill leaves: everybody would get what nobody was to get
        raise Refused.of("rollout_killed", f"{intent.key} was killed; restore it first")


def _refuse_taken_away(intent: Intent, status: Status, canary: str) -> None:
    if canary in status.taken_away:
        how = "aborted" if canary in status.aborted else "tripped by the breaker"
        raise Refused.of("version_aborted", f"version {canary} of {intent.key} was {how}; retry it first")


def _refuse_over(intent: Intent, status: Status) -> None:
    """Refuse what makes sense for a canary that is neither stable nor taken away: any other is under way."""
    _refuse_taken_away(intent, status, _moving_canary(intent, status))


def _moving_canary(intent: Intent, status: Status) -> str:
    if status.canary is None:
        raise Refused.of("not_a_canary_rollout", without_canary(intent))
    if status.canary == status.stable:
        way_out = f"; `dropout rollout undo {intent.key}` takes its promotion back" if status.previous else ""
        raise Refused.of("no_canary", f"version {status.canary} of {intent.key} is stable already{way_out}")
    return status.canary


def _versions(status: Status) -> dict[str, Any]:
    return {"stable": status.stable, "canary": status.canary, "epoch": status.epoch}
