"""What a policy wants out of an event, taken out as OPA does it.

The rule ``data.system.log.mask`` gives pointers, whose place is removed, and objects ``{op, path, value}``, of which
``op`` is ``remove`` or ``upsert``. What was removed is listed in the event's ``erased``, what was replaced in
``masked``. A pointer that leads nowhere is passed over; one that is none spoils all of them, and then nothing may be
written: ``MaskError``.

As in OPA, a part of a pointer is no JSON pointer's: it is looked for, and listed, escaped as in a URL's path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import orjson

MASK_RULE: Final = "system/log/mask"
DROP_RULE: Final = "system/log/drop"
LOG_RULES: Final = (MASK_RULE, DROP_RULE)
"""What is asked of events, with the event as its input."""

_REMOVE: Final = "remove"
_UPSERT: Final = "upsert"
_ROOTS: Final = ("input", "result", "nd_builtin_cache")
_PLAIN: Final = ":@&=+$"
"""What Go leaves as it is in a part of a path, beside letters, digits and ``-._~``."""

_MAX_POINTERS: Final = 1024
"""Pointers that are remembered: most masks have the same for every event."""

_ODD: Final = re.compile(r"[0-9]{18}|\\ud[89a-f]", re.IGNORECASE)
_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")
_INDEX: Final = re.compile(r"[+-]?[0-9]{1,18}")


class MaskError(Exception):
    """Why an event cannot be masked, without anything of the event."""


class MaskRule(NamedTuple):
    """One rule: what to do, where, and with what."""

    op: str
    parts: tuple[str, ...]
    value: Any = None

    def __str__(self) -> str:
        return f"/{'/'.join(self.parts)}"


class _NowhereError(Exception):
    """The pointer leads nowhere in this event."""


def mask_rules(said: Any) -> list[MaskRule]:
    """The rules that the value of ``MASK_RULE`` has, in its order. Raises ``MaskError``."""
    if not isinstance(said, list):
        raise MaskError("the mask is no set and no array")
    return [_rule(each) for each in said]


def _rule(said: Any) -> MaskRule:
    if isinstance(said, str):
        return MaskRule(_REMOVE, _parts(said))
    if not isinstance(said, Mapping):
        raise MaskError("a rule of the mask is neither a pointer nor an object")
    op, path = said.get("op"), said.get("path")
    if op not in (_REMOVE, _UPSERT):
        raise MaskError("the op of a rule of the mask is neither remove nor upsert")
    if not isinstance(path, str):
        raise MaskError("a rule of the mask has no path")
    return MaskRule(op, _parts(path), said.get("value"))


@lru_cache(_MAX_POINTERS)
def _parts(pointer: str) -> tuple[str, ...]:
    head, *parts = pointer.split("/")
    if head or not parts:
        raise MaskError("a pointer of the mask does not begin with /")
    if parts[0] not in _ROOTS:
        raise MaskError(f"a pointer of the mask begins with none of {', '.join(f'/{root}' for root in _ROOTS)}")
    if any(_ESCAPE.search(part) for part in parts):
        raise MaskError("a pointer of the mask has a % that escapes nothing")
    return tuple(quote(part, safe=_PLAIN) for part in parts)


def mask(event: dict[str, Any], rules: Sequence[MaskRule]) -> bool:
    """Take out of ``event`` what ``rules`` say, and list it there; whether there was anything to take out."""
    changed = False
    for rule in rules:
        if rule.parts[0] not in event:
            continue
        try:
            _OPERATIONS[rule.op](event, rule)
        except _NowhereError:
            continue
        event.setdefault(_LISTED[rule.op], []).append(str(rule))
        changed = True
    if changed and "custom" in event:
        event["custom"] = event.pop("custom")  # it is the last field of an event
    return changed


def masked_text(event: str, rules: Sequence[MaskRule]) -> str | None:
    """``event``, which is JSON, without what ``rules`` take out; None where there is nothing to take out."""
    if not rules:
        return None
    # Integers of any size and halves of characters stay what they are; the faster parser has neither.
    is_odd = _ODD.search(event) is not None
    document = json.loads(event) if is_odd else orjson.loads(event)
    if not mask(document, rules):
        return None
    return json.dumps(document, separators=(",", ":")) if is_odd else orjson.dumps(document).decode()


def _remove(event: dict[str, Any], rule: MaskRule) -> None:
    node: Any = event
    for part in rule.parts[:-1]:
        node = _child(node, part)
    if isinstance(node, dict) and rule.parts[-1] in node:
        del node[rule.parts[-1]]
    else:
        del _array(node)[_index(node, rule.parts[-1])]


def _upsert(event: dict[str, Any], rule: MaskRule) -> None:
    """What is missing on the way is made, as objects."""
    node: Any = event
    for part in rule.parts[:-1]:
        node = node.setdefault(part, {}) if isinstance(node, dict) else _child(node, part)
    value = deepcopy(rule.value)  # another rule may reach into it
    if isinstance(node, dict):
        node[rule.parts[-1]] = value
    else:
        _array(node)[_index(node, rule.parts[-1])] = value


def _child(node: Any, part: str) -> Any:
    if isinstance(node, dict):
        if part not in node:
            raise _NowhereError
        return node[part]
    return _array(node)[_index(node, part)]


def _array(node: Any) -> list[Any]:
    if not isinstance(node, list):
        raise _NowhereError
    return node


def _index(node: Any, part: str) -> int:
    if not isinstance(node, list) or _INDEX.fullmatch(part) is None or not 0 <= int(part) < len(node):
        raise _NowhereError
    return int(part)


_OPERATIONS: Final = {_REMOVE: _remove, _UPSERT: _upsert}
_LISTED: Final = {_REMOVE: "erased", _UPSERT: "masked"}
