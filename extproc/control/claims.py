"""Whose requests a match takes or lets go: of other rollouts, whatever they are called and wherever they are.

Who may not give a version to the requests of one rollout must not come to it by another one with a narrower match, nor
by a delete and another name. So what was let go is remembered for as long as a deleted rollout is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from extproc.matching import MatchKey
from extproc.resources.rollout import MAX_MATCHES, MatchEntry
from extproc.store.records import StoredRollout
from extproc.store.status import Status

REMEMBERED_SECONDS: Final = 30 * 86400.0
"""How long a rollout counts as who had the requests that it let go."""

_EVERYTHING: Final = MatchKey("", exact=False, path="", headers=())
_LET_GO: Final = "letGo"
_MOST: Final = 2 * MAX_MATCHES


class Claim(NamedTuple):
    """A rollout that has, or had, requests of some match entry; ``deleted`` or let go, nobody has them for it now."""

    row: StoredRollout
    entry: MatchKey
    held: bool


class Claims:
    """Every rollout's match entries at ``now`` (Unix seconds), those too of ``deleted`` ones: by what they overlap."""

    def __init__(self, rollouts: Iterable[StoredRollout], deleted: Iterable[StoredRollout], now: float) -> None:
        self._by_path: defaultdict[str, list[Claim]] = defaultdict(list)
        for row in (*rollouts, *deleted):
            for entry in entries_of(row.document):
                self._by_path[entry.path].append(Claim(row, entry, held=True))
            for entry, _ in _let_go(row.status, now):
                self._by_path[entry.path].append(Claim(row, entry, held=False))
        self._paths = sorted(self._by_path)

    def taken(self, key: str, entries: Iterable[MatchKey]) -> list[StoredRollout]:
        """The other rollouts that would have requests of ``entries``, or had them, if it were not for ``key``."""
        found = (
            claim.row
            for entry in entries
            for claim in self._overlapping(key, entry)
            if not claim.held or _rank(entry) >= _rank(claim.entry)
        )
        return _each_once(found)

    def given(self, key: str, entries: Iterable[MatchKey]) -> list[StoredRollout]:
        """The other rollouts that get requests of ``entries`` when ``key`` lets them go."""
        found = (
            claim.row
            for entry in entries
            for claim in self._overlapping(key, entry)
            if claim.held and _rank(claim.entry) <= _rank(entry)
        )
        return _each_once(found)

    def _overlapping(self, key: str, entry: MatchKey) -> Iterator[Claim]:
        for path in self._meeting(entry):
            for claim in self._by_path[path]:
                if claim.row.key != key and _overlap(entry, claim.entry):
                    yield claim

    def _meeting(self, entry: MatchKey) -> Iterator[str]:
        """The paths above that of ``entry``, its own, and those below."""
        path = entry.path
        yield from (path[:end] for end, mark in enumerate(path) if mark in "/:" and path[:end] in self._by_path)
        for position in range(bisect_left(self._paths, path), len(self._paths)):
            if not self._paths[position].startswith(path):
                return
            yield self._paths[position]


def entries_of(document: Mapping[str, Any]) -> list[MatchKey]:
    """The match entries of a document in a store; none of what is no match."""
    try:
        written = [MatchEntry.model_validate(entry) for entry in document.get("spec", {}).get("match", ())]
    except (ValidationError, AttributeError, TypeError):
        return []
    return [key for entry in written for key in entry.match_keys()]


def let_go(status: Status, before: Iterable[MatchKey], after: Iterable[MatchKey], now: float) -> dict[str, Any]:
    """For ``Status.applied``: what a rollout had and has no more, when it had ``before`` and will have ``after``."""
    kept = set(after)
    gone = dict(_let_go(status, now)) | dict.fromkeys(before, now)
    left = {entry: at for entry, at in gone.items() if entry not in kept}
    if len(left) > _MOST:  # nobody makes it forgotten by letting go of much
        left = {_EVERYTHING: now}
    rows = [[*entry[:3], [[name, value.decode()] for name, value in entry.headers], at] for entry, at in left.items()]
    return {_LET_GO: rows} if rows else {}


def _let_go(status: Status, now: float) -> Iterator[tuple[MatchKey, float]]:
    for host, exact, path, headers, at in status.applied.get(_LET_GO, ()):
        if now - at < REMEMBERED_SECONDS:
            yield MatchKey(host, exact, path, tuple((name, value.encode()) for name, value in headers)), at


def _each_once(rows: Iterable[StoredRollout]) -> list[StoredRollout]:
    return list({row.key: row for row in rows}.values())


def _overlap(one: MatchKey, other: MatchKey) -> bool:
    """Whether a request can match both."""
    headers = dict(one.headers)
    return (
        _hosts_overlap(one.host, other.host)
        and _paths_overlap(one, other)
        and all(headers.get(name, value) == value for name, value in other.headers)
    )


def _hosts_overlap(one: str, other: str) -> bool:
    if "" in (one, other) or one == other:
        return True
    return any(
        wild.startswith("*") and host.lstrip("*").endswith(wild[1:]) for wild, host in ((one, other), (other, one))
    )


def _paths_overlap(one: MatchKey, other: MatchKey) -> bool:
    above, below = (one, other) if len(one.path) <= len(other.path) else (other, one)
    if above.exact:
        return above.path == below.path
    return below.path.startswith(above.path) and below.path[len(above.path) : len(above.path) + 1] in ("", "/", ":")


def _rank(entry: MatchKey) -> tuple[int, int, bool, int, int]:
    """The larger one is asked first, see ``matching``."""
    host = 0 if not entry.host else 1 if entry.host.startswith("*") else 2
    return host, len(entry.host) if host == 1 else 0, entry.exact, len(entry.path), len(entry.headers)
