"""What the store's JSON says of a value: whether it is of the type that the template names, and when it is from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
_EXACT: Final = 1 << 53
_BOUND: Final = 1 << 63
_LATEST: Final = 253_402_300_800.0
"""The year 10 000 in Unix seconds: no time is later."""


class WrongTypeError(Exception):
    """A value is not what the template says that it is; in words."""


def no_number(value: object) -> bool:
    """Whether it is what JSON of protocol buffers writes for NaN and infinities."""
    return value in ("NaN", "Infinity", "-Infinity")


def typed(value: Any, kind: str) -> Any:
    """``value`` as the type ``kind`` of a template; an integer may be a text or, as pandas writes it, end in ``.0``.

    Raises:
        WrongTypeError: it is something else.
    """
    if kind == "any":
        return value
    if kind in _KINDS:
        return _KINDS[kind](value)
    if not isinstance(value, list):
        raise WrongTypeError(f"{_called(value)} and not a list of {kind}")
    return [_KINDS[kind.removesuffix("s")](each) for each in value]


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise WrongTypeError(f"{_called(value)} and not a string")


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise WrongTypeError(f"{_called(value)} and not a boolean")


def _integer(value: Any) -> int:
    is_text = isinstance(value, str) and _INTEGER.fullmatch(value)
    is_float = isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT
    number = int(value) if is_text or is_float else value
    if isinstance(number, int) and not isinstance(number, bool) and -_BOUND <= number < _BOUND:
        return number
    raise WrongTypeError(f"{_called(value)} and not an integer of 64 bits")


def _number(value: Any) -> int | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise WrongTypeError(f"{_called(value)} and not a number")


_KINDS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "string": _string,
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
}

_NAMES: Final = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}


def _called(value: Any) -> str:
    """What a value is, without what it holds: it may be somebody's own."""
    return f"it is {_NAMES.get(type(value), 'null' if value is None else 'a mapping')}"


def event_time(written: Any, how: str) -> float | None:
    """Unix seconds of a time that is ``written`` as a template says; None where there is none.

    The first moment of 1970 is none: it is what a message of protocol buffers says that says nothing of a time, such as
    Feast's server of on-demand views.

    Raises:
        WrongTypeError: it is no such time.
    """
    if written is None:
        return None
    seconds = _rfc3339(written) if how == "rfc3339" else _unix(written, 1000.0 if how == "unix_milliseconds" else 1.0)
    return seconds or None


def _unix(written: Any, parts: float) -> float:
    seconds = float(_number(written)) / parts
    if abs(seconds) >= _LATEST:
        raise WrongTypeError("it is no time in Unix seconds or milliseconds, as the template says")
    return seconds


def _rfc3339(written: Any) -> float:
    try:
        found = datetime.fromisoformat(written)
        if found.tzinfo is not None:
            return found.timestamp()
    except (TypeError, ValueError, OverflowError):
        pass
    raise WrongTypeError("it is no time as in RFC 3339, such as 2026-11-30T12:00:00Z")
