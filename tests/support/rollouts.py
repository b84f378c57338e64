"""Rollouts for tests: a document's spec in a line, compiled without a store."""

from __future__ import annotations

from typing import Any

from extproc.matching import MatchTable
from extproc.resources.loading import parse_rollout
from extproc.snapshot.compile import compile_rollout
from extproc.snapshot.model import CompiledRollout, Overlay, Snapshot
from extproc.store.status import Status

CANARY: dict[str, Any] = {
    "model": "fraud-detector",
    "match": [{"path": {"type": "PathPrefix", "value": "/v1/models/fraud-detector"}}],
    "unit": {"header": "x-user-id"},
    "seed": "fraud-2026-11",
    "stable": {"version": "3"},
    "canary": {"version": "4"},
}
EXPERIMENT: dict[str, Any] = {
    "model": "fraud-detector",
    "match": [{"path": {"type": "PathPrefix", "value": "/v1/models/fraud-detector"}}],
    "unit": {"header": "x-user-id"},
    "seed": "fraud-2026-11",
    "variants": [
        {"name": "treatment", "version": "4", "weight": 50},
        {"name": "control", "version": "3", "weight": 50},
    ],
}


def document(spec: dict[str, Any], name: str = "fraud-detector", namespace: str = "payments") -> dict[str, Any]:
    """A whole Rollout document around ``spec``."""
    return {
        "apiVersion": "dropout.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }


def canary(weight: int = 0, *, name: str = "fraud-detector", **changes: Any) -> CompiledRollout:
    """A compiled canary rollout from 3 to 4 at ``weight`` hundredths; a spec field of None is left out.

    ``aborted`` and ``drawn`` go to the status.
    """
    status = Status(
        stable="3",
        canary="4",
        weight=weight,
        previous_weight=weight,
        aborted=changes.pop("aborted", ()),
        drawn=changes.pop("drawn", 0),
    )
    spec = {key: value for key, value in {**CANARY, **changes}.items() if value is not None}
    return compile_rollout(parse_rollout(document(spec, name)), status, now=0.0)


def experiment(**changes: Any) -> CompiledRollout:
    """A compiled experiment of 4 (treatment) against 3 (control)."""
    spec = {key: value for key, value in {**EXPERIMENT, **changes}.items() if value is not None}
    variants = spec["variants"]
    return compile_rollout(parse_rollout(document(spec)), Status(stable=variants[-1]["version"]), now=0.0)


MARKS = ("a-mark",)
"""What the rendered routes of tests take for decided."""


def snapshot(*rollouts: CompiledRollout, overlay: dict[str, Overlay] | None = None) -> Snapshot:
    """A snapshot of these rollouts."""
    table = MatchTable().changed((rollout.key, (), rollout.match) for rollout in rollouts)
    return Snapshot(1, {rollout.key: rollout for rollout in rollouts}, table, overlay or {})
