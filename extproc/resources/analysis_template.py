"""The AnalysisTemplate document as pydantic models: what is measured of a rollout's arms, and what passes.

As with rollouts, the models check each field and ``template_rules.py`` what fields must say together. Durations are
seconds. Where metrics come from, and what a condition sees as ``result``, is told by ``providers``.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from extproc.resources.document import Part, Resource, such_as, written
from extproc.resources.fields import Duration, Expression, Name, Text, Value
from extproc.resources.providers.chosen import ChosenProvider

KIND: Final = "AnalysisTemplate"

CONDITION_FIELDS: Final = ("successCondition", "failureCondition")
_Count = Annotated[int, Field(ge=0, le=2**31, examples=[1])]


class ArgSpec(Part):
    """An argument that a rollout may, or must, give."""

    name: Annotated[Value, such_as("threshold")]
    """The argument's name; conditions know it as args.NAME."""
    value: Text | None = None
    """What it is if a rollout does not say; a string, so a number is written in quotes."""


class MetricSpec(Part):
    """Something to measure, and what makes a measurement Successful or Failed."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": [name]} for name in CONDITION_FIELDS]})

    name: Annotated[Name, such_as("errors")]
    """The metric's name, unique among all templates that run together."""
    provider: ChosenProvider
    """Where it comes from."""
    success_condition: Expression | None = None
    """CEL over result and args. If it is alone, what is not Successful is Failed."""
    failure_condition: Expression | None = None
    """CEL over result and args. If it is alone, what is not Failed is Successful; if both are false: Inconclusive."""
    interval: Duration | None = None
    """From one measurement to the next; left out, there is only one."""
    count: Annotated[int, Field(ge=1, le=2**31, examples=[5])] | None = None
    """How many measurements; left out with an interval, until the analysis is stopped."""
    initial_delay: Duration | None = None
    """How long to wait before the first measurement."""
    timeout: Annotated[Duration, written("30s")] = 30.0
    """A measurement that takes longer is an Error; the time that it waited to be asked for is a part of it."""
    starting_step: _Count = 0
    """In the background: the index of the step from which on it is measured."""
    failure_limit: _Count = 0
    """More Failed measurements than this fail the analysis."""
    inconclusive_limit: _Count = 0
    """More Inconclusive measurements than this make the analysis Inconclusive."""
    consecutive_error_limit: _Count = 4
    """More measurements in a row than this that could not be taken end the analysis with Error."""
    dry_run: bool = False
    """Measure and record, and never decide."""


class AnalysisTemplateSpec(Part):
    """Metrics, and the arguments of their conditions."""

    args: list[ArgSpec] = []
    """What rollouts may give."""
    metrics: Annotated[list[MetricSpec], Field(min_length=1)]
    """What is measured."""


class AnalysisTemplate(Resource):
    """Measurements that a version must pass; rollouts name it in an analysis."""

    kind: Literal["AnalysisTemplate"]
    """What the document is."""
    spec: AnalysisTemplateSpec
    """What is measured."""
