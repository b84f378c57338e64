"""Which kind a step is of: the one place that tells them apart."""

from __future__ import annotations

from typing import assert_never

from extproc.control.steps.analysis import AnalysisKind
from extproc.control.steps.pause import PauseKind
from extproc.control.steps.set_weight import SetWeightKind
from extproc.control.steps.shadow import ShadowKind
from extproc.control.steps.step import StepKind
from extproc.resources.steps import AnalysisStep, AnyStep, PauseStep, SetWeightStep, ShadowStep


def kind_of(step: AnyStep) -> StepKind:
    """The step with all that its kind decides."""
    match step:
        case SetWeightStep():
            return SetWeightKind(step)
        case PauseStep():
            return PauseKind(step)
        case AnalysisStep():
            return AnalysisKind(step)
        case ShadowStep():
            return ShadowKind(step)
        case _:
            assert_never(step)
