"""Rollouts without a canary: a shadow answers nobody, so there is no arm that could be compared with the control."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from extproc.resources.faults import Problem
from extproc.resources.rollout import Rollout

CODE: Final = "analysis_never_runs"


def analysis_in_vain(rollout: Rollout) -> Iterator[Problem]:
    """The ``analysis`` of a rollout without a canary, which nobody ever runs."""
    spec = rollout.spec
    if spec.analysis is not None and spec.canary is None and not spec.is_experiment:
        message = (
            "this analysis would never run: it compares what a canary or a variant serves with the control, and here "
            "is none; leave it out, or give the rollout a canary"
        )
        yield Problem(CODE, message, ("spec", "analysis"))
