"""``net.cidr_*``: ranges of addresses, read as Go's ``net.ParseCIDR`` and ``net.ParseIP`` read them.

An IPv4 address written as one of IPv6 (``::ffff:10.0.0.1``) is that IPv4 address, as in Go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
    summarize_address_range,
)
from typing import Any, Final

from extproc.adapters.regorus.builtins.builtin import Builtin

MAX_ADDRESSES: Final = 65_536
"""That ``net.cidr_expand`` lists. OPA lists on until the query is cancelled."""

MAX_PAIRS: Final = 100_000
"""That ``net.cidr_contains_matches`` compares."""

_MAPPED: Final = 0xFFFF << 32
_MAPPED_BITS: Final = 96
_PREFIX: Final = re.compile(r"[0-9]{1,7}")
_LONGEST: Final = 64
"""Characters in an address that anybody wrote."""

_REMEMBERED: Final = 16_384
"""Networks that are not read again: an allow-list of some thousand rows is asked for each request."""

Network = IPv4Network | IPv6Network
Range = tuple[int, int, str | None]
"""First and last address, those of IPv4 as IPv6 has them, and how it is written as long as it stands alone."""


def _address(text: str) -> IPv4Address | IPv6Address:
    if len(text) > _LONGEST or "%" in text:
        raise ValueError("not an address")
    address = ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=_REMEMBERED)
def _network(text: str) -> Network:
    host, slash, prefix = text.partition("/")
    if len(text) > _LONGEST or "%" in text or not slash or not _PREFIX.fullmatch(prefix):
        raise ValueError("not a CIDR")
    network = ip_network(f"{ip_address(host)}/{int(prefix)}", strict=False)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None else IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))


def _contains(outer: str, inner: str) -> bool:
    network = _network(outer)
    try:
        address = _address(inner)
    except ValueError:
        other = _network(inner)
        return network.version == other.version and other.subnet_of(network)  # type: ignore[arg-type]
    return address in network


def _intersects(one: str, other: str) -> bool:
    a, b = _network(one), _network(other)
    return a.version == b.version and a.overlaps(b)


def _is_valid(text: str) -> bool:
    _network(text)
    return True


def _expand(text: str) -> list[str]:
    network = _network(text)
    if network.num_addresses > MAX_ADDRESSES:
        raise ValueError("too many addresses")
    return list(map(str, network))


def _contains_matches(outer: list[Any], inner: list[Any]) -> list[tuple[int, int]]:
    """Which of ``outer`` contain which of ``inner``, by their places. None is for what can be no CIDR."""
    if None in outer or (outer and None in inner):
        raise ValueError("an entry is a text, or an array that begins with one")
    if len(outer) * len(inner) > MAX_PAIRS:
        raise ValueError("too many pairs")
    return [(i, j) for i, a in enumerate(outer) for j, b in enumerate(inner) if _contains(a, b)]


def _merge(texts: list[str]) -> list[str]:
    """The fewest networks that have the addresses of all."""
    ranges = sorted(map(_range, texts), key=lambda each: (each[1], each[0]))
    for at in range(len(ranges) - 1, 0, -1):
        (below, below_last, _), (first, last, _) = ranges[at - 1 : at + 1]
        if (first if first in (0, _MAPPED) else first - 1) <= below_last:
            ranges[at - 1 : at + 1] = [(min(below, first), last, None)]
    return [text for each in ranges for text in _written(each)]


def _range(text: str) -> Range:
    if "/" in text:
        network = _network(text)
        if network.version == 4 and ":" in text:
            raise ValueError("OPA fails with an IPv4 range that is written as IPv6")
        written = str(network)
    else:
        address = _address(text)
        if address.version == 6:
            raise ValueError("an IPv6 address needs its prefix")
        # An address alone is its network of the days of classes, and keeps its host's bits until it is merged.
        prefix = _class_prefix(int(address) >> 24)
        network = IPv4Network((address, prefix), strict=False)
        written = f"{address}/{prefix}"
    lift = _MAPPED if network.version == 4 else 0
    return int(network[0]) + lift, int(network[-1]) + lift, written


def _class_prefix(byte: int) -> int:
    for prefix, below in ((8, 128), (16, 192), (24, 224)):
        if byte < below:
            return prefix
    raise ValueError("an address of no class with a network")


def _written(each: Range) -> Iterator[str]:
    first, last, text = each
    if text is not None:
        yield text
    elif first >> 32 == last >> 32 == _MAPPED >> 32:
        yield from map(str, summarize_address_range(IPv4Address(first - _MAPPED), IPv4Address(last - _MAPPED)))
    else:
        yield from map(str, summarize_address_range(IPv6Address(first), IPv6Address(last)))


_IS_VALID: Final = """default cidr_is_valid(_) := false

cidr_is_valid(a) if { is_string(a); host.net.cidr_is_valid(a)[0] }"""

_EXPAND: Final = (
    """cidr_expand(a) := {x | some x in found} if { is_string(a); some found in host.net.cidr_expand(a) }"""
)

_MERGE: Final = """cidr_merge(a) := {x | some x in found} if {
	list := cidr_merge_list(a)
	every x in list { is_string(x) }
	some found in host.net.cidr_merge(list)
}

cidr_merge_list(a) := a if is_array(a)

cidr_merge_list(a) := [x | some x in a] if is_set(a)"""

# The engine cannot give Python a set of arrays: an entry is an index and the text of a CIDR, or null where it has none.
_CONTAINS_MATCHES: Final = """cidr_contains_matches(a, b) := pairs if {
	left := cidr_contains_matches_entries(a)
	right := cidr_contains_matches_entries(b)
	some found in host.net.cidr_contains_matches([e[1] | some e in left], [e[1] | some e in right])
	pairs := {[left[p[0]][0], right[p[1]][0]] | some p in found}
}

default cidr_contains_matches_entries(_) := []

cidr_contains_matches_entries(x) := [[x, x]] if is_string(x)

cidr_contains_matches_entries(x) := [[i, cidr_contains_matches_text(v)] | some i, v in x] if is_array(x)

cidr_contains_matches_entries(x) := [[i, cidr_contains_matches_text(v)] | some i, v in x] if is_object(x)

cidr_contains_matches_entries(x) := [[v, cidr_contains_matches_text(v)] | some v in x] if is_set(x)

default cidr_contains_matches_text(_) := null

cidr_contains_matches_text(v) := v if is_string(v)

cidr_contains_matches_text(v) := sprintf("%v", [v[0]]) if is_array(v)"""

_TWO: Final = ("string", "string")

BUILTINS: Final = (
    Builtin("net.cidr_contains", _TWO, _contains),
    Builtin("net.cidr_contains_matches", ("any", "any"), _contains_matches, _CONTAINS_MATCHES),
    Builtin("net.cidr_expand", ("string",), _expand, _EXPAND),
    Builtin("net.cidr_intersects", _TWO, _intersects),
    Builtin("net.cidr_is_valid", ("any",), _is_valid, _IS_VALID),
    Builtin("net.cidr_merge", ("any",), _merge, _MERGE),
)
