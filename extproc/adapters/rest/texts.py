"""Texts with placeholders, ``{{view}}:{{feature}}``, and values that hold such texts.

What stands for a placeholder never leaves its place: in a body it is a JSON value, in a URL or a header it is
percent-encoded, all but letters, digits and ``-._~``. So that no two entities are asked about in the same words, a text
with a join key in it has no other placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from extproc.datapath.ports import FeatureKey
from extproc.resources.faults import Problem
from extproc.resources.marked_yaml import FieldPath, shown
from extproc.snapshot.model import FeatureView
from extproc.suggestions import close_to, listed

JOIN_KEY: Final = "join_keys."
PARAMETER: Final = "parameters."

VALUES: Final = ("view", "feature", "entity")
"""Placeholders that stand for a text, or a number, wherever they are."""

WHOLE: Final = ("features", "join_keys", "columns")
"""Those that stand for a list or a mapping, and so for all of a value in the body."""

TOKEN: Final = "token"  # noqa: S105 - what stands for it

_HOLE: Final = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_OF_A_KEY: Final = ("entity", "join_keys", "columns")


class TemplateText(NamedTuple):
    """A text: literal parts, and the names of placeholders at the odd places."""

    parts: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Its placeholders."""
        return self.parts[1::2]

    @property
    def whole(self) -> str | None:
        """The placeholder that is all of it, if one is."""
        return self.parts[1] if len(self.parts) == 3 and not self.parts[0] and not self.parts[2] else None


@dataclass(frozen=True, slots=True)
class Scope:
    """What placeholders stand for: the keys of one request, all of one view, and where lists are repeated, which one.

    ``numbers_as_text`` is whether a whole number among the join keys is a text in the body, too.
    """

    view: FeatureView
    keys: Sequence[FeatureKey]
    parameters: Mapping[str, str]
    numbers_as_text: bool = False
    key: FeatureKey | None = None
    feature: str = ""

    @property
    def one(self) -> FeatureKey:
        """The entity at hand."""
        return self.key if self.key is not None else self.keys[0]

    def at(self, key: FeatureKey | None, feature: str) -> Scope:
        """The scope of one element of a list."""
        return Scope(self.view, self.keys, self.parameters, self.numbers_as_text, key, feature)


def parse(text: str) -> TemplateText:
    """The text with its placeholders."""
    return TemplateText(tuple(_HOLE.split(text)))


def problems_in(
    text: TemplateText, known: Sequence[str], parameters: Sequence[str], path: FieldPath
) -> Iterator[Problem]:
    """What is wrong with the placeholders of a text in which ``known`` may stand."""
    for name in text.names:
        if name.startswith(JOIN_KEY) and JOIN_KEY in known and name != JOIN_KEY:
            continue
        there = [each for each in (*known, *(f"{PARAMETER}{each}" for each in parameters)) if each != JOIN_KEY]
        if name not in there:
            there += [f"{JOIN_KEY}NAME"] if JOIN_KEY in known else []
            meant = close_to(name, there)
            advice = f"did you mean {{{{{meant}}}}}?" if meant else f"there are {listed(there)}"
            yield Problem("template_placeholder", f"unknown placeholder {shown(name)} here; {advice}", path)
        elif name in WHOLE and text.whole is None:
            message = f"{{{{{name}}}}} is a list or a mapping, and stands for a value of the body as a whole"
            yield Problem("template_placeholder", message, path)
    if len(text.names) > 1 and any(map(is_of_a_key, text.names)):
        message = "a text with a join key in it has no other placeholder: two entities might read the same"
        yield Problem("template_placeholder", message, path)
    if any("{{" in part or "}}" in part for part in text.parts[::2]):
        yield Problem("template_placeholder", "braces without their partners; a placeholder is {{view}}", path)


def is_of_a_key(name: str) -> bool:
    """Whether the placeholder says something of an entity, which clients choose."""
    return name in _OF_A_KEY or name.startswith(JOIN_KEY)


def value_of(name: str, scope: Scope) -> Any:
    """What stands for the placeholder ``name`` in a body."""
    if name.startswith(JOIN_KEY):
        return _value(scope.one, name.removeprefix(JOIN_KEY), scope)
    if name.startswith(PARAMETER):
        return scope.parameters[name.removeprefix(PARAMETER)]
    names = scope.view.join_keys
    match name:
        case "view":
            return scope.view.name
        case "feature":
            return scope.feature
        case "entity":
            return scope.one.text
        case "features":
            return list(scope.view.features)
        case "join_keys":
            return {each: _value(scope.one, each, scope) for each in names}
        case "columns":
            return {each: [_value(key, each, scope) for key in scope.keys] for each in names}
    raise AssertionError(name)  # ``problems_in`` lets no other through


def _value(key: FeatureKey, name: str, scope: Scope) -> str | int:
    value = key.entity[scope.view.join_keys.index(name)]
    return str(value) if scope.numbers_as_text else value


def encoded(text: TemplateText, scope: Scope) -> str:
    """The text for a URL or a header: what stands for placeholders is percent-encoded."""
    return "".join(
        quote(str(value_of(part, scope)), safe="") if number % 2 else part for number, part in enumerate(text.parts)
    )


def plain(text: TemplateText, scope: Scope) -> str:
    """The text with what stands for its placeholders as it is, for where a text cannot end: in a JSON string."""
    return "".join(str(value_of(part, scope)) if number % 2 else part for number, part in enumerate(text.parts))


# -- values of the body


class ListElement(NamedTuple):
    """An element of a list that stands for several: one for each entity, each feature, or both."""

    element: Any
    by_key: bool
    by_feature: bool

    def scopes(self, scope: Scope) -> Iterator[Scope]:
        """A scope for each element that it stands for, entity by entity."""
        for key in scope.keys if self.by_key else (scope.key,):
            for feature in scope.view.features if self.by_feature else (scope.feature,):
                yield scope.at(key, feature)


def compiled(value: Any) -> Any:
    """A value of the body as ``rendered`` takes it: texts are ``TemplateText``, elements of lists ``ListElement``."""
    if isinstance(value, str):
        return parse(value)
    if isinstance(value, Mapping):
        return {name: compiled(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_element(compiled(part)) for part in value]
    return value


def _element(value: Any) -> ListElement:
    names = set(unbound(value))
    return ListElement(value, any(_is_of_one(name) for name in names), "feature" in names)


def unbound(value: Any) -> Iterator[str]:
    """The placeholders of a compiled value, but for those that a list within it says once for each."""
    if isinstance(value, TemplateText):
        yield from value.names
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from unbound(part)
    elif isinstance(value, list):
        for element in value:
            yield from (
                name
                for name in unbound(element.element)
                if not (element.by_key and _is_of_one(name)) and not (element.by_feature and name == "feature")
            )


def all_names(value: Any) -> Iterator[str]:
    """Every placeholder of a compiled value."""
    if isinstance(value, TemplateText):
        yield from value.names
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from all_names(part)
    elif isinstance(value, list):
        for element in value:
            yield from all_names(element.element)


def _is_of_one(name: str) -> bool:
    return is_of_a_key(name) and name != "columns"


def rendered(value: Any, scope: Scope) -> Any:
    """A compiled value with what stands for its placeholders."""
    if isinstance(value, TemplateText):
        if value.whole is not None:
            return value_of(value.whole, scope)
        return plain(value, scope)
    if isinstance(value, Mapping):
        return {name: rendered(part, scope) for name, part in value.items()}
    if isinstance(value, list):
        return [rendered(element.element, each) for element in value for each in element.scopes(scope)]
    return value
