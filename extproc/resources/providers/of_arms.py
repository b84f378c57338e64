"""What the providers that compare arms have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import Field

from extproc.resources.as_written import given
from extproc.resources.faults import Problem
from extproc.resources.marked_yaml import FieldPath
from extproc.resources.providers.kind import Written

Count = Annotated[int, Field(ge=0, le=2**31)]
Alpha = Annotated[float, Field(gt=0, le=0.5)]

BOUNDS: Final = {"lower": -0.01, "upper": 0.03}
"""What an example result has where the difference has bounds."""


def of_arms(**values: float) -> dict[str, Any]:
    """An example result: what is known of each arm, and how they differ."""
    return {"canary": values, "control": values, "difference": 0.01, "ratio": 1.2}


def only_for(written: Written, name: str, metrics: tuple[str, ...], path: FieldPath) -> Iterator[Problem]:
    """The field ``name`` is for these metrics alone."""
    metric = written.get("metric")
    if given(written, name) and isinstance(metric, str) and metric not in metrics:
        yield Problem("conflicting_fields", f"{name} is for {' and '.join(metrics)}", (*path, name))
