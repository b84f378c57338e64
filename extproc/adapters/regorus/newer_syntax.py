"""What OPA's newer syntax says, in the engine's: ``input.default`` and ``$"{name} from {place}"``.

A keyword as a part of a reference is written in brackets, ``input["default"]``. A text with expressions in it is a call
of ``internal.template_string``, which is also what OPA makes of it: each expression is a set of its value, or of none.
Everything stays on its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_NEWER: Final = re.compile(r"\$[\"`]|[.](?:as|default|else|every|false|if|import|in|not|null|package|some|true|with)\b")
_TOKEN: Final = re.compile(
    r"""
    (?P<other> "(?:[^"\\\n]|\\.)*" | `[^`]*` | \#[^\n]* )
    | (?P<template> \$(?P<quote>["`]) )
    | (?<=[\w\])]) [.] (?P<keyword> as|default|else|every|false|if|import|in|not|null|package|some|true|with) \b
    | (?P<open> \{ )
    | (?P<close> \} )
    """,
    re.VERBOSE | re.DOTALL,
)
_PIECE: Final = {
    '"': re.compile(r'(?P<text>(?:[^"\\{\n]|\\.)*)(?P<end>["{])', re.DOTALL),
    "`": re.compile(r"(?P<text>(?:[^`\\{]|\\.)*)(?P<end>[`{])", re.DOTALL),
}
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_MAX_DEPTH: Final = 50


class _Unreadable(Exception):
    """The text is none that OPA reads, or nests deeply: the engine says what is wrong with it."""


def in_older_syntax(text: str) -> str:
    """The text in the syntax that the engine has."""
    if not _NEWER.search(text):
        return text
    try:
        return "".join(_written(text, 0, 0)[0])
    except _Unreadable:
        return text


def _written(text: str, at: int, depth: int) -> tuple[list[str], int]:
    """The text from ``at`` on, to its end or, within an expression, to the brace that ends that; and where it ended."""
    written, braces = [], 0
    while (token := _TOKEN.search(text, at)) is not None:
        written.append(text[at : token.start()])
        at = token.end()
        if token["keyword"]:
            written.append(f'["{token["keyword"]}"]')
        elif token["template"]:
            parts, at = _template(text, at, token["quote"], depth)
            written.append(f"internal.template_string([{', '.join(parts)}])")
        else:
            braces += bool(token["open"]) - bool(token["close"])
            if braces < 0 and depth:
                return written, at
            written.append(token[0])
    if depth:
        raise _Unreadable
    return [*written, text[at:]], len(text)


def _template(text: str, at: int, quote: str, depth: int) -> tuple[list[str], int]:
    """The parts of a text with expressions that begins at ``at``, and where it ended."""
    if depth > _MAX_DEPTH:
        raise _Unreadable
    parts: list[str] = []
    while True:
        piece = _PIECE[quote].match(text, at)
        if piece is None:
            raise _Unreadable
        at = piece.end()
        parts += _text(piece["text"], quote)
        if piece["end"] == quote:
            return parts, at
        expression, at = _written(text, at, depth + 1)
        parts.append("{template_value | template_value := " + "".join(expression) + "}")


def _text(piece: str, quote: str) -> Iterator[str]:
    """What stands between expressions, where a brace is written as ``\\{``."""
    if piece:
        yield quote + _ESCAPED.sub(lambda found: "{" if found[1] == "{" else found[0], piece) + quote
