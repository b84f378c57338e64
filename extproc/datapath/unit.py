"""Who is asking: the unit, read from a header or a cookie, and the buckets that it draws."""

from __future__ import annotations

import re
from typing import Final

from extproc.assignment import draw_of, holdout_bucket, layer_bucket, shadow_bucket
from extproc.datapath.model import Buckets, Request, Unit
from extproc.decision_id import Nonce
from extproc.names import Reason
from extproc.snapshot.model import CompiledRollout, JoinKey, UnitSource

_REQUEST_ID = "x-request-id"

_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
"""A whole number of 64 bits, as feature stores hold them, in the one way to write it that all of them take."""


def read_source(source: UnitSource, request: Request) -> bytes | Reason:
    """The bytes that ``source`` names, as received, or why there are none.

    An empty value counts as missing. A header or cookie that came twice is ambiguous: taking either one would let a
    client choose between two users.
    """
    if source.header is not None:
        if source.header in request.repeated:
            return Reason.UNIT_AMBIGUOUS
        return request.headers.get(source.header) or Reason.UNIT_MISSING
    assert source.cookie is not None
    values = _cookie_values(request.headers.get("cookie", b""), source.cookie.encode())
    if len(values) > 1:
        return Reason.UNIT_AMBIGUOUS
    return (values and values[0]) or Reason.UNIT_MISSING


def unit_of(source: UnitSource, request: Request, nonce: Nonce) -> Unit:
    """The unit of ``request``; with ``missing: request`` a draw of its own stands in for one that is not there.

    An ambiguous one is there, twice: it ends at stable either way.
    """
    found = read_source(source, request)
    if not isinstance(found, Reason):
        return Unit(found)
    if source.per_request and found is Reason.UNIT_MISSING:
        return Unit(request.headers.get(_REQUEST_ID) or nonce.random(), found, per_request=True)
    return Unit(None, found)


def entity_of(keys: tuple[JoinKey, ...], request: Request) -> tuple[str | int, ...] | Reason:
    """A value for each join key, or why there is none.

    That is ``feature_entity_missing`` where a header or cookie is not there, or came twice, and ``feature_type`` where
    its value is not of the key's type.
    """
    values: list[str | int] = []
    for source, is_integer in keys:
        found = read_source(source, request)
        if isinstance(found, Reason):
            return Reason.FEATURE_ENTITY_MISSING
        try:
            text = found.decode()
        except UnicodeDecodeError:
            return Reason.FEATURE_TYPE
        value = as_integer(text) if is_integer else text
        if value is None:
            return Reason.FEATURE_TYPE
        values.append(value)
    return tuple(values)


def as_integer(text: str) -> int | None:
    """The whole number of 64 bits that ``text`` writes, or None."""
    return number if _INTEGER.fullmatch(text) and -(1 << 63) <= (number := int(text)) < 1 << 63 else None


def draw(compiled: CompiledRollout, unit: Unit) -> Buckets:
    """The buckets of ``unit`` in every stage that ``compiled`` has."""
    value = unit.value
    if value is None:
        return _NO_BUCKETS
    quotient, bucket = draw_of(compiled.seed, value)
    return Buckets(
        bucket,
        holdout_bucket(compiled.holdout.name, value) if compiled.holdout else None,
        layer_bucket(compiled.layer.name, value) if compiled.layer else None,
        shadow_bucket(compiled.seed, value) if compiled.shadow else None,
        quotient,
    )


_NO_BUCKETS = Buckets()


def _cookie_values(header: bytes, name: bytes) -> list[bytes]:
    """The values of the cookie ``name`` in a Cookie header (RFC 6265, section 4.2)."""
    values = []
    for pair in header.split(b";"):
        key, equals, value = pair.strip(b" \t").partition(b"=")
        if equals and key == name:
            values.append(value)
    return values
