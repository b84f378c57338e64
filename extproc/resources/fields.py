"""The kinds of value that documents are made of: percents, durations, names, header values.

Each is a pydantic type that says in a sentence what it takes and shows editors a pattern. Nothing is coerced: YAML
turns an unquoted ``3`` into a number, and a version is a string.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from extproc.assignment import parse_percent
from extproc.names import OWN_HEADERS
from extproc.resources.input_paths import format_path, parse_path
from extproc.resources.marked_yaml import shown
from extproc.resources.policy_schema import POLICY_INPUT_SCHEMA, misspelt

UPSTREAM_VARIABLES: Final = ("model", "version", "namespace", "name")
"""What an upstream template may name in braces."""

FIELD_CODES: Final = frozenset(
    {"invalid_value", "missing_field", "mistyped_value", "upstream_unknown_variable", "upstream_invalid_template"}
)
"""The codes that validators raise."""

_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_TOKEN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$"  # noqa: S105 - RFC 9110's token, not a secret
_VISIBLE = r"^[!-~]{1,128}$"
_SEED = r"^[!-9;-~]{1,128}$"
_TEXT = r"^[^\x00-\x1f\x7f]{1,4096}$"
_EXPRESSION = r"^[^\x00-\x08\x0b-\x1f\x7f]{1,1000}$"
_PATH = r"""^/[!"$->@-~]{0,1023}$"""
_HOST = r"^(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_RULE = r"^[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)+$"
_UPSTREAM = rf"^([!-z|~]|\{{({'|'.join(UPSTREAM_VARIABLES)})\}})+$"
_READ = rf"^({'|'.join(POLICY_INPUT_SCHEMA['properties'])})([.\[].*)?$"
_DURATION = r"^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$"

_UNIT_SECONDS: Final = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_LONGEST_DURATION_SECONDS: Final = 2**63 / 1e9  # Go's own limit
_LONGEST_READ: Final = 512
_SHORTEST_TIMEOUT_SECONDS: Final = 0.001
_LONGEST_TIMEOUT_SECONDS: Final = 365 * 24 * 3600
_VARIABLE = re.compile(r"\{([^{}]*)\}")


def invalid(message: str, code: str = "invalid_value") -> PydanticCustomError:
    """What a validator raises: a stable code and a sentence."""
    return PydanticCustomError(code, message)


def _matching(pattern: str, sentence: str, change: Callable[[str], str] = str) -> Callable[[str], str]:
    """A validator: the text after ``change``, if all of it matches ``pattern``."""
    matches = re.compile(pattern.removesuffix("$")).fullmatch

    def check(text: str) -> str:
        changed = change(text)
        if matches(changed) is None:
            raise invalid(f"{shown(text)} is not {sentence}")
        return changed

    return check


_token_name = _matching(_TOKEN, "the name of an HTTP header", str.lower)


def _header_name(text: str) -> str:
    name = _token_name(text)
    if name in OWN_HEADERS:
        raise invalid(f"{name!r} is a header that Dropout sets and strips from clients")
    if name == "host":
        raise invalid("no request has this header before Envoy routes it; ask for hosts in match")
    return name


def _host(text: str) -> str:
    checked = _host_characters(text)
    if len(checked) > 253:
        raise invalid("a host has 253 characters at most")
    return checked


_host_characters = _matching(_HOST, "a host such as api.example.com or *.example.com, without a port", str.lower)


def _upstream(template: str) -> str:
    checked = _visible(template)
    for variable in _VARIABLE.findall(checked):
        if variable not in UPSTREAM_VARIABLES:
            known = ", ".join(f"{{{name}}}" for name in UPSTREAM_VARIABLES)
            raise invalid(f"unknown variable {shown(variable)}; known are {known}", "upstream_unknown_variable")
    if set("{}") & set(_VARIABLE.sub("", checked)):
        raise invalid("a brace without its partner; braces are for variables only", "upstream_invalid_template")
    return checked


_visible = _matching(_VISIBLE, "a value of 1 to 128 visible ASCII characters")


def _read(text: str) -> str:
    try:
        path = parse_path(text)
    except ValueError:
        path = ()
    if not path or len(text) > _LONGEST_READ:
        examples = "features.risk or attributes.request.http.headers.x-tenant"
        raise invalid(f"{shown(text)} is not a part of the input, such as {examples}")
    message = misspelt(path, POLICY_INPUT_SCHEMA)
    if message is not None:
        raise invalid(message)
    return format_path(path)


def parse_duration(text: str) -> float:
    """Seconds in a duration as Go writes it: ``5ms``, ``10m``, ``1h30m``.

    Raises:
        ValueError: when it is none, is zero, or is longer than 292 years.
    """
    seconds = _seconds(text)
    if not 0 < seconds < _LONGEST_DURATION_SECONDS:
        raise invalid(f"{shown(text)} is not a duration above zero and below 292 years")
    return seconds


def parse_timeout(text: str) -> float:
    """Seconds in a timeout of Envoy's, which counts milliseconds; 0 is none, as in Envoy and the Gateway API.

    Raises:
        ValueError: when it is no duration, is above zero and below a millisecond, or is longer than a year.
    """
    seconds = _seconds(text)
    if seconds and not _SHORTEST_TIMEOUT_SECONDS <= seconds <= _LONGEST_TIMEOUT_SECONDS:
        raise invalid(f"{shown(text)} is not 0s, for no limit, or a duration from 1ms to 8760h")
    return seconds


def _seconds(text: str) -> float:
    if len(text) > 64 or re.fullmatch(_DURATION.removesuffix("$"), text) is None:
        raise invalid(f"{shown(text)} is not a duration such as 5ms, 10m or 1h30m")
    return float(sum(Decimal(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(text)))


def format_duration(seconds: float) -> str:
    """``seconds`` as a whole number of the largest unit that allows it."""
    exact = Decimal(repr(seconds))
    if not exact:
        return "0s"
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        if exact % _UNIT_SECONDS[unit] == 0:
            return f"{int(exact / _UNIT_SECONDS[unit])}{unit}"
    return f"{exact:f}s"


def _duration(parse: Callable[[str], float]) -> Callable[[object], float]:
    def check(value: object) -> float:
        if isinstance(value, str):
            return parse(value)
        raise invalid("must be a duration with its unit, such as 5ms, 10m or 1h30m", "mistyped_value")

    return check


def _percent(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(
            "must be a number of percent, such as 5 or 12.5, without quotes or a percent sign", "mistyped_value"
        )
    return parse_percent(value)


def format_percent(hundredths: int) -> int | float:
    """Hundredths of a percent as documents write them: 500 is 5, 1234 is 12.34."""
    whole, rest = divmod(hundredths, 100)
    return float(Decimal(hundredths) / 100) if rest else whole


def _string(pattern: str, check: Callable[[str], str], *examples: str) -> tuple[Any, Any]:
    return AfterValidator(check), WithJsonSchema({"type": "string", "pattern": pattern, "examples": list(examples)})


_NAME_CHECK = _matching(_LABEL, "a name of at most 63 lower-case letters, digits and inner '-' (RFC 1123 label)")
_COOKIE_CHECK = _matching(_TOKEN, "the name of a cookie")
_SEED_CHECK = _matching(_SEED, "a seed: 1 to 128 visible ASCII characters without ':'")
_TEXT_CHECK = _matching(_TEXT, "text of 1 to 4096 characters without control characters")
_PATH_CHECK = _matching(
    _PATH, "a path: it starts with '/', is undecoded visible ASCII, and has no query, so no '?' and no '#'"
)
_EXPRESSION_CHECK = _matching(_EXPRESSION, "an expression of 1 to 1000 characters")
_RULE_CHECK = _matching(_RULE, "the path of a rule, such as routing/decision")

Name = Annotated[str, *_string(_LABEL, _NAME_CHECK, "fraud-detector")]
HeaderName = Annotated[str, *_string(_TOKEN, _header_name, "x-user-id")]
CookieName = Annotated[str, *_string(_TOKEN, _COOKIE_CHECK, "user")]
Value = Annotated[str, *_string(_VISIBLE, _visible, "4")]
Text = Annotated[str, *_string(_TEXT, _TEXT_CHECK, "0.02")]
Expression = Annotated[str, *_string(_EXPRESSION, _EXPRESSION_CHECK, "result.canary.rate < 0.05")]
Seed = Annotated[str, *_string(_SEED, _SEED_CHECK, "fraud-2026-11")]
PathValue = Annotated[str, *_string(_PATH, _PATH_CHECK, "/v1/models/fraud-detector")]
Host = Annotated[str, *_string(_HOST.replace("a-z", "A-Za-z"), _host, "api.example.com", "*.example.com")]
RulePath = Annotated[str, *_string(_RULE, _RULE_CHECK, "routing/decision")]
InputPart = Annotated[str, *_string(_READ, _read, "attributes.request.http.headers.x-tenant", "features.risk_score")]
UpstreamTemplate = Annotated[str, *_string(_UPSTREAM, _upstream, "{model}-v{version}")]
Duration = Annotated[
    float,
    BeforeValidator(_duration(parse_duration)),
    PlainSerializer(format_duration),
    WithJsonSchema({"type": "string", "pattern": _DURATION, "examples": ["10m", "5ms", "1h30m"]}),
]
"""Seconds; written as Go writes durations."""

Timeout = Annotated[
    float,
    BeforeValidator(_duration(parse_timeout)),
    PlainSerializer(format_duration),
    WithJsonSchema({"type": "string", "pattern": _DURATION, "examples": ["60s", "5m", "0s"]}),
]
"""Seconds, 0 for no limit; written as Go writes durations."""

Percent = Annotated[
    int,
    BeforeValidator(_percent),
    PlainSerializer(format_percent),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 100, "examples": [5, 12.5]}),
]
"""Hundredths of a percent, which are buckets; written as percent with two decimals at most."""
