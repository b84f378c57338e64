"""What a worker remembers of the feature store: bounded in bytes, because the values are of any size, and in entries.

An entity's features may be one number or a vector of a thousand, which takes forty times as much memory as it has
characters in a request; a number of entries alone bounds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from sys import getsizeof
from typing import Any, Final, NamedTuple

from extproc.datapath.ports import FeatureKey, FeatureRow
from extproc.names import Reason

MAX_BYTES: Final = 64 << 20
MAX_ENTRIES: Final = 100_000
LARGEST_SHARE: Final = 64
"""An answer larger than this part of the cache is not remembered: it would cost everybody else's their place."""

_ENTRY_BYTES: Final = 300
"""What an entry takes besides its entity and its rows: its key, its place, and the tables' room to grow."""

_PLAIN: Final = (str, float, int, type(None))


class CachedRows(NamedTuple):
    """What the store answered, when it was asked (monotonic seconds), and what that takes in memory, in bytes.

    ``fault`` is ``feature_type`` where what is stored is not of the type that it should be; then there are no rows.
    """

    rows: Mapping[str, FeatureRow]
    read_at: float
    size: int
    fault: Reason | None = None


class FeatureCache:
    """Entries of ``max_bytes`` together at most and ``max_entries``, of which the least recently used leave first.

    ``bytes`` is what they take, ``refused`` how many were too large for it since the start.
    """

    def __init__(self, max_bytes: int, max_entries: int = MAX_ENTRIES) -> None:
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._entries: dict[FeatureKey, CachedRows] = {}
        self.bytes = 0
        self.refused = 0

    def __len__(self) -> int:
        """The number of entries."""
        return len(self._entries)

    def __contains__(self, key: FeatureKey) -> bool:
        """Whether there is an entry of ``key``, which this does not use."""
        return key in self._entries

    @property
    def max_entry_bytes(self) -> int:
        """How large an entry may be."""
        return self._max_bytes // LARGEST_SHARE

    def get(self, key: FeatureKey) -> CachedRows | None:
        """The entry of ``key``, which is then the most recently used."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._entries[key] = entry  # put back at the end: the dict's order is the order of use
        return entry

    def put(self, key: FeatureKey, entry: CachedRows) -> None:
        """Remember ``entry``, in the place of the one before, unless it is too large."""
        self.drop(key)
        if entry.size > self.max_entry_bytes:
            self.refused += 1
            return
        self._entries[key] = entry
        self.bytes += entry.size
        while self.bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self.drop(next(iter(self._entries)))

    def drop(self, key: FeatureKey) -> None:
        """Forget the entry of ``key``, if there is one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size


def size_of(key: FeatureKey, rows: Mapping[str, FeatureRow], limit: int) -> int:
    """What an entry takes in memory, in bytes, or some number over ``limit`` when it is more.

    The view belongs to the rollout. What is used twice counts twice; nothing is walked further than the limit, so
    that the cost is bounded too.
    """
    size, unseen = _ENTRY_BYTES, [key.entity, rows]
    while unseen:
        part: Any = unseen.pop()
        size += getsizeof(part)
        if size > limit:
            break
        if isinstance(part, _PLAIN):  # most are, and to find that out by abstract classes costs as much as the rest
            continue
        if isinstance(part, (list, tuple)):
            unseen.extend(part)
        elif isinstance(part, Mapping):
            unseen.extend(part)
            unseen.extend(part.values())
    return size
