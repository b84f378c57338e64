"""``shadow``: copies of requests go to the canary, which answers nobody, until the next ``setWeight``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from extproc.control.intent import Transition
from extproc.control.steps.step import InForce, Reach, done, waiting
from extproc.resources.fields import format_percent
from extproc.resources.steps import ShadowStep


@dataclass(frozen=True, slots=True)
class ShadowKind:
    """Done at once."""

    step: ShadowStep

    @property
    def summary(self) -> str:
        return f"shadow {format_percent(self.step.shadow.percent)}"

    @property
    def own_time(self) -> bool:
        return False

    @property
    def reach(self) -> Reach:
        return Reach(shadow=self.step.shadow.percent)

    def advance(self, at: InForce) -> Transition | None:
        percent = self.step.shadow.percent
        if percent > at.status.shadow and at.gate is not None:
            return waiting(at.status, *at.gate)
        message = f"{format_percent(percent)} percent of the units' requests are mirrored"
        return done(replace(at.status, shadow=percent), "shadow_set", message, at.now)
