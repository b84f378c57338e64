"""What a document asks for, and what becomes of a status: the terms in which transitions are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from xxhash import xxh64_hexdigest

from extproc.resources.rollout import Rollout
from extproc.store.status import Status


@dataclass(frozen=True, slots=True)
class Intent:
    """What a document asks for, aliases resolved.

    ``stable`` is the last variant's version in an experiment. ``canary`` is None in an experiment and in a rollout
    that has none. ``assignment`` is all that the ranges depend on beside versions and weight: seed, unit, variants.
    ``steps`` fingerprints the steps; it is empty where there are none. ``variants`` are an experiment's, in order, each
    with its version.
    """

    key: str
    stable: str
    canary: str | None
    experiment: bool
    assignment: str
    steps: str = ""
    variants: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Transition:
    """The next status, and what history says about it; without a message it is not worth an entry."""

    status: Status
    message: str
    detail: Mapping[str, Any] = field(default_factory=dict)


def intent_of(rollout: Rollout) -> Intent:
    """What ``rollout`` asks for.

    Raises:
        InvalidInput: ``alias_unresolved``.
    """
    spec = rollout.spec
    assignment: list[Any] = [spec.seed, spec.unit.header, spec.unit.cookie]
    if spec.is_experiment or spec.stable is None:
        assignment += [spec.coverage, [[variant.name, variant.version, variant.weight] for variant in spec.variants]]
        variants = tuple((variant.name, variant.version) for variant in spec.variants)
        return Intent(rollout.key, variants[-1][1], None, True, orjson.dumps(assignment).decode(), variants=variants)
    canary = spec.resolve(spec.canary) if spec.canary is not None else None
    steps = [step.model_dump(mode="json", exclude_unset=True) for step in spec.steps]
    return Intent(
        rollout.key,
        spec.resolve(spec.stable),
        canary,
        False,
        orjson.dumps(assignment).decode(),
        xxh64_hexdigest(orjson.dumps(steps)) if steps else "",
    )
