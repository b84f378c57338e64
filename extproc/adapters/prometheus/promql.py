"""Variables in a query: ``{{args.NAME}}``, and what the rollout is. What stands for one is a value and never PromQL.

In double or single quotes a variable is a text, whatever it holds, and after ``=~`` and ``!~`` a literal one. Outside
of quotes it is a number or a duration. In backticks nothing can be escaped, so there it is refused; and so it is
right behind a backslash that escapes nothing else, which would take the value's first sign for its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from extproc.resources.marked_yaml import shown

ARGUMENT: Final = "args."
OF_THE_ROLLOUT: Final = ("rollout.namespace", "rollout.name", "canary.version", "control.version")
"""Variables that every query has; in an experiment the canary is the variant that is measured."""

_PIECE: Final = re.compile(
    r"""(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<raw>`[^`]*`)
      | (?P<comment>\#[^\n]*)
      | (?P<variable>\{\{[^{}]*\}\})
      | (?P<space>\s+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_VARIABLE: Final = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_ESCAPED_VARIABLE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\\{\{[^{}]*\}\}")
_CANNOT_BE_ESCAPED: Final = "a variable behind a backslash cannot be escaped; write the backslash twice"
_BARE: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|(?:[0-9]+(?:ms|[smhdwy]))+")


class _Piece(NamedTuple):
    kind: str
    text: str
    is_pattern: bool


def _pieces(query: str) -> Iterator[_Piece]:
    """The query in pieces, each with whether it is what a matcher takes for a regular expression."""
    before = ""
    for found in _PIECE.finditer(query):
        kind = found.lastgroup or ""
        yield _Piece(kind, found[0], before in ("=~", "!~"))
        if kind not in ("space", "comment"):
            before = (before + found[0])[-2:]


def faults_in(query: str, known: Mapping[str, object]) -> Iterator[str]:
    """What is wrong with the variables of a query, in sentences; ``known`` are the names of those that there are."""
    for piece in _pieces(query):
        names = [] if piece.kind == "comment" else _VARIABLE.findall(piece.text)
        if names and piece.kind == "raw":
            yield "a variable in backticks cannot be escaped; write the text in double quotes"
        if piece.kind == "text" and _ESCAPED_VARIABLE.search(piece.text):
            yield _CANNOT_BE_ESCAPED
        for name in names:
            if name not in known:
                yield f"unknown variable {shown(name)}; known are {', '.join(known)}"


def filled(query: str, values: Mapping[str, str]) -> str:
    """The query with ``values`` for its variables.

    Raises:
        ValueError: for a variable that has no value or may not stand where it does; the text says which and why.
    """
    return "".join(_filled(piece, values) for piece in _pieces(query))


def _filled(piece: _Piece, values: Mapping[str, str]) -> str:
    if piece.kind in ("comment", "raw"):
        return piece.text
    if piece.kind == "variable":
        return _bare(piece.text, values)
    if piece.kind == "text":
        if _ESCAPED_VARIABLE.search(piece.text):  # in a document from before this was refused
            raise ValueError(_CANNOT_BE_ESCAPED)
        quote = piece.text[0]
        return _VARIABLE.sub(lambda found: _escaped(_value(found[1], values), quote, piece.is_pattern), piece.text)
    return piece.text


def _bare(variable: str, values: Mapping[str, str]) -> str:
    name = variable[2:-2].strip()
    value = _value(name, values)
    if _BARE.fullmatch(value) is None:
        message = f"{name} is {shown(value)}, and outside of quotes a query takes a number or a duration"
        raise ValueError(message)
    return value


def _value(name: str, values: Mapping[str, str]) -> str:
    if name not in values:
        raise ValueError(f"the query's variable {shown(name)} has no value")
    return values[name]


def _escaped(value: str, quote: str, is_pattern: bool) -> str:
    """The value as a part of a text in these quotes, which Prometheus reads as Go does."""
    text = re.escape(value) if is_pattern else value
    escaped = text.replace("\\", "\\\\").replace(quote, f"\\{quote}")
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in escaped)
