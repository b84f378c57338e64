"""Paths into the input of a policy, as text: ``features.risk_score``, ``attributes.request.http.headers["x.y"]``."""

from __future__ import annotations

import json
import re
from typing import Final

InputPath = tuple[str, ...]

_PLAIN_PART: Final = re.compile(r"[^.\[\]\"\\!]+")
_NEXT_PART: Final = re.compile(r'\.?(?P<plain>[^.\[\]"\\]+)|\[(?P<quoted>"(?:[^"\\]|\\.)*")\]')


def format_path(path: InputPath) -> str:
    """A path as text; the whole input is the empty string. None begins with ``!``."""
    text = ""
    for part in path:
        if _PLAIN_PART.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part)}]"
    return text


def parse_path(text: str) -> InputPath:
    """The path that ``format_path`` wrote. Raises ValueError if it did not write this."""
    parts: list[str] = []
    at = 0
    while at < len(text):
        found = _NEXT_PART.match(text, at)
        if found is None or (found["plain"] is not None and (at == 0) == (found[0][0] == ".")):
            raise ValueError(f"not a path of the input: {text!r}")
        parts.append(found["plain"] if found["plain"] is not None else json.loads(found["quoted"]))
        at = found.end()
    return tuple(parts)


def feature_in(path: InputPath) -> InputPath | None:
    """The name of the feature that a path leads to, as what is left of it, empty for all; None if it leads to none."""
    depth = _FEATURES.get(path[0]) if path else None
    return None if depth is None else path[depth : depth + 1]


_FEATURES: Final = {"features": 1, "features_of": 2}
"""Where features are, and how deep: those of a version are below it."""
