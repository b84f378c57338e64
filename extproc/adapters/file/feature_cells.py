"""What a cell of a CSV file of features is: a number, true or false, text, or nothing, as other programs write them.

pandas writes ``True``, ``1e-07`` and an empty cell (or ``nan``, ``<NA>``, ``None``), R ``TRUE``, ``1e+05`` and ``NA``,
spreadsheets ``TRUE``, ``#N/A`` and, where a comma is the decimal sign, ``0,95`` between semicolons. CSV has no types,
so a feature has that of all its cells in a file, or what ``--types`` says; what could be two things is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import orjson

from extproc.adapters.sqlite.features import ABSENT

TYPES: Final = ("number", "boolean", "text")

_A: Final = {"number": "a number", "boolean": "a boolean", "text": "text"}
_BOOLEANS: Final = {
    spelling: value for value in (True, False) for spelling in (str(value), str(value).lower(), str(value).upper())
}
_ABSENT: Final = frozenset(
    {"NA", "<NA>", "N/A", "#N/A", "nan", "NaN", "NAN", "NaT", "None", "null", "Null", "NULL", "\\N"}
)
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_COMMA_NUMBER = re.compile(r"[-+]?(?:[0-9]+,[0-9]*|,[0-9]+)(?:[eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")
_NOT_FINITE = re.compile(r"[-+]?(?:inf|infinity)", re.IGNORECASE)
_LIKE_A_NUMBER = re.compile(r"[-+\u2212$€£]?[0-9.,][0-9.,'_ \u00a0\u202f]*[%$€£]?")
_VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_ERROR = re.compile(r"#[A-Z0-9/]+[!?]")
_NUMBER_FOR_AN_ID = re.compile(r"[0-9]+\.0|[0-9](?:\.[0-9]+)?[eE]\+[0-9]+")


Feature = tuple[str, str]
"""A view and a name."""


class BadCell(ValueError):
    """A cell that is not understood: a stable code, and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Cell(NamedTuple):
    """A cell: its ``kind`` (one of ``TYPES``, ``nothing``, or ``word`` for what may be nothing or text), its value."""

    kind: str
    value: Any
    text: str


class ValueColumn:
    """The cells of the values in one file: all of one feature have one type, all numbers one decimal sign."""

    def __init__(self, types: Mapping[str, str], *, comma: bool) -> None:
        """``types`` by the names of features; ``comma``: a comma may be a decimal sign."""
        self._types = types
        self._comma = comma
        self._first: dict[Feature, tuple[Cell, int]] = {}
        self._words: list[tuple[Feature, Cell, int]] = []
        self._sign: tuple[str, int] | None = None

    def take(self, feature: Feature, text: str, line: int) -> Any:
        """The value in a cell, or ``ABSENT``.

        Raises:
            BadCell: ``value_not_finite``, ``value_unclear``, ``value_type`` or ``decimal_sign``.
        """
        kind = self._types.get(feature[1])
        cell = typed_cell(text, kind, comma=self._comma) if kind else read_cell(text, comma=self._comma)
        if kind is None and cell.kind == "word":
            self._words.append((feature, cell, line))
        elif cell.kind != "nothing":
            self._agree(feature, cell, line)
        return cell.value

    def unclear(self) -> Iterator[tuple[Feature, int, BadCell]]:
        """The cells, with their lines, that are no value if their feature is a number, and it is text."""
        for feature, cell, line in self._words:
            if feature in self._first and self._first[feature][0].kind == "text":
                yield feature, line, BadCell("value_unclear", f"{cell.text!r} among texts may be one, or no value")

    def _agree(self, feature: Feature, cell: Cell, line: int) -> None:
        known, earlier = self._first.setdefault(feature, (cell, line))
        if known.kind != cell.kind:
            raise BadCell("value_type", f"{cell.text!r} is {_A[cell.kind]}, and line {earlier} has {_A[known.kind]}")
        sign = _decimal_sign(cell)
        if sign is None:
            return
        if self._sign is None:
            self._sign = (sign, line)
        elif self._sign[0] != sign:
            raise BadCell("decimal_sign", f"{cell.text!r} has another decimal sign than line {self._sign[1]}")


def read_cell(text: str, *, comma: bool) -> Cell:
    """The cell that ``text`` is by itself; ``comma``: a comma is a decimal sign here.

    Raises:
        BadCell: ``value_not_finite``, or ``value_unclear`` for what looks like a number and is none.
    """
    bare = text.strip()
    if bare in _BOOLEANS:
        return Cell("boolean", _BOOLEANS[bare], text)
    if not bare or bare in _ABSENT:
        return Cell("word" if bare else "nothing", ABSENT, text)
    if bare[0] == bare[-1] == '"' and (quoted := _json_text(bare)) is not None:
        return Cell("text", quoted, text)
    if _NOT_FINITE.fullmatch(bare):
        raise BadCell("value_not_finite", f"{bare} is not a number that JSON has")
    if _LEADING_ZERO.match(bare) is None and (_NUMBER.fullmatch(bare) or (comma and _COMMA_NUMBER.fullmatch(bare))):
        return Cell("number", _number(bare), text)
    unclear = _LIKE_A_NUMBER.fullmatch(bare) and any(sign.isdigit() for sign in bare) and not _VERSION.fullmatch(bare)
    if unclear or _ERROR.fullmatch(bare):
        raise BadCell("value_unclear", f"{text!r} is neither a number nor clearly text")
    return Cell("text", text, text)


def typed_cell(text: str, kind: str, *, comma: bool) -> Cell:
    """The cell that ``text`` is as ``kind``; nothing in a text is only the empty cell.

    Raises:
        BadCell: ``value_type`` when it is none, or the codes of ``read_cell``.
    """
    bare = text.strip()
    if not text or (kind != "text" and (not bare or bare in _ABSENT)):
        return Cell("nothing", ABSENT, text)
    if kind == "text":
        return Cell(kind, text, text)
    if kind == "boolean" and bare in (*_BOOLEANS, "0", "1"):
        return Cell(kind, _BOOLEANS.get(bare, bare == "1"), text)
    if kind == "number" and (_NUMBER.fullmatch(bare) or (comma and _COMMA_NUMBER.fullmatch(bare))):
        return Cell(kind, _number(bare), text)
    if kind == "number" and _NOT_FINITE.fullmatch(bare):
        raise BadCell("value_not_finite", f"{bare} is not a number that JSON has")
    raise BadCell("value_type", f"{text!r} is not {_A[kind]}, as --types has it")


def check_id(text: str) -> None:
    """Refuse an entity that a program wrote as the number that it took it for.

    Raises:
        BadCell: ``entity_unclear``.
    """
    if _NUMBER_FOR_AN_ID.fullmatch(text):
        raise BadCell("entity_unclear", f"{text!r} is how a program writes a number, and hardly an id")


def parse_types(text: str) -> Mapping[str, str]:
    """The types in ``risk=number,vip=boolean``, by name.

    Raises:
        ValueError: it is written in another way.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        name, _, kind = (side.strip() for side in part.partition("="))
        if not name or kind not in TYPES:
            raise ValueError(f"{part!r} is not NAME=TYPE, with the type {', '.join(TYPES[:-1])} or {TYPES[-1]}")
        if found.setdefault(name, kind) != kind:
            raise ValueError(f"{name} has two types")
    return found


def _decimal_sign(cell: Cell) -> str | None:
    """The decimal sign in a number; None where there is none."""
    if cell.kind != "number":
        return None
    return next((sign for sign in ".," if sign in cell.text), None)


def _number(bare: str) -> int | float:
    plain = bare.replace(",", ".")
    if plain.lstrip("+-").isdigit():
        whole = int(plain) if len(plain) <= 21 else 2**64
        if not -(2**63) <= whole < 2**64:
            raise BadCell("value_unclear", f"{bare} has more digits than a number keeps")
        return whole
    value = float(plain)
    if value in (float("inf"), float("-inf")):
        raise BadCell("value_not_finite", f"{bare} is not a number that JSON has")
    return value


def _json_text(bare: str) -> str | None:
    try:
        found = orjson.loads(bare)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, str) else None
