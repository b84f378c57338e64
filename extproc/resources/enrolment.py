"""Experiments whose coverage is too small to give a variant a single bucket: it would run, and enrol nobody into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from extproc.assignment import BUCKETS, variant_ranges
from extproc.resources.faults import Problem
from extproc.resources.fields import format_percent
from extproc.resources.marked_yaml import shown
from extproc.resources.rollout import Rollout

CODE: Final = "variant_without_units"


def without_units(rollout: Rollout) -> Iterator[Problem]:
    """The variants that have a weight, and no bucket. A coverage or a weight of zero is meant."""
    spec = rollout.spec
    if not spec.is_experiment or not spec.coverage:
        return
    ranges = variant_ranges([variant.weight for variant in spec.variants], spec.coverage)
    empty = [
        variant
        for variant, owned in zip(spec.variants, ranges, strict=True)
        if variant.weight and owned.start == owned.end
    ]
    if empty:
        least = max(-(-BUCKETS // variant.weight) for variant in empty)
        names = " and ".join(shown(variant.name) for variant in empty)
        message = (
            f"a coverage of {format_percent(spec.coverage)} enrols nobody into {names}: with these weights it takes "
            f"{format_percent(least)} at least"
        )
        yield Problem(CODE, message, ("spec", "coverage"))
