"""Paths of ``match`` that no request ever has where it is matched: Envoy normalises each path before.

``envoy/*.yaml`` has Envoy decode what needs no escape, escape what does, take out dot segments and repeated slashes
(RFC 3986, 5.2.4 and 6.2.2), take a backslash for a slash, and redirect a path with an escaped one to the plain path.
Decision, routes and models see what comes out of it, so a path that is written in another way is nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from extproc.resources.faults import Problem
from extproc.resources.marked_yaml import shown
from extproc.resources.rollout import PathMatch, Rollout

CODE: Final = "path_never_matches"

_ESCAPED = re.compile(r"%([0-9A-Fa-f]{2})")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPED_SLASH = re.compile(r"%(?:2F|5C)", re.IGNORECASE)
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NEEDS_ESCAPE = re.compile(r'["<>^`{|}]')
_DOTS = re.compile(r"(?:\.|%2E){1,2}|\.{1,2};.*", re.IGNORECASE)
"""A segment that stands for its own folder or the one above; what follows ';' is a parameter of it."""


def never_matched(rollout: Rollout) -> Iterator[Problem]:
    """Every path of ``rollout`` that Envoy hands on in another spelling, or not at all, by ``path_never_matches``."""
    for number, entry in enumerate(rollout.spec.match):
        if entry.path is None or (normal := normal_form(entry.path.value)) == entry.path.value:
            continue
        message = (
            f"{shown(entry.path.value)} never matches: Envoy normalises a path, or refuses it, before it is matched"
        )
        if normal is not None:
            message += f"; write {shown(_as_match(entry.path, normal))}"
        yield Problem(CODE, message, ("spec", "match", number, "path", "value"))


def normal_form(path: str) -> str | None:
    """``path``, as ``PathMatch`` takes it, in the spelling in which Envoy hands it on; the same if it does so as it is.

    None where Envoy refuses it, or where what it makes of an escape that is none cannot be foreseen.
    """
    while (changed := _normalised(path)) != path:
        if changed is None:
            return None
        path = changed  # a decoded dot may make a dot segment, which is one only when it is asked for anew
    return path


def _normalised(path: str) -> str | None:
    """What Envoy makes of a path in one go."""
    unescaped = _ESCAPED_SLASH.sub("/", path).replace("\\", "/")
    if "%00" in unescaped:
        return None
    segments: list[str] = []
    for segment in unescaped.split("/")[1:]:
        dots = _DOTS.fullmatch(segment) is not None
        if dots and len(_decoded(segment).partition(";")[0]) == 2:
            segments[-1:] = []
        elif not dots:
            segments.append(_NEEDS_ESCAPE.sub(_escape, _decoded(segment)))
    if dots:
        segments.append("")
    joined = "/" + "/".join(segments)
    if joined != path and _BROKEN_ESCAPE.search(path):
        return None
    return re.sub("//+", "/", joined) if joined.strip("/") else joined[:2]


def _decoded(text: str) -> str:
    return _ESCAPED.sub(lambda found: _unless_reserved(found[0], chr(int(found[1], 16))), text)


def _unless_reserved(escape: str, character: str) -> str:
    return character if character in _UNRESERVED else escape


def _escape(found: re.Match[str]) -> str:
    return f"%{ord(found[0]):02X}"


def _as_match(path: PathMatch, normal: str) -> str:
    """``normal`` as the value of the match: a prefix is written without '/' at its end."""
    return (normal.rstrip("/") or "/") if path.type == "PathPrefix" else normal
