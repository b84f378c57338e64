"""The JSON of ext_proc over HTTP: from a ProcessingRequest to what it asks, from a Mutation to a ProcessingResponse.

Envoy writes protobuf's JSON with the field names of the .proto files, leaves out what is empty, and has bytes in
base64; it reads the same in either spelling of the names. What a message means is as over gRPC (``grpc_codec``).
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
import orjson

from extproc.datapath.attributes import EXT_PROC_ATTRIBUTES, NO_ATTRIBUTES, AttributeReader
from extproc.datapath.model import Mutation, Request
from extproc.datapath.transports.exchange import DENIED_DETAILS, OTHER_PHASES, MalformedMessage

_TEMPLATES_KEPT: Final = 4096
_EXACT: Final = 2.0**53
"""Below it every whole number is a float of its own; above it an int would claim digits that nobody sent."""
_DEEPEST: Final = 32
"""Levels of an attribute's value; protobuf, over gRPC, gives up at about the same depth."""

_EMPTY_REPLIES: Final = {phase: orjson.dumps({phase: {}}) for phase in OTHER_PHASES}
_MARK: Final = "\0"
_WRITTEN_MARK: Final = rb"\u0000"


class _Header(msgspec.Struct, gc=False):
    key: str = ""
    raw_value: bytes = b""
    value: str = ""


class _HeaderMap(msgspec.Struct, gc=False):
    headers: list[_Header] | None = None


class _HttpHeaders(msgspec.Struct, gc=False):
    headers: _HeaderMap | None = None


class _Attributes(msgspec.Struct, gc=False):
    ours: dict[str, Any] | None = msgspec.field(default=None, name=EXT_PROC_ATTRIBUTES)


class _Unread(msgspec.Struct, gc=False):
    """An object, whatever is in it."""


class _ProcessingRequest(msgspec.Struct, gc=False):
    """What is read of Envoy's message; the rest is passed over. The phases are those of ``exchange``."""

    request_headers: _HttpHeaders | None = None
    response_headers: _Unread | None = None
    request_body: _Unread | None = None
    response_body: _Unread | None = None
    request_trailers: _Unread | None = None
    response_trailers: _Unread | None = None
    observability_mode: bool = False
    attributes: _Attributes | None = None


_read: Final = msgspec.json.Decoder(_ProcessingRequest).decode
"""Types and base64 are checked, and what is not read is skipped, in C: a third of what it takes in Python."""


def decode(data: bytes, reader: AttributeReader) -> Request | bytes | None:
    """What the message ``data`` asks for: a decision on the ``Request``; the reply as it is given here; or nothing.

    Raises:
        MalformedMessage: when it cannot be read or has no phase; there is no reply that Envoy would accept.
    """
    try:
        message = _read(data)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"the message cannot be read: {error}") from None
    if message.observability_mode:
        return None
    asked = message.request_headers
    if asked is None:
        return _other_phase(message)
    found = asked.headers
    entries = found.headers if found is not None else None
    return reader.request(
        [(entry.key, entry.raw_value or entry.value.encode()) for entry in entries] if entries else (),
        _asked_for(message.attributes) if message.attributes is not None else NO_ATTRIBUTES,
    )


def _other_phase(message: _ProcessingRequest) -> bytes:
    for phase, reply in _EMPTY_REPLIES.items():
        if getattr(message, phase) is not None:
            return reply
    raise MalformedMessage("the message has no phase")


def _asked_for(attributes: _Attributes) -> Mapping[str, Any]:
    """The request attributes of our own filter, by the names that Envoy was asked for."""
    found = attributes.ours
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
