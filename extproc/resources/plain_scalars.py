"""What an unquoted scalar of YAML is: nothing, true or false, a number, or text.

YAML leaves that to a schema, and there are two here. Documents follow YAML 1.2's core schema. Data of policies is
read as OPA reads it, which is the schema of go-yaml: see ``resolve.go`` in https://github.com/yaml/go-yaml.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any, Final

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NUMBER_STARTS = frozenset("+-.0123456789")
_MAX_NUMBER_LENGTH: Final = 64

_INTEGER = re.compile(r"[-+]?[0-9]+")
_RADIX = re.compile(r"0(?:x[0-9a-fA-F]+|o[0-7]+)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")

_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_STRAY_UNDERSCORE = re.compile(r"(?<![0-9])_|_(?![0-9])")
"""One that is not between digits; it is only looked for where a number starts with its point."""
_GO_INTEGERS: Final = (
    (re.compile(r"[-+]?0[xX]([0-9a-fA-F]+)"), 16),
    (re.compile(r"[-+]?0[oO]?([0-7]+)"), 8),
    (re.compile(r"[-+]?0[bB]([01]+)"), 2),
    (re.compile(r"[-+]?(0|[1-9][0-9]{0,19})"), 10),
)
_GO_WRITES_OUT: Final = 1e21
"""Whole numbers below this are written without an exponent, and so are integers for whoever reads them."""


class NotJson(ValueError):
    """A scalar that JSON has no word for."""


def core_schema(text: str) -> Any:
    """An unquoted scalar by the core schema; infinities and endless numbers, which no document needs, stay text."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in _NUMBER_STARTS or len(text) > _MAX_NUMBER_LENGTH:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _RADIX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def opa_schema(text: str) -> Any:
    """An unquoted scalar as OPA reads it: ``017`` and ``0o17`` are 15, ``1_000`` is 1000, ``no`` and ``22:00`` text.

    Raises:
        NotJson: for an infinity and for what is no number (``.inf``, ``.nan``), which OPA refuses.
    """
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    if _NOT_FINITE.fullmatch(text):
        raise NotJson(f"{text} is not a number that JSON has")
    if text[0] == "." and _STRAY_UNDERSCORE.search(text):
        return text
    plain = text.replace("_", "")
    whole = _go_integer(plain)
    if whole is not None:
        return whole
    return _go_number(plain, text) if _FLOAT.fullmatch(plain) else text


def _go_integer(plain: str) -> int | None:
    """The 64-bit integer that ``plain`` is in Go's notation, signed or, without a sign, unsigned."""
    for pattern, base in _GO_INTEGERS:
        found = pattern.fullmatch(plain)
        if found is not None:
            value = -int(found[1], base) if plain[0] == "-" else int(found[1], base)
            if -(2**63) <= value < (2**64 if plain[0] != "+" else 2**63):
                return value
    return None


def _go_number(plain: str, text: str) -> int | float | str:
    """A 64-bit float as Go writes it into JSON; what is too large for one stays text."""
    value = float(plain)
    if math.isinf(value):
        return text
    # Its shortest digits, not its exact value: 2**64 becomes 18446744073709552000.
    return int(Decimal(repr(value))) if value.is_integer() and abs(value) < _GO_WRITES_OUT else value
