"""``time.*``: the engine's own, asked only what OPA has an answer to; and dates that are reckoned as Go does."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from extproc.adapters.regorus.builtins.builtin import Builtin

_LEAST: Final = -(2**63)
_MOST: Final = 2**63 - 1
_SECOND: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MONTHS: Final = 12

_RFC3339: Final = "2006-01-02T15:04:05Z07:00"
_LAYOUTS: Final = {"RFC3339": _RFC3339, "RFC3339Nano": "2006-01-02T15:04:05.999999999Z07:00"}
_WITH_ZONES: Final = frozenset({"UnixDate", "RFC822", "RFC850", "RFC1123", "RFC3339Nano"})
"""Layouts with what the engine writes otherwise: a zone's name, or as many digits as there are."""

_PIECE: Final = re.compile(r"2006|01|02|15|04|05(?:[.,][09]+)?|Z07:00|-07:00| +|[-/:T.,]")
_ANY_PIECE: Final = re.compile(r"[0-9]|Jan|Mon|MST|PM|pm|Z07")
_PATTERNS: Final = {
    "2006": "(?P<year>[0-9]{4})",
    "01": "(?P<month>[0-9]{2})",
    "02": "(?P<day>[0-9]{2})",
    "15": "(?P<hour>[0-9]{1,2})",
    "04": "(?P<minute>[0-9]{2})",
    "Z07:00": "(?:Z|(?P<zone>[-+][0-9]{2}:[0-9]{2}))",
    "-07:00": "(?P<zone>[-+][0-9]{2}:[0-9]{2})",
}
_LEAST_PARTS: Final = {"year": 2000, "month": 1, "day": 1, "hour": 0, "minute": 0, "second": 0}
_SECONDS: Final = "(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]+))?"
_DURATION: Final = re.compile(r"[-+]?(?:0|(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h))+)")
_CENTURIES: Final = 2_000_000
"""Hours that are no duration of 64 bits, however they are written."""


def _moment(given: Any) -> bool:
    """Whether it is nanoseconds, alone or with a time zone and a layout."""
    parts = given if isinstance(given, list) else [given]
    nanoseconds = parts[0]
    if not isinstance(nanoseconds, int) or isinstance(nanoseconds, bool) or not _LEAST <= nanoseconds <= _MOST:
        raise ValueError("no nanoseconds")
    if not all(isinstance(part, str) for part in parts[1:3]):
        raise TypeError("a zone and a layout are texts")
    if len(parts) > 1 and parts[1] not in ("", "UTC", "Local"):
        ZoneInfo(parts[1])
    return True


def _moments(one: Any, other: Any) -> bool:
    return _moment(one) and _moment(other)


def _add_date(nanoseconds: Any, years: int, months: int, days: int) -> int:
    """Go's ``AddDate``: a day that the month does not have is one of the next."""
    _moment(nanoseconds)
    seconds, rest = divmod(nanoseconds, _SECOND)
    then = _EPOCH + timedelta(seconds=seconds)
    year, month = divmod((then.year + years) * _MONTHS + then.month - 1 + months, _MONTHS)
    moved = then.replace(year=year, month=month + 1, day=1) + timedelta(days=then.day - 1 + days)
    found: int = (moved - _EPOCH) // timedelta(seconds=1) * _SECOND + rest
    if not _LEAST <= found <= _MOST:
        raise OverflowError("no nanoseconds")
    return found


def _may_parse(layout: str, text: str) -> bool:
    """Whether Go may read ``text``; raises where it does not for sure. Layouts of other parts are not known here."""
    layout = _LAYOUTS.get(layout, layout)
    pieces = _PIECE.findall(layout)
    if not _ANY_PIECE.search(layout):
        raise ValueError("no part of a time")
    if "".join(pieces) != layout:
        return True
    pattern = "".join(map(_pattern, pieces))
    read = re.fullmatch(pattern, text)
    if read is None:
        raise ValueError("not as the layout has it")
    given = {name: value for name, value in read.groupdict().items() if value is not None}
    zone, fraction = given.pop("zone", "+00:00"), given.pop("fraction", "")
    year, month, day, hour, minute, second = (int(given.get(name, least)) for name, least in _LEAST_PARTS.items())
    then = datetime(year, month, day, hour, minute, second, tzinfo=UTC)  # or raises
    offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:])) * (-1 if zone[0] == "-" else 1)
    _moment((then - offset - _EPOCH) // timedelta(seconds=1) * _SECOND + int(fraction[:9].ljust(9, "0")))
    if "year" not in given:
        raise OverflowError("the year 0")
    return True


def _pattern(piece: str) -> str:
    if piece[0] == " ":
        return " +"  # one for all of them: several in a row would try every way to share out a text's
    return _SECONDS if piece[:2] == "05" else _PATTERNS.get(piece, re.escape(piece))


def _may_parse_rfc3339(text: str) -> bool:
    return _may_parse(_RFC3339, text)


def _may_parse_duration(text: str) -> bool:
    if not _DURATION.fullmatch(text):
        raise ValueError("no duration")
    if any(float(hours) > _CENTURIES * 2 for hours in re.findall(r"([0-9.]+)h", text)):
        raise OverflowError("no nanoseconds")
    return True


def _format(given: Any) -> dict[str, Any]:
    """The text by RFC 3339; for a layout, which is the engine's to follow, whether it knows all of it."""
    _moment(given)
    nanoseconds, zone, layout = [*(given if isinstance(given, list) else [given]), "", ""][:3]
    if layout:
        return {"sure": "MST" not in layout and layout not in _WITH_ZONES}
    seconds, rest = divmod(nanoseconds, _SECOND)
    then = (_EPOCH + timedelta(seconds=seconds)).astimezone(UTC if zone in ("", "UTC") else ZoneInfo(zone))
    fraction = f".{rest:09}".rstrip("0").rstrip(".")
    offset = then.strftime("%z")
    zone = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:5]}"
    return {"text": f"{then:%Y-%m-%dT%H:%M:%S}{fraction}{zone}"}


# A larger number cannot be given to Python.
_GIVEN: Final = (
    'type_name({0}) in {{"array", "number", "string"}}; '
    "count([1 | is_number({0}); abs({0}) > 9223372036854775807]) == 0; "
    "count([1 | is_number({0}[0]); abs({0}[0]) > 9223372036854775807]) == 0"
)


def _guard(name: str, function: Any, parameters: str) -> Builtin:
    last = name.rpartition(".")[2]
    kinds = "; ".join(_GIVEN.format(each) for each in parameters.split(", "))
    rego = f"{last}({parameters}) := {name}({parameters}) if {{ {kinds}; host.{name}({parameters})[0] }}"
    return Builtin(name, ("any",) * len(parameters.split(",")), function, rego)


_ADD_DATE: Final = """add_date(a, b, c, d) := found if {
	every x in [b, c, d] { is_number(x); floor(x) == x }
	some found in host.time.add_date(a, b, c, d)
}"""

# The engine reads on where Go does not, and panics where a layout has other characters: not even asked, and the
# evaluation ends.
_PARSE_NS: Final = """parse_ns(a, b) := time.parse_ns(a, b) if {
	is_string(a)
	is_string(b)
	host.time.parse_ns(a, b)[0]
	0 / count([1 | regex.match(`^[[:ascii:]]*$`, a)]) == 0
}"""
_TEXTS: Final = ("string", "string")

_FORMAT: Final = f"""format(a) := found.text if {{
	{_GIVEN.format("a")}
	some found in host.time.format(a)
}}

format(a) := time.format(a) if {{
	{_GIVEN.format("a")}
	some found in host.time.format(a)
	not found.text
	0 / count([1 | found.sure]) == 0
}}"""

BUILTINS: Final = (
    Builtin("time.format", ("any",), _format, _FORMAT),
    Builtin("time.add_date", ("any",) * 4, _add_date, _ADD_DATE),
    Builtin("time.parse_ns", _TEXTS, _may_parse, _PARSE_NS),
)

GUARDS: Final = (
    *(_guard(f"time.{name}", _moment, "a") for name in ("clock", "date", "weekday")),
    _guard("time.diff", _moments, "a, b"),
    _guard("time.parse_rfc3339_ns", _may_parse_rfc3339, "a"),
    _guard("time.parse_duration_ns", _may_parse_duration, "a"),
)
