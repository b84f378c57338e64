"""What authors of policies most often mean where the engine only says that it cannot read on."""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class _Hint(NamedTuple):
    """What to say where the engine's message has ``said`` in it and the line ``written``."""

    said: str
    written: re.Pattern[str]
    advice: str


_ANY: Final = re.compile("")
_HINTS: Final = (
    _Hint(
        "keyword is required before rule body",
        _ANY,
        "this is Rego v1, where a set's rule has `contains` before it: "
        "`opa fmt --v0-v1 --write` rewrites what is older",
    ),
    _Hint("unexpected keyword `package`", _ANY, "a file holds one package"),
    _Hint("unexpected keyword `not`", re.compile(r"\bnot\s+in\b"), "write `not x in xs`"),
    _Hint("shadows previous import", _ANY, "`import rego.v1` brings the keywords along, so leave the others out"),
    _Hint(
        "rule must have a body",
        re.compile(r"\b(and|or)\b"),
        "conditions that hold together stand on lines of their own or have `;` between them, "
        "and what holds instead is another rule",
    ),
    _Hint("invalid character", re.compile("'"), 'text is quoted by " or by `'),
)


def with_hint(message: str, text: str, number: int | None) -> str:
    """The engine's ``message`` on a line of ``text``, by its number from 1, with what to write, where that is known."""
    lines = text.splitlines()
    line = lines[number - 1] if number is not None and 0 < number <= len(lines) else ""
    for hint in _HINTS:
        if hint.said in message and hint.written.search(line):
            return f"{message}; {hint.advice}"
    return message
