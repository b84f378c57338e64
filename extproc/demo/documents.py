"""The documents that the demo applies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from extproc.demo.versions import MODEL

SEED: Final = "diagnosis-2026"
STABLE, CANARY = "1", "2"
VIEW: Final = "user_risk"
WEIGHTS: Final = (0, 5, 25, 50, 100)

GUARD: Final[Mapping[str, Any]] = {
    # Generous for a laptop that is busy with eight processes; on a host of its own 5ms is plenty.
    "features": {
        "entity": {"header": "x-user-id"},
        "view": VIEW,
        "names": ["risk_score"],
        "maxAge": "1h",
        "timeout": "250ms",
        "onMissing": "stable",
    },
    "policy": {"path": "routing/decision", "onError": "stable"},
    "log": {"features": ["risk_score"]},
}

_REQUESTS: Final[Mapping[str, Any]] = {
    "model": MODEL,
    "match": [{"path": {"type": "PathPrefix", "value": f"/v1/models/{MODEL}"}}],
    "unit": {"header": "x-user-id"},
}


def write_rollout(folder: Path, name: str, **spec: Any) -> str:
    """A Rollout document in ``folder``; the keywords are added to its spec."""
    by_hand = {
        "seed": SEED,
        "stable": {"version": STABLE},
        "canary": {"version": CANARY},
        "steps": [{"setWeight": weight} for weight in WEIGHTS[1:]],
    }
    return _write(folder, name, _document("Rollout", MODEL, {**_REQUESTS, **by_hand, **spec}))


def _document(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "dropout.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


def _write(folder: Path, name: str, *documents: Mapping[str, Any]) -> str:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump_all(documents, sort_keys=False))
    return str(file)
