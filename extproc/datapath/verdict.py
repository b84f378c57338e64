"""What a policy answered, checked: a closed shape, so that a misspelt field is found and not passed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from extproc.datapath.model import PolicyVerdict
from extproc.names import Reason
from extproc.suggestions import close_to

DEFAULT_DENY_STATUS: Final = 403

MAX_TEXT: Final = 65_536
"""Characters of a text that are taken: it is sent and logged, and a policy can make gigabytes in no time.

The rest is cut off. Were the verdict invalid, a client whose header is quoted could turn a denial into a pass.
"""


def check_verdict(raw: Any) -> PolicyVerdict:
    """The verdict in the value of a policy's rule, or one whose ``fault`` is ``POLICY_INVALID``.

    ``allow`` is required. ``versions`` is an array or set of strings, ``version``, ``reason`` and ``body`` are
    strings, ``shadow`` is a boolean, ``http_status`` an integer (403 is sent when it is not within 400-599). Any
    other key makes the verdict invalid. A denial is one whatever else is wrong with it: what is wrong is left out, and
    said in its message. Texts are cut after ``MAX_TEXT``. The message names the key and the type, never a value.
    """
    if type(raw) is not dict:
        return invalid(f"the decision is {_kind(raw)}, not an object")
    if type(raw.get("allow")) is not bool:
        return invalid("allow is required" if "allow" not in raw else f"allow is {_kind(raw['allow'])}, not a boolean")
    found: dict[str, Any] = {}
    flaw: str | None = None
    for key, value in raw.items():
        check = _CHECKS.get(key)
        if check is None:
            flaw = flaw or _unknown(key)
            continue
        wanted, convert = check
        converted = convert(value)
        if converted is None:
            flaw = flaw or f"{key} is {_kind(value)}, not {wanted}"
            continue
        found[key] = converted
    if flaw is not None and raw["allow"]:
        return invalid(flaw, allow=True)
    return PolicyVerdict(**found, message=flaw)


def invalid(message: str, *, allow: bool = False) -> PolicyVerdict:
    """A verdict of the wrong shape; ``allow`` is what it says in spite of that."""
    return PolicyVerdict(allow=allow, fault=Reason.POLICY_INVALID, message=message)


def denies(verdict: PolicyVerdict, deny_on_error: bool | None) -> bool:
    """Whether a request with this verdict is denied; ``deny_on_error`` as in ``PolicyUse``."""
    if verdict.fault is None or deny_on_error is None:
        return not verdict.allow
    return deny_on_error


def _unknown(key: Any) -> str:
    """Names the field that was meant, not the one that was written: a key may be computed from the input."""
    close = close_to(key, _CHECKS) if type(key) is str else None
    hint = f"is {close} meant?" if close is not None else f"it has only {', '.join(_CHECKS)}"
    return f"an unknown field in the decision: {hint}"


def _boolean(value: Any) -> bool | None:
    return value if type(value) is bool else None


def _string(value: Any) -> str | None:
    return value[:MAX_TEXT] if type(value) is str else None


def _status(value: Any) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        return None
    return value if 400 <= value <= 599 else DEFAULT_DENY_STATUS


def _strings(value: Any) -> frozenset[str] | None:
    if type(value) not in (list, set) or not all(type(entry) is str for entry in value):
        return None
    return frozenset(value)


_CHECKS: Final[dict[Any, tuple[str, Callable[[Any], Any]]]] = {
    "allow": ("a boolean", _boolean),
    "versions": ("an array or set of strings", _strings),
    "version": ("a string", _string),
    "shadow": ("a boolean", _boolean),
    "reason": ("a string", _string),
    "http_status": ("an integer", _status),
    "body": ("a string", _string),
}

_KINDS: Final = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    set: "a set",
    dict: "an object",
    type(None): "null",
}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "something else")
