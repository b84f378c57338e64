"""``setWeight``: the canary serves another share of the units from here on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from extproc.control import transitions
from extproc.control.intent import Transition
from extproc.control.steps.step import InForce, Reach, done, waiting
from extproc.resources.fields import format_percent
from extproc.resources.steps import SetWeightStep


@dataclass(frozen=True, slots=True)
class SetWeightKind:
    """Done at once; a shadow step before is over by it, because the canary serves."""

    step: SetWeightStep

    @property
    def summary(self) -> str:
        return f"setWeight {format_percent(self.step.set_weight)}"

    @property
    def own_time(self) -> bool:
        return False

    @property
    def reach(self) -> Reach:
        return Reach(weight=self.step.set_weight)

    def advance(self, at: InForce) -> Transition | None:
        status, weight = at.status, self.step.set_weight
        if weight > status.weight and at.gate is not None:
            return waiting(status, *at.gate)
        status = replace(status, shadow=0)
        if weight == status.weight:
            return done(status, "weight_set", f"the weight is {format_percent(weight)} already", at.now)
        set_ = transitions.weighted(at.intent, status, weight, at.now)
        moved = done(set_.status, "weight_set", set_.message, at.now)
        return replace(moved, detail={**moved.detail, **set_.detail})
