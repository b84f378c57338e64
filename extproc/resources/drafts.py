"""What a faulty document was meant to be, so that whatever is wrong with it is told at once and not one after another.

A misspelt field or value is judged as the one that was meant, and what lacks its quotes as text. In place of what else
is wrong stands an example, so that rules can be asked that need a whole document; nothing is told of what stands beside
it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from extproc.errors import InvalidInput
from extproc.resources.document import Resource
from extproc.resources.examples import example_of
from extproc.resources.faults import Problem
from extproc.resources.kinds import DocumentKind
from extproc.resources.loaded import LoadedDocument
from extproc.resources.marked_yaml import FieldPath, YamlNode
from extproc.resources.one_document import FOREIGN, in_its_fields, kind_of

MAX_PROBLEMS: Final = 50
"""Of a document with more of them nothing further is asked: whoever writes it has enough to do."""
_ROUNDS: Final = 5
"""How often a document is gone over: what is misspelt, or in the place of an example, hides what stands in it."""
_SHARED: Final = frozenset(
    {"model", "match", "unit", "upstream", "endpoints", "aliases", "variants", "holdout", "layer"}
)
"""Fields of a spec by which documents come into conflict, together rather than each by itself."""
_OWN: Final = frozenset({"steps", "analysis", "args", "metrics"})
"""Fields that another document is held against entry by entry."""
_NOBODY_ELSES: Final = frozenset({"provider", "successCondition", "failureCondition"})
"""Fields of a metric that no other document is held against."""
_NEAR: Final = 3
"""Steps of a path by which fields are together: those of one metric, one step, one entry of match."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A document, or what one was meant to be: ``guessed`` is where an example stands, ``misspelt`` what was written.

    Paths are those of the document as it was meant.
    """

    document: LoadedDocument[Any]
    guessed: frozenset[FieldPath] = frozenset()
    misspelt: Mapping[FieldPath, str] = field(default_factory=dict)

    def says(self, path: FieldPath) -> bool:
        """Whether what stands at ``path`` was written, with all that a rule between documents asks beside it."""
        guessed = [guess for guess in self.guessed if not _NOBODY_ELSES.intersection(guess)]
        if not _is_written(path, guessed) or any(guess[0] != "spec" for guess in guessed):
            return False
        return path[1] in _OWN or not any(guess[1] in _SHARED for guess in guessed)

    def line_at(self, path: FieldPath) -> int:
        """As that of the document."""
        return self.document.line_at(as_written(path, self.misspelt))


class Studied(NamedTuple):
    """Everything that is wrong with a document by itself, and what it was meant to be, if that is known."""

    problems: list[Problem]
    draft: Draft | None


def study(node: YamlNode, file: str, problems: list[Problem]) -> Studied:
    """What is wrong with the document ``node`` of ``file`` beside the ``problems`` that were found first."""
    spelled, foreign = _copied(node.value), _foreign(problems)
    if len(problems) > MAX_PROBLEMS or not isinstance(spelled, dict) or any(not each.meant for each in foreign):
        return Studied(problems, None)
    for each in foreign:
        _put(spelled, each.path, each.meant)
    kind = kind_of(spelled)
    names: dict[FieldPath, str] = {}
    found = [*foreign, *_respelled(spelled, kind, names)]
    resource, guessed = _completed(spelled, node, kind, names)
    beyond = _beyond(kind, resource, guessed) if resource is not None else None
    told = [*found, *(problem._replace(path=as_written(problem.path, names)) for problem in beyond or ())]
    if resource is None or beyond is None:
        return Studied(told, None)
    return Studied(told, Draft(LoadedDocument(resource, node, file), guessed, names))


def as_written(path: FieldPath, misspelt: Mapping[FieldPath, str]) -> FieldPath:
    """``path`` with the names that were written in place of those that were meant."""
    return tuple(misspelt.get(path[: index + 1], step) for index, step in enumerate(path))


def _foreign(problems: list[Problem]) -> list[Problem]:
    """Those that make a document somebody else's, unless what it is called is only misspelt."""
    return [problem for problem in problems if problem.code in FOREIGN]


def _copied(value: Any) -> Any:
    """A copy that shares nothing, as what YAML's aliases repeat does."""
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


def _respelled(body: dict[str, Any], kind: DocumentKind, names: dict[FieldPath, str]) -> list[Problem]:
    """Spell ``body`` as it was meant, and remember in ``names`` how its fields were written; what is wrong with it."""
    told: list[Problem] = []
    _, problems = in_its_fields(body, kind)
    for _ in range(_ROUNDS):
        misspelt = [problem for problem in problems if _respell(body, problem, names)]
        if not misspelt:
            break
        told += misspelt
        _, problems = in_its_fields(body, kind)
    found = [problem for problem in (*told, *problems) if not _of_a_guess(problem, names)]
    return [problem._replace(path=as_written(problem.path, names)) for problem in found]


def _of_a_guess(problem: Problem, names: Mapping[FieldPath, str]) -> bool:
    """Whether the value of an unknown field is said to be none of the one that was meant: another one may have been."""
    return problem.code == "mistyped_value" and not problem.unquoted and problem.path in names


def _respell(body: dict[str, Any], problem: Problem, names: dict[FieldPath, str]) -> bool:
    """Write what was meant in place of what is misspelt: a value, or the name of a field if that is free."""
    *above, last = problem.path or (None,)
    parent, meant = _at(body, tuple(above)), problem.meant
    if meant is None or not isinstance(parent, dict):
        return False
    if problem.code != "unknown_field":
        return _put(body, problem.path, meant)
    if meant in parent or last not in parent:
        return False
    parent[meant] = parent.pop(last)
    names[*above, meant] = str(last)
    return True


def _completed(
    body: dict[str, Any], node: YamlNode, kind: DocumentKind, names: Mapping[FieldPath, str]
) -> tuple[Resource | None, frozenset[FieldPath]]:
    """The model of ``body`` with examples in place of what is wrong, if that makes one, and where they stand."""
    guessed: set[FieldPath] = set()
    for _ in range(_ROUNDS):
        resource, problems = in_its_fields(body, kind)
        mended = [_put_right(body, problem, node, kind, names, guessed) for problem in problems]
        if not any(mended):
            break
    resource, _ = in_its_fields(body, kind)
    return resource, frozenset(guessed)


def _put_right(
    body: dict[str, Any],
    problem: Problem,
    node: YamlNode,
    kind: DocumentKind,
    names: Mapping[FieldPath, str],
    guessed: set[FieldPath],
) -> bool:
    """Change ``body`` so that it may have one problem less; whether there was a way to."""
    if problem.unquoted:
        return _put(body, problem.path, node.written_at(as_written(problem.path, names)) or "")
    if problem.code == "unknown_field":
        return _take(body, problem.path)
    if problem.code == "conflicting_fields":
        guessed.add(problem.path)
        return _take(body, problem.path)
    place = problem.wanted or problem.path
    while len(place) > 1:
        example = example_of(kind.model, place) if place not in guessed else None
        if example is not None and _put(body, place, example):
            guessed.add(place)
            return True
        place = place[:-1]
    return False


def _beyond(kind: DocumentKind, resource: Resource, guessed: frozenset[FieldPath]) -> list[Problem] | None:
    """What only a whole document tells, of what was written in it; None where too little was."""
    if any(guess[:2] == ("spec", "variants") for guess in guessed):
        return None
    try:
        found = [*kind.beyond(resource), *kind.in_vain(resource)]
    except InvalidInput:
        return None
    return [problem for problem in found if _is_written(problem.path, guessed)]


def _is_written(path: FieldPath, guessed: Collection[FieldPath]) -> bool:
    """Whether nothing that belongs to the field at ``path`` was guessed."""
    near = path[:_NEAR]
    return not any(near[: len(guess)] == guess[: len(near)] for guess in (whole[:_NEAR] for whole in guessed))


def _at(value: Any, path: FieldPath) -> Any:
    """What stands at ``path``, None where nothing does."""
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def _put(body: dict[str, Any], path: FieldPath, value: Any) -> bool:
    """Set what stands at ``path``, if there is a place for it."""
    *above, last = path
    match _at(body, tuple(above)), last:
        case dict() as mapping, _:
            mapping[last] = value
        case list() as entries, int() if last < len(entries):
            entries[last] = value
        case _:
            return False
    return True


def _take(body: dict[str, Any], path: FieldPath) -> bool:
    """Take out the field at ``path``, if it is there."""
    *above, last = path
    parent = _at(body, tuple(above))
    return isinstance(parent, dict) and parent.pop(last, body) is not body
