"""The provider ``observed``: what Envoy saw of the requests of both arms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from extproc.resources.document import Part
from extproc.resources.faults import Problem
from extproc.resources.fields import Duration
from extproc.resources.marked_yaml import FieldPath
from extproc.resources.providers.kind import Arguments, ProviderKind, Written
from extproc.resources.providers.of_arms import BOUNDS, Alpha, Count, of_arms, only_for


class ObservedSpec(Part):
    """What Envoy saw of the requests of both arms."""

    metric: Literal["error_rate", "latency", "abandoned", "requests"]
    """The share of failed requests, a quantile of milliseconds, the share that clients gave up, or their number."""
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Which latency: 0.99 is exceeded by one request in a hundred."""
    min_requests: Count = 100
    """With fewer requests than this in either arm a measurement is Inconclusive."""
    alpha: Alpha = 0.05
    """How often at most lower and upper are wrong, over all measurements together."""
    window: Duration | None = None
    """Only requests this recent count; left out, all since the weight last changed."""


def _problems(written: Written, _arguments: Arguments, path: FieldPath) -> Iterator[Problem]:
    yield from only_for(written, "quantile", ("latency",), path)
    yield from only_for(written, "alpha", ("error_rate", "abandoned"), path)


PROVIDER: Final = ProviderKind(
    ObservedSpec,
    {
        "error_rate": {**of_arms(requests=1000, failures=50, rate=0.05, abandoned=20), **BOUNDS},
        "abandoned": {**of_arms(requests=1000, abandoned=50, rate=0.05), **BOUNDS},
        "latency": of_arms(requests=1000, value=12.5),
        "requests": {**of_arms(requests=1000), "difference": 10},
    },
    told_by="metric",
    problems=_problems,
)
