"""The types in a condition, and what they make of it: a quotient that is rounded, an index on what is no list.

CEL types are static but for what a condition is given, and that is known: counts are whole numbers, arguments are text.
So whatever a condition compares or computes can be typed before there is a result, in branches that no example takes
too. Whoever wants a share divides ``double(...)`` by ``double(...)``. What cannot be followed has any type.
See https://github.com/google/cel-spec/blob/master/doc/langdef.md for syntax and overloads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Final, NamedTuple

from extproc.resources.marked_yaml import shown

_MIXED: Final = "the condition compares or computes values of different types"

_MAX_DEPTH: Final = 60
_TOKEN = re.compile(
    r"""//[^\n]*|\s+
      | (?P<text>"[^"]*"|'[^']*')
      | (?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[uU]?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>\|\||&&|[<>=!]=|[^\s])""",
    re.VERBOSE,
)
_PRECEDENCE: Final = {
    **dict.fromkeys(("||",), 1),
    **dict.fromkeys(("&&",), 2),
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!=", "in"), 3),
    **dict.fromkeys(("+", "-"), 4),
    **dict.fromkeys(("*", "/", "%"), 5),
}
_NUMBERS: Final = frozenset({"int", "uint", "double"})
_WHOLE: Final = frozenset({"int", "uint"})
_SAID: Final = {
    "int": "a whole number",
    "uint": "an unsigned whole number",
    "double": "a double",
    "string": "text",
    "bool": "true or false",
}
_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
_PATH: Final = re.compile(r"[A-Za-z_][\w.\[\]'\"]*")
_LITERALS: Final = {"true": "bool", "false": "bool", "null": "null"}
_OF_CALLS: Final = {
    "double": "double",
    "int": "int",
    "uint": "uint",
    "size": "int",
    "string": "string",
    "has": "bool",
}


class _Any(NamedTuple):
    """A type that is not known."""


class _List(NamedTuple):
    """A list, by the types of its elements."""

    elements: tuple[Any, ...]


Type = str | _Any | _List | Mapping[str, Any]
"""CEL's name of a type, a list, or the fields of an object with their examples."""

_ANY: Final = _Any()


class _Typed(NamedTuple):
    """An expression: the types that it may have, and where its text begins and ends."""

    types: tuple[Type, ...]
    start: int
    end: int


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


class _NotFollowed(Exception):
    """The condition is written in a way that is not read here."""


def type_faults(source: str, result: Any, args: Mapping[str, Any]) -> list[str]:
    """What the types in a condition that compiles make impossible, or another thing than is meant, in sentences."""
    try:
        return list(dict.fromkeys(_read(source, result, args).faults))
    except _NotFollowed:
        return []


def mixed_types(source: str, result: Any, args: Mapping[str, Any]) -> str:
    """What a condition compares or computes that failed for its types on ``result`` and ``args``, and the mend."""
    try:
        return next(iter(_read(source, result, args).mixed), _MIXED)
    except _NotFollowed:
        return _MIXED


def _read(source: str, result: Any, args: Mapping[str, Any]) -> _Reader:
    """What reads the condition, after it did. Raises _NotFollowed."""
    reader = _Reader(source, {"result": _type_of(result), "args": dict.fromkeys(args, "")})
    reader.condition()
    return reader


class _Reader:
    """Reads a condition by precedence climbing and notes its faults."""

    def __init__(self, source: str, known: Mapping[str, Any]) -> None:
        self._source = source
        self._known = known
        self._tokens = [
            _Token(found.lastgroup, found[0], found.start(), found.end())
            for found in _TOKEN.finditer(source)
            if found.lastgroup is not None
        ]
        self._at = self._depth = 0
        self.faults: list[str] = []
        self.mixed: list[str] = []
        """Those of the faults that are types which do not go together."""

    def condition(self) -> None:
        """Read all of it."""
        self._expression()
        if self._at < len(self._tokens):
            raise _NotFollowed

    def _peek(self) -> str:
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""

    def _take(self, *wanted: str) -> _Token:
        if self._at == len(self._tokens) or (wanted and self._peek() not in wanted):
            raise _NotFollowed
        self._at += 1
        return self._tokens[self._at - 1]

    def _expression(self) -> _Typed:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _NotFollowed
        found = self._binary(1)
        if self._peek() == "?":
            self._take()
            yes = self._expression()
            self._take(":")
            no = self._expression()
            found = _Typed((*yes.types, *(kind for kind in no.types if kind not in yes.types)), found.start, no.end)
        self._depth -= 1
        return found

    def _binary(self, least: int) -> _Typed:
        left = self._unary()
        while (precedence := _PRECEDENCE.get(self._peek(), 0)) >= least:
            operator = self._take().text
            right = self._binary(precedence + 1)
            left = _Typed(tuple(self._computed(operator, left, right)), left.start, right.end)
        return left

    def _computed(self, operator: str, left: _Typed, right: _Typed) -> list[Type]:
        """The types of ``left operator right``; each as if its faults were mended."""
        pairs = list(product(left.types, right.types))
        ordered = operator in ("<", "<=", ">", ">=")
        if operator == "/" and any(one == other and one in _WHOLE for one, other in _names(pairs)):
            rounded = f"{self._text(left)} / {self._text(right)}"
            message = (
                f"{shown(rounded)} divides whole numbers, and the quotient is rounded to one; "
                f"write double({self._text(left)}) / double({self._text(right)})"
            )
            self.faults.append(message)
            return ["double"]
        if _PRECEDENCE[operator] <= 3 and not ordered:
            if operator in ("==", "!=") and not any(_may_be_equal(one, other) for one, other in pairs):
                self.faults.append(self._mixed(operator, (left, pairs[0][0]), (right, pairs[0][1])))
            return ["bool"]
        fitting = [one for one, other in pairs if _fit(one, other, operator)]
        if not fitting:
            self.mixed.append(self._mixed(operator, (left, pairs[0][0]), (right, pairs[0][1])))
            self.faults.append(self.mixed[-1])
        return ["bool"] if ordered else list(fitting) or [_ANY]

    def _mixed(self, operator: str, left: tuple[_Typed, Type], right: tuple[_Typed, Type]) -> str:
        """That two operands, each with its type, do not go together, and what to write instead of which."""
        what = shown(f"{self._text(left[0])} {operator} {self._text(right[0])}")
        verb, joint = ("compares", "with") if _compares(operator) else ("computes with", "and")
        mends = [mend for one, other in ((left, right), (right, left)) if (mend := self._mend(operator, one, other[1]))]
        mend = f"; write {' and '.join(mends)}" if mends else ""
        vain = ", which are never equal" if operator in ("==", "!=") else ""
        return f"{what} {verb} {_said(left[1])} {joint} {_said(right[1])}{vain}{mend}"

    def _mend(self, operator: str, operand: tuple[_Typed, Type], beside: Type) -> str:
        """What to write in place of an operand ``beside`` one of another type; empty where it may stay."""
        text, kind = self._text(operand[0]), operand[1]
        wanted = "int" if operator == "%" else "double"
        if isinstance(kind, Mapping):
            return f"a field of {text}: {', '.join(kind)}"
        if kind == wanted or (_compares(operator) and (kind in _NUMBERS or beside not in _NUMBERS)):
            return ""
        if text.isdigit():
            return f"{text}.0"
        if kind == "string" and _number_in(text):
            return text[1:-1]
        return f"{wanted}({text})" if _PATH.fullmatch(text) and kind in (*_NUMBERS, "string") else ""

    def _text(self, typed: _Typed) -> str:
        """An operand as it is written, without brackets around all of it."""
        text = self._source[typed.start : typed.end]
        depth = 0
        for at, sign in enumerate(text):
            depth += (sign == "(") - (sign == ")")
            if depth == 0:
                return text[1:-1] if sign == ")" and at == len(text) - 1 and text[0] == "(" else text
        return text

    def _unary(self) -> _Typed:
        signs = []
        while self._peek() in ("!", "-"):
            signs.append(self._take())
        found = self._member()
        if not signs:
            return found
        return _Typed(("bool",) if signs[0].text == "!" else found.types, signs[0].start, found.end)

    def _member(self) -> _Typed:
        found = self._primary()
        while self._peek() in (".", "["):
            if self._take().text == ".":
                field = self._take()
                types = tuple(_field(kind, field.text) for kind in found.types)
                found = _Typed(types, found.start, field.end)
            else:
                index = self._expression()
                end = self._take("]").end
                found = _Typed(tuple(self._indexed(found, index)), found.start, end)
        return found

    def _indexed(self, base: _Typed, index: _Typed) -> Iterator[Type]:
        by_number = all(kind in _NUMBERS for kind in index.types if isinstance(kind, str))
        text = self._source[index.start : index.end]
        for kind in base.types:
            if isinstance(kind, _List):
                yield from kind.elements or (_ANY,)
            elif isinstance(kind, Mapping) and by_number and index.types:
                known = ", ".join(kind)
                what = self._text(base)
                self.faults.append(f"{what} is no list and has no [{text}]; it has fields by name: {known}")
                yield _ANY
            else:
                yield _field(kind, text[1:-1]) if text[:1] in ("'", '"') else _ANY

    def _primary(self) -> _Typed:
        token = self._take()
        start, end = token.start, token.end
        if token.kind == "number":
            return _Typed((_number(token.text),), start, end)
        if token.kind == "text":
            return _Typed(("string",), start, end)
        if token.kind == "name":
            return self._named(token)
        if token.text == "(":
            found = self._expression()
            return _Typed(found.types, start, self._take(")").end)
        if token.text == "[":
            elements = [kind for item in self._items("]") for kind in item.types]
            return _Typed((_List(tuple(elements)),), start, self._tokens[self._at - 1].end)
        raise _NotFollowed

    def _named(self, token: _Token) -> _Typed:
        name = token.text
        if name in _LITERALS:
            return _Typed((_LITERALS[name],), token.start, token.end)
        if name in self._known:
            return _Typed((self._known[name],), token.start, token.end)
        if name in _OF_CALLS and self._peek() == "(":
            self._take()
            self._items(")")
            return _Typed((_OF_CALLS[name],), token.start, self._tokens[self._at - 1].end)
        raise _NotFollowed

    def _items(self, end: str) -> list[_Typed]:
        """Expressions with commas between them, up to ``end``."""
        items = []
        while self._peek() != end:
            items.append(self._expression())
            if self._peek() != end:
                self._take(",")
        self._take(end)
        return items


def _compares(operator: str) -> bool:
    return _PRECEDENCE[operator] == _PRECEDENCE["<"]


def _may_be_equal(one: Type, other: Type) -> bool:
    """Whether there are equal values of the two; a field may be null, whatever its example is."""
    return not isinstance(one, str) or not isinstance(other, str) or "null" in (one, other) or _fit(one, other, "<")


def _said(kind: Type) -> str:
    """A type in words."""
    return _SAID.get(kind, kind) if isinstance(kind, str) else "an object"


def _number_in(text: str) -> bool:
    """Whether ``text``, in its quotes, is a number."""
    return _NUMBER.fullmatch(text[1:-1]) is not None


def _names(pairs: list[tuple[Type, Type]]) -> Iterator[tuple[str, str]]:
    """The pairs of types that have a name."""
    return ((one, other) for one, other in pairs if isinstance(one, str) and isinstance(other, str))


def _fit(one: Type, other: Type, operator: str) -> bool:
    """Whether the two can be computed or compared with each other: numbers of any kinds can be compared."""
    if not isinstance(one, str) or not isinstance(other, str):
        return isinstance(one, _Any | _List) or isinstance(other, _Any | _List)
    if _compares(operator):
        return one == other or {one, other} <= _NUMBERS
    return one == other and one in (
        _WHOLE if operator == "%" else {*_NUMBERS, *(["string"] if operator == "+" else ())}
    )


def _field(kind: Type, name: str) -> Type:
    """The type of a field, by its example."""
    if not isinstance(kind, Mapping) or name not in kind:
        return _ANY
    return _type_of(kind[name])


def _type_of(value: Any) -> Type:
    """The type of an example."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list):
        return _List(tuple(_type_of(element) for element in value))
    return {bool: "bool", int: "int", float: "double", str: "string"}.get(type(value), _ANY)


def _number(text: str) -> str:
    if text[-1] in "uU":
        return "uint"
    return "int" if text[:2] in ("0x", "0X") or not set(text) & set(".eE") else "double"
