"""Which rollouts a request belongs to, by exact tables.

Host, then path, then headers, as in the Gateway API: an exact host before a wildcard before none, an exact path
before a longer prefix before a shorter one, more headers before fewer, and last the smaller namespace/name. The cost
of a look-up grows with the request's own path and host, never with the number of rollouts. A table is immutable:
``changed`` copies what it touches and shares the rest.

Envoy asks the rendered routes the same question where there is no decision, so what is odd about a request means here
what it means there: a header that came more than once has each of its values, a host is what stands before the only
colon of an authority, and what does not begin with a slash is no path. A property test holds one against the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from math import prod
from types import MappingProxyType
from typing import Final, NamedTuple

HeaderPairs = tuple[tuple[str, bytes], ...]

Repeated = Mapping[str, tuple[bytes, ...]]
"""The values of each header that came more than once."""

NOTHING_REPEATED: Final[Repeated] = MappingProxyType({})


class MatchKey(NamedTuple):
    """One entry of a rollout's ``match``, normalised so that equal keys match equal requests.

    ``host`` is lower case, ``*.example.com`` for a wildcard, empty for any. ``path`` of a prefix has no trailing
    slash, so that the prefix ``/`` is empty and matches every path. ``headers`` are sorted by their lower-case name.
    """

    host: str
    exact: bool
    path: str
    headers: HeaderPairs


class _Slot:
    """The rollouts of one host and path, by the headers that they ask for: names -> values -> rollout keys.

    ``plain`` are the rollouts of the usual case, a path and no headers, at one step: of many rollouts each is cold.
    """

    __slots__ = ("by_names", "plain")

    def __init__(self, by_names: dict[tuple[str, ...], dict[tuple[bytes, ...], tuple[str, ...]]]) -> None:
        self.by_names = by_names  # in the order in which it is searched: more headers are more specific
        self.plain: tuple[str, ...] = ()
        self._see_plain()

    def find(self, headers: Mapping[str, bytes], repeated: Repeated) -> tuple[str, ...]:
        """The rollouts of the most specific entry, or none."""
        if self.plain:
            return self.plain
        best: tuple[str, ...] = ()
        asked = -1
        for names, by_values in self.by_names.items():
            if best and len(names) < asked:
                break
            if repeated and not repeated.keys().isdisjoint(names):
                keys = min(_of_repeated(names, by_values, headers, repeated), default=())
            else:
                keys = by_values.get(tuple([headers.get(name, b"") for name in names]), ())
            if keys and (not best or keys < best) and all(name in headers for name in names):
                best, asked = keys, len(names)
        return best

    def copy(self) -> _Slot:
        """A slot of one's own to change."""
        return _Slot({names: dict(by_values) for names, by_values in self.by_names.items()})

    def add(self, key: str, entry: MatchKey) -> None:
        """Let ``key`` own the entry, beside whoever does already."""
        names, values = _split(entry.headers)
        if names not in self.by_names:
            self.by_names = dict(sorted([*self.by_names.items(), (names, {})], key=_most_headers_first))
        by_values = self.by_names[names]
        by_values[values] = tuple(sorted({*by_values.get(values, ()), key}))
        self._see_plain()

    def remove(self, key: str, entry: MatchKey) -> None:
        """Take the entry from ``key``."""
        names, values = _split(entry.headers)
        by_values = self.by_names.get(names, {})
        left = tuple(owner for owner in by_values.get(values, ()) if owner != key)
        if left:
            by_values[values] = left
        else:
            by_values.pop(values, None)
        if not by_values:
            self.by_names.pop(names, None)
        self._see_plain()

    def _see_plain(self) -> None:
        self.plain = self.by_names[()][()] if len(self.by_names) == 1 and () in self.by_names else ()


def _of_repeated(
    names: tuple[str, ...],
    by_values: Mapping[tuple[bytes, ...], tuple[str, ...]],
    headers: Mapping[str, bytes],
    repeated: Repeated,
) -> Iterator[tuple[str, ...]]:
    """The rollouts of every entry that has one value of each header.

    The combinations are asked for or the entries looked at, whichever are fewer: clients choose how many values they
    send.
    """
    sent = [set(repeated.get(name) or (headers.get(name, b""),)) for name in names]
    if prod(map(len, sent)) <= len(by_values):
        yield from (by_values[values] for values in product(*sent) if values in by_values)
    else:
        for values, keys in by_values.items():
            if all(value in of_name for value, of_name in zip(values, sent, strict=True)):
                yield keys


def _split(headers: HeaderPairs) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    return tuple(name for name, _ in headers), tuple(value for _, value in headers)


def _most_headers_first(item: tuple[tuple[str, ...], object]) -> int:
    return -len(item[0])


class _Host:
    """The paths of one host."""

    __slots__ = ("exact", "longest", "prefixes")

    def __init__(self, exact: dict[str, _Slot], prefixes: dict[str, _Slot]) -> None:
        self.exact = exact
        self.prefixes = prefixes
        self.longest = max(map(len, prefixes), default=-1)

    def paths(self, *, exact: bool) -> dict[str, _Slot]:
        """The exact paths, or the prefixes."""
        return self.exact if exact else self.prefixes

    def find(self, path: str, headers: Mapping[str, bytes], repeated: Repeated) -> tuple[str, ...]:
        """The rollouts of the most specific path whose headers match too."""
        slot = self.exact.get(path)
        if slot and (keys := slot.find(headers, repeated)):
            return keys
        end, longest = len(path), self.longest
        if end > longest:
            # A boundary at `longest` ends a prefix of exactly that length; what lies behind it is not in the table.
            end = _boundary(path, longest + 1)
        while end >= 0:
            slot = self.prefixes.get(path[:end])
            if slot and (keys := slot.find(headers, repeated)):
                return keys
            end = _boundary(path, end)
        return ()


def _boundary(path: str, end: int) -> int:
    """Where the last segment or ':' suffix of ``path[:end]`` begins; -1 if there is none."""
    slash, colon = path.rfind("/", 0, end), path.rfind(":", 0, end)
    return slash if slash > colon else colon


_EMPTY_SLOT = _Slot({})
_EMPTY_HOST = _Host({}, {})


class MatchTable:
    """All rollouts' match entries, ready to be asked."""

    __slots__ = ("_hosts", "_wildcards")

    def __init__(self, hosts: dict[str, _Host] | None = None) -> None:
        self._hosts = hosts or {}
        self._wildcards = any(host.startswith("*") for host in self._hosts)

    def find(
        self, host: str, path: str, headers: Mapping[str, bytes], repeated: Repeated = NOTHING_REPEATED
    ) -> tuple[str, ...]:
        """The keys of the rollouts whose best entry matches; more than one only where they share a layer.

        ``host`` is lower case and without port, ``path`` may carry a query and a fragment, which are ignored. One that
        does not begin with a slash (``*``, that of CONNECT) is nobody's. A header in ``repeated`` matches if any of its
        values there does.
        """
        if not path.startswith("/"):
            return ()
        path = path.partition("?")[0]
        if "#" in path:
            path = path.partition("#")[0]
        for name in self._candidates(host):
            table = self._hosts.get(name)
            if table and (keys := table.find(path, headers, repeated)):
                return keys
        return ()

    def changed(self, changes: Iterable[tuple[str, Iterable[MatchKey], Iterable[MatchKey]]]) -> MatchTable:
        """A new table in which each rollout of ``changes`` (key, entries before, entries now) has moved."""
        hosts = dict(self._hosts)
        own_hosts: set[str] = set()
        own_slots: set[tuple[str, bool, str]] = set()

        def slot_of(entry: MatchKey) -> _Slot:
            if entry.host not in own_hosts:
                shared = hosts.get(entry.host, _EMPTY_HOST)
                hosts[entry.host] = _Host(dict(shared.exact), dict(shared.prefixes))
                own_hosts.add(entry.host)
            paths = hosts[entry.host].paths(exact=entry.exact)
            if entry[:3] not in own_slots:
                paths[entry.path] = paths.get(entry.path, _EMPTY_SLOT).copy()
                own_slots.add(entry[:3])
            return paths[entry.path]

        for key, before, after in changes:
            for entry in before:
                slot_of(entry).remove(key, entry)
            for entry in after:
                slot_of(entry).add(key, entry)
        for host, exact, path in own_slots:
            paths = hosts[host].paths(exact=exact)
            if not paths[path].by_names:
                del paths[path]
        for host in own_hosts:
            if hosts[host].exact or hosts[host].prefixes:
                hosts[host] = _Host(hosts[host].exact, hosts[host].prefixes)
            else:
                del hosts[host]
        return MatchTable(hosts)

    def _candidates(self, host: str) -> Iterable[str]:
        # A colon that is left is that of an IPv6 address, or of what is no host at all.
        if ":" in host or (len(self._hosts) == 1 and "" in self._hosts):
            return ("",)
        names = [host] if host else []
        if self._wildcards:
            dot = host.find(".")
            while dot != -1:
                names.append("*" + host[dot:])
                dot = host.find(".", dot + 1)
        names.append("")
        return names
