"""The provider ``feedback``: what labels said about the predictions of both arms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from extproc.resources.as_written import given
from extproc.resources.document import Part, such_as
from extproc.resources.faults import Problem
from extproc.resources.fields import Value
from extproc.resources.marked_yaml import FieldPath
from extproc.resources.providers.kind import Arguments, ProviderKind, Written
from extproc.resources.providers.of_arms import BOUNDS, Alpha, Count, of_arms, only_for

RATES: Final = ("false_positive_rate", "false_negative_rate", "precision", "recall")
"""The metrics that are shares of labels."""


class FeedbackSpec(Part):
    """What labels said about the predictions of both arms."""

    metric: Literal["false_positive_rate", "false_negative_rate", "precision", "recall", "mean"]
    """A share of labels, or the mean of a numeric outcome."""
    outcome: Annotated[Value | None, such_as("revenue")] = None
    """The outcome whose mean is compared."""
    min_labels: Count = 50
    """With fewer labels than this in either arm a measurement is Inconclusive."""
    alpha: Alpha = 0.05
    """How often at most lower and upper are wrong, over all measurements together."""


def _problems(written: Written, _arguments: Arguments, path: FieldPath) -> Iterator[Problem]:
    yield from only_for(written, "outcome", ("mean",), path)
    if written.get("metric") == "mean" and not given(written, "outcome"):
        yield Problem("missing_field", "mean needs the name of an outcome", (*path, "outcome"))


PROVIDER: Final = ProviderKind(
    FeedbackSpec,
    {
        **{metric: {**of_arms(labels=1000, rate=0.05), **BOUNDS} for metric in RATES},
        "mean": {**of_arms(labels=1000, value=12.5), **BOUNDS},
    },
    told_by="metric",
    problems=_problems,
)
