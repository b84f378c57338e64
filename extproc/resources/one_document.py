"""What is wrong with one document by itself: its model, and the rules between its fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from pydantic import ValidationError

from extproc.resources.document import API_VERSION, Resource
from extproc.resources.faults import Problem, problems_of, with_example
from extproc.resources.kinds import KINDS, DocumentKind
from extproc.resources.marked_yaml import shown
from extproc.suggestions import close_to, did_you_mean, listed

MAX_FAULTS: Final = 1000
"""Faults that are listed of one file; a hostile one has a hundred thousand."""
_ENOUGH: Final = MAX_FAULTS + 1
FOREIGN: Final = frozenset({"unsupported_kind", "unsupported_api_version"})
"""Codes of what makes a document somebody else's."""


def check(body: object, kinds: Sequence[DocumentKind] = tuple(KINDS.values())) -> Resource | list[Problem]:
    """The model of a document that is one of ``kinds``, or everything that is wrong with it."""
    if not isinstance(body, Mapping):
        return [Problem("mistyped_value", "a document is a mapping with apiVersion, kind, metadata and spec", ())]
    if foreign := list(_foreign(body, kinds)):
        return foreign
    kind = kind_of(body, kinds)
    resource, problems = in_its_fields(body, kind)
    if resource is None:
        return problems
    return problems or list(kind.beyond(resource)) or resource


def kind_of(body: Mapping[str, Any], kinds: Sequence[DocumentKind] = tuple(KINDS.values())) -> DocumentKind:
    """What the document is to be judged as; one that does not say what it is, as the first."""
    return next((kind for kind in kinds if kind.name == body.get("kind")), kinds[0])


def in_its_fields(body: Mapping[str, Any], kind: DocumentKind) -> tuple[Resource | None, list[Problem]]:
    """The model of the document, if its fields allow one, and what is wrong in them and between them."""
    problems = [with_example(problem, kind.model) for problem in islice(kind.between(body), _ENOUGH)]
    try:
        return kind.model.model_validate(dict(body)), problems
    except ValidationError as error:
        found = [*problems_of(error, kind.model, _ENOUGH), *problems]
        return None, list({(problem.code, problem.path): problem for problem in found}.values())


def _foreign(body: Mapping[str, Any], kinds: Sequence[DocumentKind]) -> Iterator[Problem]:
    """What makes the document somebody else's: then its fields are not ours to judge."""
    kind, version = body.get("kind"), body.get("apiVersion")
    names = [kind.name for kind in kinds]
    if isinstance(kind, str) and kind not in names:
        known = did_you_mean(kind, names) or f"; {listed(names)} {'is' if len(names) == 1 else 'are'}"
        message = f"kind {shown(kind)} is not known here{known}"
        yield Problem("unsupported_kind", message, ("kind",), meant=close_to(kind, names))
    if isinstance(version, str) and version != API_VERSION:
        yield Problem(
            "unsupported_api_version", f"{shown(version)} is not known here; {API_VERSION} is", ("apiVersion",)
        )
