"""From a request's headers, as received, to a ``Request``: names lowered, repetitions joined, limits held.

Both transports come here with the same pairs, so a request means the same over gRPC and over HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from extproc.datapath.model import Request
from extproc.matching import NOTHING_REPEATED, Repeated

EXT_PROC_ATTRIBUTES: Final = "envoy.filters.http.ext_proc"
"""The name under which Envoy sends the request attributes that it was asked for."""

NO_ATTRIBUTES: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class AttributeLimits:
    """What is still an ordinary request: bytes of all names and values together, and the number of headers.

    Envoy takes no more than 60 KiB and 100 headers unless it is told otherwise, and holds a request to that again
    after our reply: one that our headers would carry over it is answered 500, even when failing open. So ``count``
    leaves room for the seven that we may set, and with more than ``full_bytes`` there is none either.
    """

    total_bytes: int = 32 * 1024
    count: int = 93
    full_bytes: int = 59 * 1024


class AttributeReader:
    """Reads requests under fixed limits. Keeps nothing between two requests."""

    def __init__(self, limits: AttributeLimits | None = None) -> None:
        limits = limits or AttributeLimits()
        self._total_bytes = limits.total_bytes
        self._count = limits.count
        self._full_bytes = limits.full_bytes

    def request(self, pairs: Sequence[tuple[str, bytes]], attributes: Mapping[str, Any] = NO_ATTRIBUTES) -> Request:
        """The request that ``pairs`` (every header in order, pseudo-headers among them) and ``attributes`` describe.

        Over the limits it is marked ``too_large`` and keeps its headers, so that a policy may still deny it; ``full``
        says that Envoy could take none of ours besides. Names are lowered. A name that came more than once is joined.
        Values keep the bytes as received; where text is needed (method, path, host, scheme) bytes that are not UTF-8
        become U+FFFD. ``host`` is the authority, or the host header without one, lower-case and without its port: what
        stands before its only colon, or an IPv6 address in brackets.
        What is missing is the empty string.
        """
        headers = dict(pairs)
        repeated: Repeated = NOTHING_REPEATED
        names = "".join(headers)
        size = len(names) + len(b"".join(headers.values()))
        if len(headers) != len(pairs) or names != names.lower():
            headers, repeated = _joined(pairs)
            size = sum(len(name) + len(value) for name, value in pairs)
        get = headers.get
        return Request(
            get(":method", b"").decode("utf-8", "replace"),
            get(":path", b"").decode("utf-8", "replace"),
            _host(get(":authority") or get("host", b"")),
            get(":scheme", b"").decode("utf-8", "replace"),
            headers,
            repeated,
            attributes,
            len(pairs) > self._count or size > self._total_bytes,
            len(pairs) > self._count or size > self._full_bytes,
        )


def _joined(pairs: Sequence[tuple[str, bytes]]) -> tuple[dict[str, bytes], Repeated]:
    """The headers with lowered names, and the values of those that came more than once.

    Joined by ``,`` as HTTP defines it for lists; cookies by ``; `` as HTTP/2 defines it for crumbs.
    """
    values: dict[str, list[bytes]] = {}
    for name, value in pairs:
        values.setdefault(name.lower(), []).append(value)
    headers = {name: (b"; " if name == "cookie" else b",").join(found) for name, found in values.items()}
    return headers, {name: tuple(found) for name, found in values.items() if len(found) > 1}


def _host(authority: bytes) -> str:
    """The host in ``authority``, as the rendered routes read it: whatever follows the only colon is a port to them.

    Only ASCII is lowered: there are letters outside of it that would become a letter within.
    """
    host = authority.lower().decode("utf-8", "replace")
    name, _, rest = host.partition(":")
    if ":" not in rest:
        return name
    address, bracket, _ = host.partition("]")
    return address + bracket if host.startswith("[") and bracket else host
