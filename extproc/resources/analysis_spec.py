"""What a version must pass, as rollouts name it: templates, and what they are given."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from extproc.resources.document import Part, such_as
from extproc.resources.fields import Name, Text, Value


class TemplateRef(Part):
    """An AnalysisTemplate, by name."""

    template_name: Annotated[Name, such_as("fraud-health")]
    """The name of the AnalysisTemplate."""


class AnalysisArg(Part):
    """An argument of the templates."""

    name: Annotated[Value, such_as("threshold")]
    """The argument's name."""
    value: Text
    """Its value; a string, so a number is written in quotes."""


class AnalysisSpec(Part):
    """Measurements that a version must pass."""

    templates: Annotated[list[TemplateRef], Field(min_length=1)]
    """The templates to run."""
    args: list[AnalysisArg] = []
    """What the templates are given."""


class BackgroundSpec(AnalysisSpec):
    """Measurements in the background of a rollout."""

    on_failed: Literal["report", "control"] | None = None
    """Of an experiment: what becomes of a variant that fails. It is reported, the default, or gets the control."""
