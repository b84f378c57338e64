"""What becomes of a promotion that was wrong: undone by hand, or by a trip that came too late to prevent it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from extproc.control.intent import Intent, Transition
from extproc.control.status_changes import (
    STABLE_TRIPPED,
    at_zero,
    settled,
    step_begun,
    with_epoch,
    with_other_stable,
    with_stable,
    without_canary,
)
from extproc.errors import Refused
from extproc.store.status import Status

UNDO_SECONDS: Final = 600.0
"""A trip of what was promoted undoes the promotion if it happened before it, or within as long after it."""

LATE_SECONDS: Final = 3600.0
"""A trip that is heard of so long after the promotion undoes nothing: others had that version all the while."""


_WITHOUT_CANARY: Final = "the document names no canary any more, so it alone says what is stable"


def undo(intent: Intent, status: Status, now: float, *, reason: str = "undone", why: str = "by hand") -> Transition:
    """Make stable again, at once, what the last promotion replaced; a tombstone keeps away what was promoted.

    Another canary that is under way goes on, against the other stable.

    Raises:
        Refused: ``nothing_to_undo``.
    """
    if intent.experiment:
        raise Refused.of("nothing_to_undo", without_canary(intent))
    if not status.previous or status.canary is None:  # without a canary the document alone says what is stable
        raise Refused.of("nothing_to_undo", f"{intent.key} has no promotion that could be undone")
    promoted, before = status.stable, str(status.previous["stable"])
    message = f"version {before} is stable again in place of {promoted}: {why}"
    aborted = (*(version for version in status.aborted if version != promoted), promoted)
    after = replace(with_other_stable(status, before), spec_stable=before, aborted=aborted)
    if status.canary == promoted:
        after = replace(
            at_zero(after), drawn=0, effective_at=now, step_at=now, phase="Degraded", reason=reason, message=message
        )
    else:  # what was measured against another control counts no more
        after = settled(intent, replace(step_begun(after, now), analysis={}), status.reason, status.message)
    after = with_epoch(intent, status, with_stable(intent, after), now)
    return Transition(after, message, {"stable": before, "before": promoted})


def trip_of_stable(
    intent: Intent, status: Status, attempt: int, why: str, at: float, now: float, *, hindrance: str = ""
) -> Transition | None:
    """A breaker's word, of ``at`` (Unix seconds), on the version that is stable by now. It is never dropped.

    It undoes the promotion that it came too late for, unless ``hindrance`` says why what was replaced cannot take
    over, or the document has no canary any more. In any other case it is a condition for somebody to look at: a good
    stable is not taken away by old news.
    """
    promoted_at = status.previous.get("at")
    if intent.experiment or attempt != status.previous.get("attempt", status.attempt):
        return None
    seen = f"version {status.stable} was tripped: {why}"
    in_time = promoted_at is not None and at <= promoted_at + UNDO_SECONDS and now <= promoted_at + LATE_SECONDS
    if status.canary is None:
        hindrance = hindrance or _WITHOUT_CANARY
    if in_time and not hindrance:
        return undo(intent, status, now, reason="breaker_open", why=seen)
    if any(condition["type"] == STABLE_TRIPPED for condition in status.conditions):
        return None
    message = f"stable {seen}" + (f"; version {status.previous['stable']} stays away: {hindrance}" if in_time else "")
    condition = {"type": STABLE_TRIPPED, "status": "True", "message": message}
    return Transition(
        replace(status, conditions=(condition, *status.conditions)), message, {"version": status.stable, "at": at}
    )
