"""A dictionary of bounded size: what was not asked for in the longest time goes first, and is counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Bounded(Generic[K, V]):
    """At most ``most`` entries. ``dropped`` counts those that had to make room."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[K, V] = OrderedDict()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def find(self, key: K) -> V | None:
        """The entry, if there is one; it is as recent as it was."""
        return self._entries.get(key)

    def use(self, key: K, make: Callable[[], V]) -> V:
        """The entry, made if there is none, and the most recent from now on."""
        entries = self._entries
        entry = entries.get(key)
        if entry is not None:
            entries.move_to_end(key)
            return entry
        entry = entries[key] = make()
        if len(entries) > self._most:
            entries.popitem(last=False)
            self.dropped += 1
        return entry

    def forget(self, key: K) -> bool:
        """Let an entry go; whether there was one."""
        return self._entries.pop(key, None) is not None
