"""``pause``: nothing moves for a while, or until somebody promotes."""

from __future__ import annotations

from dataclasses import dataclass

from extproc.control.intent import Transition
from extproc.control.status_changes import paused
from extproc.control.steps.step import InForce, Reach, done
from extproc.resources.fields import format_duration
from extproc.resources.steps import PauseStep


@dataclass(frozen=True, slots=True)
class PauseKind:
    """The rollout is Paused while it lasts."""

    step: PauseStep

    @property
    def summary(self) -> str:
        duration = self.step.pause.duration
        return f"pause {format_duration(duration)}" if duration is not None else "pause"

    @property
    def own_time(self) -> bool:
        return True

    @property
    def reach(self) -> Reach:
        return Reach(waits=self.step.pause.duration is None)

    def advance(self, at: InForce) -> Transition | None:
        status, duration = at.status, self.step.pause.duration
        if status.phase != "Paused":
            how_long = f"for {format_duration(duration)}" if duration is not None else "until promoted"
            message = f"paused by step {status.step} {how_long}"
            return Transition(paused(status, "pause_step", message), message)
        if duration is None or at.in_step < duration:
            return None
        return done(status, "pause_over", f"the pause of step {status.step} is over", at.now)
