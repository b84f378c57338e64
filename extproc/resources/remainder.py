"""What of a document can be judged beside the faults that it has: the rest, without the fields that they are in.

Whoever mends a fault is not to hear of the next one then: what needs a model, or other documents, is said together
with what keeps the document from being one. Nothing is said that a field which is mended could make untrue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from extproc.resources.analysis_template import KIND as TEMPLATE
from extproc.resources.document import Resource
from extproc.resources.faults import Problem
from extproc.resources.kinds import KINDS, DocumentKind
from extproc.resources.schema import known_fields
from extproc.suggestions import close_to

_PIVOTAL: Final = frozenset({"aliases", "canary", "coverage", "layer", "upstream", "variants"})
"""Fields of a rollout without which others would be judged wrongly: without a layer, say, matches collide."""


def remainder(body: Mapping[str, Any], problems: Sequence[Problem]) -> Resource | None:
    """The document ``body`` without the fields of its spec that have ``problems``; None if that is no document."""
    kind = _kind_of(body)
    if kind is None or any(problem.path[:1] != ("spec",) or len(problem.path) < 2 for problem in problems):
        return None
    faulty = {str(problem.path[1]) for problem in problems}
    known = known_fields(kind.model, ("spec",))
    if _PIVOTAL & {close_to(name, known) for name in faulty}:
        return None
    return _model(kind, {**body, "spec": {name: value for name, value in body["spec"].items() if name not in faulty}})


def beside(body: Mapping[str, Any], problems: Sequence[Problem]) -> Iterator[Problem]:
    """What is wrong with the document ``body`` beside the ``problems`` that keep it from being a model."""
    kind = _kind_of(body)
    if kind is not None and kind.name == TEMPLATE:
        yield from _of_metrics(kind, body, problems)
    elif kind is not None and (rest := remainder(body, problems)) is not None:
        yield from kind.beyond(rest)
        yield from kind.in_vain(rest)


def _of_metrics(kind: DocumentKind, body: Mapping[str, Any], problems: Sequence[Problem]) -> Iterator[Problem]:
    """What is wrong with the metrics that have no ``problems``, each by itself."""
    if any(problem.path[:2] != ("spec", "metrics") or len(problem.path) < 3 for problem in problems):
        return
    faulty = {problem.path[2] for problem in problems}
    for index, metric in enumerate(body["spec"]["metrics"]):
        if index not in faulty:
            alone = _model(kind, {**body, "spec": {**body["spec"], "metrics": [metric]}})
            for problem in kind.in_vain(alone) if alone is not None else ():
                yield problem._replace(path=("spec", "metrics", index, *problem.path[3:]))


def _kind_of(body: Mapping[str, Any]) -> DocumentKind | None:
    name = body.get("kind")
    return KINDS.get(name) if isinstance(name, str) else None


def _model(kind: DocumentKind, body: Mapping[str, Any]) -> Resource | None:
    if any(kind.between(body)):
        return None
    try:
        return kind.model.model_validate(dict(body))
    except ValidationError:
        return None
