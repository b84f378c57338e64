"""What a step of any kind is asked, and the transitions that several kinds have in common. Pure: no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from extproc.control.analysis.runs import RunPlan
from extproc.control.intent import Intent, Transition
from extproc.control.status_changes import going_on, is_overdue, overdue
from extproc.store.status import Status

Gate = tuple[str, str] | None
"""Why the canary gets no more for now: the reason, and in words."""


@dataclass(frozen=True, slots=True)
class InForce:
    """Where a rollout stands whose step is in force, at ``now`` (Unix seconds).

    ``in_step`` are the seconds that it has been so, ``run`` is what the step measures, if it does.
    """

    intent: Intent
    status: Status
    gate: Gate
    in_step: float
    run: RunPlan | None
    now: float


class Reach(NamedTuple):
    """What a step gives: a weight and a share of copies, in hundredths of a percent.

    ``waits``: what comes after it needs somebody's word.
    """

    weight: int = 0
    shadow: int = 0
    waits: bool = False


class StepKind(Protocol):
    """A step, and all that its kind decides."""

    @property
    def summary(self) -> str:
        """The step in a word or two, as lists of steps have it."""
        ...

    @property
    def own_time(self) -> bool:
        """Whether it says by itself how long it takes, or waits for somebody: no progressDeadline counts meanwhile."""
        ...

    @property
    def reach(self) -> Reach:
        """What it gives when it is done."""
        ...

    def advance(self, at: InForce) -> Transition | None:
        """Do it, wait, or go on to the next; None when nothing is to be done yet. Pure and total."""
        ...


def done(status: Status, reason: str, message: str, now: float) -> Transition:
    """The step is done. The next one counts from now, or from when a pending rise is due."""
    after = going_on(status, now, reason, message)
    return Transition(replace(after, step=status.step + 1), message, {"step": status.step})


def waiting(status: Status, reason: str, why: str) -> Transition | None:
    """More than could be served, or than is allowed, is not given: the rollout waits, and says why, once."""
    after = overdue(status, why) if is_overdue(status) else replace(status, reason=reason, message=why)
    return Transition(after, f"waits: {why}") if after != status else None
