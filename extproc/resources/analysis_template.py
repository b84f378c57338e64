"""The AnalysisTemplate document as pydantic models: what is measured of a rollout's arms, and what passes.

As with rollouts, the models check each field and ``template_rules.py`` what fields must say together. Durations are
seconds. What a condition sees as ``result`` depends on the metric and is shown by ``EXAMPLE_RESULTS``.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from extproc.resources.document import EXACTLY_ONE, Part, Resource
from extproc.resources.fields import Duration, Expression, Name, Text, Value

KIND: Final = "AnalysisTemplate"

CONDITION_FIELDS: Final = ("successCondition", "failureCondition")
RATES: Final = ("false_positive_rate", "false_negative_rate", "precision", "recall")
"""The metrics of ``feedback`` that are shares of labels."""


def _arms(**values: float) -> dict[str, Any]:
    return {"canary": values, "control": values, "difference": 0.01, "ratio": 1.2}


_BOUNDS: Final = {"lower": -0.01, "upper": 0.03}

EXAMPLE_RESULTS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "observed": {
        "error_rate": {**_arms(requests=1000, failures=50, rate=0.05, abandoned=20), **_BOUNDS},
        "abandoned": {**_arms(requests=1000, abandoned=50, rate=0.05), **_BOUNDS},
        "latency": _arms(requests=1000, value=12.5),
        "requests": {**_arms(requests=1000), "difference": 10},
    },
    "feedback": {
        **{metric: {**_arms(labels=1000, rate=0.05), **_BOUNDS} for metric in RATES},
        "mean": {**_arms(labels=1000, value=12.5), **_BOUNDS},
    },
}
"""By provider and metric: what a condition sees as ``result``."""

_Count = Annotated[int, Field(ge=0, le=2**31)]
_Alpha = Annotated[float, Field(gt=0, le=0.5)]


class ArgSpec(Part):
    """An argument that a rollout may, or must, give."""

    name: Value
    """The argument's name; conditions know it as args.NAME."""
    value: Text | None = None
    """What it is if a rollout does not say; a string, so a number is written in quotes."""


class ObservedSpec(Part):
    """What Envoy saw of the requests of both arms."""

    metric: Literal["error_rate", "latency", "abandoned", "requests"]
    """The share of failed requests, a quantile of milliseconds, the share that clients gave up, or their number."""
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Which latency: 0.99 is exceeded by one request in a hundred."""
    min_requests: _Count = 100
    """With fewer requests than this in either arm a measurement is Inconclusive."""
    alpha: _Alpha = 0.05
    """How often at most lower and upper are wrong, over all measurements together."""
    window: Duration | None = None
    """Only requests this recent count; left out, all since the weight last changed."""


class FeedbackSpec(Part):
    """What labels said about the predictions of both arms."""

    metric: Literal["false_positive_rate", "false_negative_rate", "precision", "recall", "mean"]
    """A share of labels, or the mean of a numeric outcome."""
    outcome: Value | None = None
    """The outcome whose mean is compared."""
    min_labels: _Count = 50
    """With fewer labels than this in either arm a measurement is Inconclusive."""
    alpha: _Alpha = 0.05
    """How often at most lower and upper are wrong, over all measurements together."""


class ProviderSpec(Part):
    """Where a metric comes from: exactly one of its fields."""

    model_config = ConfigDict(json_schema_extra=EXACTLY_ONE)

    observed: ObservedSpec | None = None
    """Requests, as Envoy saw them."""
    feedback: FeedbackSpec | None = None
    """Labels that came for decisions."""


class MetricSpec(Part):
    """Something to measure, and what makes a measurement Successful or Failed."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": [name]} for name in CONDITION_FIELDS]})

    name: Name
    """The metric's name, unique among all templates that run together."""
    provider: ProviderSpec
    """Where it comes from."""
    success_condition: Expression | None = None
    """CEL over result and args. If it is alone, what is not Successful is Failed."""
    failure_condition: Expression | None = None
    """CEL over result and args. If it is alone, what is not Failed is Successful; if both are false: Inconclusive."""
    interval: Duration | None = None
    """From one measurement to the next; left out, there is only one."""
    count: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """How many measurements; left out with an interval, until the analysis is stopped."""
    initial_delay: Duration | None = None
    """How long to wait before the first measurement."""
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
