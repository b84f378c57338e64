"""The bytes of ext_proc over gRPC: from a ProcessingRequest to what it asks, from a Mutation to a ProcessingResponse.

Envoy sends header values as ``raw_value`` and accepts them only so; ``value`` is read where ``raw_value`` is empty.
The route cache is cleared whenever a header changes: without it the changed header would not change the route.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, cast

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value

from extproc._gen.envoy.service.ext_proc.v3.external_processor_pb2 import (
    HeaderMutation,
    ProcessingRequest,
    ProcessingResponse,
)
from extproc._gen.envoy.type.v3.http_status_pb2 import StatusCode
from extproc.datapath.attributes import EXT_PROC_ATTRIBUTES, NO_ATTRIBUTES, AttributeReader
from extproc.datapath.model import Mutation, Request
from extproc.datapath.transports.exchange import DENIED_DETAILS, OTHER_PHASES, REQUEST_HEADERS, MalformedMessage

_TEMPLATES_KEPT: Final = 4096
_EXACT: Final = 2.0**53
"""Below it every whole number is a float of its own; above it an int would claim digits that nobody sent."""

_EMPTY_REPLIES: Final = {phase: ProcessingResponse(**{phase: {}}).SerializeToString() for phase in OTHER_PHASES}


def decode(data: bytes, reader: AttributeReader) -> Request | bytes | None:
    """What the message ``data`` asks for: a decision on the ``Request``; the reply as it is given here; or nothing.

    Request headers ask for a decision. Every other phase gets the empty reply of its own kind, which lets Envoy go
    on. A message in observability mode wants no reply, and nothing is decided on it.

    Raises:
        MalformedMessage: when it cannot be read or has no phase; there is no reply that Envoy would accept.
    """
    try:
        message = ProcessingRequest.FromString(data)
    except DecodeError as error:
        raise MalformedMessage(str(error)) from None
    phase = message.WhichOneof("request")
    if phase is None:
        raise MalformedMessage("the message has no phase")
    if message.observability_mode:
        return None
    if phase != REQUEST_HEADERS:
        return _EMPTY_REPLIES[phase]
    pairs = [(h.key, h.raw_value or h.value.encode()) for h in message.request_headers.headers.headers]
    attributes = message.attributes
    return reader.request(pairs, _asked_for(attributes) if attributes else NO_ATTRIBUTES)


def encode(mutation: Mutation) -> bytes:
    """The reply to request headers that ``mutation`` asks for.

    Two replies on one route differ in the decision id alone, so the bytes around it are kept. That saves a tenth of
    the CPU of a request: a server that wakes up for each message runs everything cold, protobuf's builders most of all.
    """
    headers = mutation.set_headers
    if mutation.denial is not None:
        return _encode_any(mutation)
    if not headers:
        return _removing(mutation.remove_headers)
    name, value = headers[-1]
    template = _template(headers[:-1], name, len(value), mutation.remove_headers)
    if template is None:
        return _encode_any(mutation)
    return b"".join((template[0], value, template[1]))


@lru_cache(_TEMPLATES_KEPT)
def _removing(removed: tuple[str, ...]) -> bytes:
    """The reply that sets nothing."""
    return _encode_any(Mutation(remove_headers=removed))


@lru_cache(_TEMPLATES_KEPT)
def _template(
    constant: tuple[tuple[str, bytes], ...], name: str, size: int, removed: tuple[str, ...]
) -> tuple[bytes, bytes] | None:
    """The bytes before and after the last value, the decision id, which is all that differs between two replies.

    Legal values have no NUL, so that a run of them marks the place; None where it cannot.
    """
    mark = bytes(size)
    reply = _encode_any(Mutation((*constant, (name, mark)), removed))
    if size == 0 or reply.count(0) != size:
        return None
    head, _, tail = reply.partition(mark)
    return head, tail


def _encode_any(mutation: Mutation) -> bytes:
    """``encode`` by protobuf."""
    response = ProcessingResponse()
    if mutation.denial is not None:
        immediate = response.immediate_response
        immediate.status.code = cast(StatusCode, mutation.denial.http_status)
        immediate.body = (mutation.denial.body or "").encode("utf-8", "replace")
        immediate.details = DENIED_DETAILS
        _fill(immediate.headers, mutation)
    elif mutation.set_headers or mutation.remove_headers:
        common = response.request_headers.response
        common.clear_route_cache = True
        _fill(common.header_mutation, mutation)
    else:
        response.request_headers.SetInParent()
    return response.SerializeToString()


def _fill(target: HeaderMutation, mutation: Mutation) -> None:
    """Write the headers of ``mutation``. Adding in place costs a third of building the messages by constructors."""
    add = target.set_headers.add
    for name, value in mutation.set_headers:
        header = add().header
        header.key = name
        header.raw_value = value
    if mutation.remove_headers:
        target.remove_headers.extend(mutation.remove_headers)


class _Attributes(Mapping[str, Any]):
    """The request attributes of our own filter, made plain values when they are read: most decisions read one."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, Value]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> Any:
        if name not in self._fields:  # a protobuf map makes what it is asked for
            raise KeyError(name)
        return _plain(self._fields[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def _asked_for(attributes: Mapping[str, Struct]) -> Mapping[str, Any]:
    """The request attributes of our own filter, by the names that Envoy was asked for."""
    if EXT_PROC_ATTRIBUTES not in attributes:
        return NO_ATTRIBUTES
    return _Attributes(attributes[EXT_PROC_ATTRIBUTES].fields)


def _plain(value: Value) -> Any:
    """A protobuf Value as JSON would hold it: whole numbers as int; NaN and infinities, which JSON lacks, as None."""
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                return None
            return int(number) if number.is_integer() and abs(number) < _EXACT else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return {name: _plain(inner) for name, inner in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(inner) for inner in value.list_value.values]
        case _:
            return None
