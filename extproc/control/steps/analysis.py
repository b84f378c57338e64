"""``analysis``: measure, and go on only if it passes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from extproc.control.analysis.runs import Outcome, outcome, start
from extproc.control.intent import Transition
from extproc.control.steps.step import InForce, Reach, done
from extproc.control.transitions import STEP
from extproc.resources.steps import AnalysisStep


@dataclass(frozen=True, slots=True)
class AnalysisKind:
    """It begins, goes on, or has passed: one that fails or is in doubt is dealt with before any step is asked."""

    step: AnalysisStep

    @property
    def summary(self) -> str:
        return "analysis " + ", ".join(template.template_name for template in self.step.analysis.templates)

    @property
    def own_time(self) -> bool:
        return True

    @property
    def reach(self) -> Reach:
        return Reach()

    def advance(self, at: InForce) -> Transition | None:
        status, run = at.status, at.run
        assert run is not None  # the plan has one for each step that measures
        if STEP not in status.analysis:
            message = f"the analysis of step {status.step} begins"
            runs = {**status.analysis, STEP: start(run, at.now)}
            return Transition(replace(status, reason="analysis", message=message, analysis=runs), message)
        found, why = outcome(run, status.analysis[STEP])
        if found is not Outcome.SUCCESSFUL:
            return None
        runs = {kind: state for kind, state in status.analysis.items() if kind != STEP}
        moved = done(replace(status, analysis=runs), "analysis_passed", why, at.now)
        return replace(moved, detail={**moved.detail, "measurements": status.analysis[STEP]})
