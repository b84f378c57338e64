"""The steps of a rollout as documents write them: a mapping with one field, which says what kind of step it is.

What a kind does is in ``control.steps``, a file each.
"""

from __future__ import annotations

from typing import Annotated, Final, assert_never

from extproc.resources.analysis_spec import AnalysisSpec
from extproc.resources.document import Part
from extproc.resources.fields import Duration, Percent
from extproc.resources.one_field import OneField, field_names


class MirrorSpec(Part):
    """Mirror requests to the canary."""

    percent: Percent
    """Percent of the units whose requests are mirrored."""


class PauseSpec(Part):
    """Wait."""

    duration: Duration | None = None
    """For how long; left out, until promoted."""


class ShadowStep(Part):
    """Copies to the canary."""

    shadow: MirrorSpec
    """Mirror requests to the canary, which answers nobody."""


class PauseStep(Part):
    """A while in which nothing moves."""

    pause: PauseSpec
    """Wait for a while, or with {} until promoted."""


class SetWeightStep(Part):
    """Another share for the canary."""

    set_weight: Percent
    """Percent of the units that the canary serves from here on."""


class AnalysisStep(Part):
    """A gate."""

    analysis: AnalysisSpec
    """Measure, and go on only if it passes."""


AnyStep = SetWeightStep | PauseStep | AnalysisStep | ShadowStep
"""A step of any kind; whoever tells them apart does so by ``match`` and ``assert_never``."""

Step = Annotated[AnyStep, OneField("Step", "One step of a rollout: exactly one of its fields.")]
"""As a field of a document."""

STEP_FIELDS: Final = field_names(AnyStep)
"""What names a kind of step in documents."""


def analysis_of(step: AnyStep) -> AnalysisSpec | None:
    """What the step waits to have passed, if it does."""
    match step:
        case AnalysisStep():
            return step.analysis
        case ShadowStep() | PauseStep() | SetWeightStep():
            return None
        case _:
            assert_never(step)
