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

INTERVAL_SECONDS: Final = 6
"""From one look at the labels to the next."""

FIRST_LOOK_SECONDS: Final = 5
"""From a version's first answers to the first look: by then its labels of some 130 healthy patients are there.

That is enough to be sure of version 3: over 3 000 seeds each first look found it, at three quarters of the traffic 998
of 1 000 did (see ``tests/unit/demo/test_power.py``).
"""

FIRST_WEIGHT: Final = 25
CONSECUTIVE: Final = 10
"""So many failures in a row trip a version."""

STEPS: Final[tuple[Mapping[str, Any], ...]] = (
    {"shadow": {"percent": 100}},
    {"pause": {"duration": "2s"}},
    {"setWeight": FIRST_WEIGHT},
    {"pause": {"duration": "7s"}},
    {"analysis": {"templates": [{"templateName": "health"}]}},
    {"setWeight": 50},
    {"pause": {"duration": "5s"}},
    {"analysis": {"templates": [{"templateName": "health"}]}},
)

TEMPLATES: Final[Mapping[str, list[Mapping[str, Any]]]] = {
    # Steps: the version must be shown to be hardly worse than what it is compared with, and to fail no more often.
    "health": [
        {
            "name": "errors",
            "provider": {"observed": {"metric": "error_rate", "minRequests": 100}},
            "successCondition": "result.upper < 0.1",
            "failureCondition": "result.lower > 0.0",
            "interval": "1s",
            "count": 3,
            "inconclusiveLimit": 2,
        },
        {
            "name": "false-positives",
            "provider": {"feedback": {"metric": "false_positive_rate", "minLabels": 30}},
            "successCondition": "result.upper < 0.1",
            "failureCondition": "result.lower > 0.0",
            "interval": "1s",
            "count": 3,
            "inconclusiveLimit": 2,
        },
    ],
    # In the background, all the way: whoever is shown to be worse goes.
    "no-harm": [
        {
            "name": "more-false-positives",
            "provider": {"feedback": {"metric": "false_positive_rate", "minLabels": 30}},
            "failureCondition": "result.lower > 0.0",
            "initialDelay": f"{FIRST_LOOK_SECONDS}s",
            "interval": f"{INTERVAL_SECONDS}s",
            # Labels come later than answers, so every weight begins without any.
            "inconclusiveLimit": 20,
        }
    ],
}

_REQUESTS: Final[Mapping[str, Any]] = {
    "model": MODEL,
    "match": [{"path": {"type": "PathPrefix", "value": f"/v1/models/{MODEL}"}}],
    "unit": {"header": "x-user-id"},
}


def write_rollout(folder: Path, name: str, **spec: Any) -> str:
    """A Rollout document for weights moved by hand in ``folder``; the keywords are added to its spec."""
    by_hand = {
        "seed": SEED,
        "stable": {"version": STABLE},
        "canary": {"version": CANARY},
        "steps": [{"setWeight": weight} for weight in WEIGHTS[1:]],
    }
    return _write(folder, name, _document("Rollout", MODEL, {**_REQUESTS, **by_hand, **spec}))


def write_ramp(folder: Path, champion: str, challenger: str) -> str:
    """A Rollout document for weights that move by themselves, as a registry's aliases stand."""
    spec = {
        **_REQUESTS,
        "stable": {"alias": "champion"},
        "canary": {"alias": "challenger"},
        "aliases": {"champion": champion, "challenger": challenger},
        "steps": [dict(step) for step in STEPS],
        "analysis": {"templates": [{"templateName": "no-harm"}]},
        "breaker": {"window": "10s", "minRequests": 50, "errorRate": 0.2, "consecutive": CONSECUTIVE},
    }
    return _write(folder, f"version-{challenger}", _document("Rollout", MODEL, spec))


def write_templates(folder: Path) -> str:
    """The AnalysisTemplate documents that ramps refer to."""
    documents = [_document("AnalysisTemplate", name, {"metrics": metrics}) for name, metrics in TEMPLATES.items()]
    return _write(folder, "analysis", *documents)


def step_words(index: int) -> str:
    """A step of a ramp in a word or two."""
    ((kind, value),) = STEPS[index].items()
    return f"weight {value}%" if kind == "setWeight" else kind


def _document(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "dropout.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


def _write(folder: Path, name: str, *documents: Mapping[str, Any]) -> str:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.dump_all(documents, Dumper=_Plain, sort_keys=False))
    return str(file)


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice: readers of a document do not look for anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
