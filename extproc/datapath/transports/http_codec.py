"""The JSON of ext_proc over HTTP: from a ProcessingRequest to what it asks, from a Mutation to a ProcessingResponse.

Envoy writes protobuf's JSON with the field names of the .proto files, leaves out what is empty, and has bytes in
base64; it reads the same in either spelling of the names. What a message means is as over gRPC (``grpc_codec``).
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

from extproc.datapath.attributes import EXT_PROC_ATTRIBUTES, NO_ATTRIBUTES, AttributeReader
from extproc.datapath.model import Mutation, Request
from extproc.datapath.transports.exchange import DENIED_DETAILS, OTHER_PHASES, REQUEST_HEADERS, MalformedMessage

_TEMPLATES_KEPT: Final = 4096
_EXACT: Final = 2.0**53
"""Below it every whole number is a float of its own; above it an int would claim digits that nobody sent."""
_DEEPEST: Final = 32
"""Levels of an attribute's value; protobuf, over gRPC, gives up at about the same depth."""

_EMPTY_REPLIES: Final = {phase: orjson.dumps({phase: {}}) for phase in OTHER_PHASES}
_MARK: Final = "\0"
_WRITTEN_MARK: Final = rb"\u0000"


def decode(data: bytes, reader: AttributeReader) -> Request | bytes | None:
    """What the message ``data`` asks for: a decision on the ``Request``; the reply as it is given here; or nothing.

    Raises:
        MalformedMessage: when it cannot be read or has no phase; there is no reply that Envoy would accept.
    """
    try:
        message = orjson.loads(data)
        if message.get("observability_mode"):
            return None
        asked = message.get(REQUEST_HEADERS)
        if asked is None:
            return _other_phase(message)
        headers = asked.get("headers")
        entries = headers.get("headers") if headers else None
        attributes = message.get("attributes")
        return reader.request(
            _pairs(entries) if entries else (), _asked_for(attributes) if attributes else NO_ATTRIBUTES
        )
    except MalformedMessage:
        raise
    except ValueError as error:
        raise MalformedMessage(f"the message cannot be read: {error}") from None
    except (AttributeError, KeyError, TypeError):
        raise MalformedMessage("a field of the message is not of its type") from None


def _pairs(entries: list[dict[str, str]]) -> list[tuple[str, bytes]]:
    """The headers. Strict base64 costs nothing and lets no garbage be skipped."""
    try:
        return [(entry["key"], a2b_base64(entry["raw_value"], strict_mode=True)) for entry in entries]
    except KeyError:  # something is empty and left out
        return [_pair(entry) for entry in entries]


def _pair(entry: Mapping[str, Any]) -> tuple[str, bytes]:
    value = a2b_base64(entry.get("raw_value") or "", strict_mode=True)
    return entry.get("key") or "", value or (entry.get("value") or "").encode()


def _other_phase(message: Mapping[str, Any]) -> bytes:
    for phase, reply in _EMPTY_REPLIES.items():
        if isinstance(message.get(phase), dict):
            return reply
    raise MalformedMessage("the message has no phase")


def _asked_for(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request attributes of our own filter, by the names that Envoy was asked for."""
    found = attributes.get(EXT_PROC_ATTRIBUTES)
    return {name: _plain(value) for name, value in found.items()} if found else NO_ATTRIBUTES


def _plain(value: Any, depth: int = 0) -> Any:
    """The value as ``grpc_codec`` gives it: whole numbers as int."""
    kind = type(value)
    if kind is str or kind is bool or kind is int:
        return value
    if kind is float:
        return int(value) if value.is_integer() and abs(value) < _EXACT else value
    if depth > _DEEPEST:
        raise MalformedMessage("an attribute is nested too deeply")
    if kind is dict:
        return {name: _plain(inner, depth + 1) for name, inner in value.items()}
    if kind is list:
        return [_plain(inner, depth + 1) for inner in value]
    return None


def encode(mutation: Mutation) -> bytes:
    """The reply to request headers that ``mutation`` asks for.

    Two replies on one route differ in the decision id alone, so the bytes around it are kept.
    """
    headers = mutation.set_headers
    if mutation.denial is not None:
        return _encode_any(mutation)
    if not headers:
        return _removing(mutation.remove_headers)
    name, value = headers[-1]
    before, after = _template(headers[:-1], name, mutation.remove_headers)
    return b"".join((before, b2a_base64(value, newline=False), after))


@lru_cache(_TEMPLATES_KEPT)
def _removing(removed: tuple[str, ...]) -> bytes:
    """The reply that sets nothing."""
    return _encode_any(Mutation(remove_headers=removed))


@lru_cache(_TEMPLATES_KEPT)
def _template(constant: tuple[tuple[str, bytes], ...], name: str, removed: tuple[str, ...]) -> tuple[bytes, bytes]:
    """The bytes before and after the last value, the decision id, which is all that differs between two replies."""
    entries = [*_entries(constant), {"header": {"key": name, "rawValue": _MARK}}]
    # Names are HTTP tokens and values are base64, so nothing else in the reply is written like the mark.
    before, _, after = _routed(entries, removed).partition(_WRITTEN_MARK)
    return before, after


def _encode_any(mutation: Mutation) -> bytes:
    """``encode`` without any template."""
    entries = _entries(mutation.set_headers)
    if mutation.denial is None:
        return _routed(entries, mutation.remove_headers)
    immediate: dict[str, Any] = {
        "status": {"code": mutation.denial.http_status},
        "body": _base64((mutation.denial.body or "").encode("utf-8", "replace")),
        "details": DENIED_DETAILS,
    }
    if entries or mutation.remove_headers:
        immediate["headers"] = {"setHeaders": entries, "removeHeaders": mutation.remove_headers}
    return orjson.dumps({"immediateResponse": immediate})


def _routed(entries: list[dict[str, Any]], removed: tuple[str, ...]) -> bytes:
    if not entries and not removed:
        return orjson.dumps({"requestHeaders": {}})
    # Without clearing the route cache the changed header would not change the route.
    change = {"headerMutation": {"setHeaders": entries, "removeHeaders": removed}, "clearRouteCache": True}
    return orjson.dumps({"requestHeaders": {"response": change}})


def _entries(headers: tuple[tuple[str, bytes], ...]) -> list[dict[str, Any]]:
    return [{"header": {"key": name, "rawValue": _base64(value)}} for name, value in headers]


def _base64(value: bytes) -> str:
    return b2a_base64(value, newline=False).decode("ascii")
