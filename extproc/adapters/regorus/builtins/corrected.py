"""Builtins that the engine has and answers otherwise than OPA, answered as OPA does.

Where ours cannot be sure of OPA's answer, the evaluation ends: ``0 / 0`` throws in this engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from extproc.adapters.regorus.builtins.builtin import Builtin

_NUMBER: Final = r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]{1,6})?"


def _only_if(name: str, pattern: str) -> Builtin:
    """The engine's own, for texts that OPA has an answer to; the engine throws at others, or takes minutes."""
    last = name.rpartition(".")[2]
    rego = f'{last}(a) := {name}(a) if {{ is_string(a); regex.match(`^{pattern}$`, replace(a, "\\"", "")) }}'
    return Builtin(name, ("string",), None, rego)


def _is_valid(name: str) -> Builtin:
    """The engine's own, which throws where it is given no text."""
    rego = f"is_valid(a) := {name}(a) if is_string(a)\n\nis_valid(a) := false if not is_string(a)"
    return Builtin(name, ("any",), None, rego)


def _count(text: str, part: str) -> int:
    return text.count(part)


def _replace_n(patterns: Mapping[str, str], text: str) -> str:
    """Go's Replacer: at each place the first key in order, and none twice at a place where it is empty."""
    keys = sorted(patterns)
    if not all(isinstance(value, str) for value in patterns.values()):
        raise ValueError
    out, at, was_empty = [], 0, False
    while at <= len(text):
        key = next((key for key in keys if text.startswith(key, at) and (key or not was_empty)), None)
        was_empty = key == ""
        if key is None and "" in patterns and not text[at : at + 1].isascii():
            raise ValueError  # Go would put something between the bytes of a character
        out.append(text[at : at + 1] if key is None else patterns[key])
        at += 1 if key is None else len(key)
    return "".join(out)


def _sprintf(form: str, values: Sequence[Any]) -> str:
    given = iter(values)
    text = _VERB.sub(lambda verb: _formatted(verb, given), form)
    if next(given, _END) is not _END:
        raise ValueError
    return text


def _formatted(verb: re.Match[str], given: Iterator[Any]) -> str:
    """One verb's text; raises for what Go marks as an error, and what is not sure."""
    if verb[0] == "%%":
        return "%"
    value, kind = next(given), verb["kind"]
    if kind in ("d", "x", "X") and type(value) is int and not verb["digits"]:
        return format(value, kind)
    if kind == "f" and type(value) is float:
        return f"{value:.{verb['digits'] or 6}f}"
    if kind == "v" and not verb["digits"]:
        if isinstance(value, float):
            return _float(value, 6)
        return value if isinstance(value, str) else _term(value)
    if kind == "s" and not verb["digits"] and not _is_number(value):
        return value if isinstance(value, str) else _term(value)
    raise ValueError


def _term(value: Any) -> str:
    """A value as OPA prints it."""
    match value:
        case None | bool():
            return "null" if value is None else str(value).lower()
        case str() if value.isascii() and value.isprintable():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case int() if abs(value) < 10**21:
            return str(value)
        case float():
            return _float(value, 21)
        case list():
            return f"[{', '.join(map(_term, value))}]"
        case dict():
            return "{" + ", ".join(f"{_term(key)}: {_term(each)}" for key, each in sorted(value.items())) + "}"
        case set():
            return "{" + ", ".join(map(_term, sorted(value))) + "}" if value else "set()"
    raise ValueError


def _float(value: float, large: int) -> str:
    """The shortest text that is this number, as Go writes it; with an exponent from ``large`` on."""
    number = Decimal(repr(value)).normalize()
    exponent = number.adjusted()
    if -4 <= exponent < large:
        return f"{number:f}"
    digits = "".join(map(str, number.as_tuple().digits))
    mantissa = digits[0] + (f".{digits[1:]}" if digits[1:] else "")
    return f"{'-' if value < 0 else ''}{mantissa}e{exponent:+03d}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_END: Final = object()
_VERB: Final = re.compile(r"%%|%(?:\.(?P<digits>[0-9]{1,2}))?(?P<kind>.?)", re.DOTALL)

_SPRINTF: Final = """sprintf(a, b) := found[0 / count(found)] if {
	is_string(a)
	is_array(b)
	found := host.sprintf(a, b)
}"""
_GLOB: Final = r"""match(a, b, c) := found if {
	0 / count([1 | not regex.match(`[{,],|[{,]\}`, a)]) == 0
	found := glob.match(a, b, c)
}"""

BUILTINS: Final = (
    _only_if("units.parse", rf"{_NUMBER}(m|[kKMgGtTpPeE]|[kKmMgGtTpPeE][iI])?"),
    _only_if("units.parse_bytes", rf"{_NUMBER}([kKmMgGtTpPeE][iI]?[bB]?)?"),
    _is_valid("json.is_valid"),
    _is_valid("semver.is_valid"),
    Builtin("strings.count", ("string", "string"), _count),
    Builtin("strings.replace_n", ("object", "string"), _replace_n),
    Builtin("sprintf", ("string", "array"), _sprintf, _SPRINTF, arity=2),
    Builtin("glob.match", ("string", "any", "string"), None, _GLOB),
)
