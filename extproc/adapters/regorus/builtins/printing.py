"""``sprintf``, as Go's ``fmt`` prints the values that OPA gives it.

Where ours cannot be sure of OPA's answer, the evaluation ends: ``0 / 0`` throws in this engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

from extproc.adapters.regorus.builtins.builtin import Builtin

_MAX_WIDTH: Final = 1_000
_WHOLE: Final = 2**63
_END: Final = object()
_VERB: Final = re.compile(
    r"%(?:(?P<plain>%)|(?P<flags>[-+ 0]*)(?P<width>[1-9][0-9]{0,3})?(?:\.(?P<digits>[0-9]{0,2}))?(?P<kind>.?))",
    re.DOTALL,
)
_KNOWN: Final = {int: "vTdboOxXcqU", float: "vTbgGxXfFeE", str: "vTsqxXp"}
_BASES: Final = {"b": "b", "d": "d", "o": "o", "v": "d", "x": "x", "X": "X"}


def _sprintf(form: str, values: Sequence[Any]) -> str:
    """The text. A whole number over 64 bits is given as ``{"big": its digits}``."""
    given = iter([_number(value) for value in values])
    text = _VERB.sub(lambda verb: _formatted(verb, given), form)
    extra = list(given)
    if extra:
        text += f"%!(EXTRA {', '.join(f'{_type(each)}={_plain(each)}' for each in extra)})"
    return text


def _number(value: Any) -> Any:
    return int(value["big"]) if isinstance(value, dict) and value.keys() == {"big"} else value


def _formatted(verb: re.Match[str], given: Iterator[Any]) -> str:
    """One verb's text; raises for what is not sure."""
    kind, flags, digits = verb["kind"], verb["flags"] or "", verb["digits"]
    if verb["plain"]:
        return "%"
    if not kind:
        return "%!(NOVERB)"
    if not kind.isalpha():
        _unsure()
    value = next(given, _END)
    if value is _END:
        return f"%!{kind}(MISSING)" if not flags else _unsure()
    width = int(verb["width"] or 0)
    if width > _MAX_WIDTH:
        _unsure()
    text = _text(kind, flags, digits, value, width)
    if "-" in flags:
        return text.ljust(width)
    zeros = "0" in flags and digits is None and _is_number(value)
    return text.zfill(width) if zeros else text.rjust(width) if "0" not in flags or _is_number(value) else _unsure()


def _text(kind: str, flags: str, digits: str | None, value: Any, width: int = 0) -> str:
    """A value by a verb, before it is padded."""
    sign = "+" if "+" in flags else " " if " " in flags else "-"
    if kind == "v" and _is_number(value) and (digits is not None or sign != "-"):
        _unsure()
    match value:
        case bool() | None:
            pass
        case int() if kind in _BASES and digits is None:
            return format(value, sign + _BASES[kind])
        case int() if kind == "s" and not -_WHOLE <= value < _WHOLE and sign == "-":
            return str(value)
        case float() if kind in ("f", "F"):
            return f"{value:{sign}.{6 if digits is None else int(digits or 0)}f}"
        case float() if kind == "v":
            return _float(value, 6)
    text = _plain(value) if _is_number(value) else value if isinstance(value, str) else term(value)
    if not _is_number(value) and kind in ("s", "v") and sign == "-":
        return text if digits is None else text[: int(digits or 0)]
    if kind in _KNOWN[type(value) if _is_number(value) else str] or width:
        _unsure()
    return f"%!{kind}({_type(value)}={text})"


def _unsure() -> Any:
    raise ValueError("not sure to be as in Go")


def _type(value: Any) -> str:
    if not _is_number(value):
        return "string"
    if isinstance(value, float):
        return "float64"
    return "int64" if -_WHOLE <= value < _WHOLE else _unsure()


def _plain(value: Any) -> str:
    return _text("v", "", None, value)


def term(value: Any) -> str:
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
            return f"[{', '.join(map(term, value))}]"
        case dict():
            return "{" + ", ".join(f"{term(key)}: {term(each)}" for key, each in sorted(value.items())) + "}"
        case set():
            return "{" + ", ".join(map(term, sorted(value))) + "}" if value else "set()"
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


_SPRINTF: Final = """sprintf(a, b) := found[0 / count(found)] if {
	is_string(a)
	is_array(b)
	found := host.sprintf(a, b)
}"""

# A whole number over 64 bits cannot be given to Python.
_BIG_SPRINTF: Final = """sprintf(a, b) := found[0 / count(found)] if {
	is_string(a)
	is_array(b)
	found := host.sprintf(a, [sprintf_value(x) | some x in b])
}

default sprintf_value(_) := null

sprintf_value(x) := x if not sprintf_is_big(x)

sprintf_value(x) := {"big": format_int(x, 10)} if sprintf_is_big(x)

sprintf_is_big(x) if {
	is_number(x)
	floor(x) == x
	abs(x) >= 9223372036854775807
}"""

BUILTINS: Final = (Builtin("sprintf", ("string", "array"), _sprintf, _SPRINTF, arity=2),)

GUARDS: Final = (Builtin("sprintf", ("string", "array"), _sprintf, _BIG_SPRINTF, arity=2),)
