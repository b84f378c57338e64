"""What this process keeps of each rollout in a store, without the rest of ten thousand rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Generic, TypeVar

from extproc.store.ports import ChangeFeed
from extproc.store.records import StoredRollout, UnreadableRollout

S = TypeVar("S", bound=ChangeFeed)
T = TypeVar("T")


class FollowedRows(Generic[S, T]):
    """Follows the store that ``open_store`` opens, once it can; ``keep`` gives what is kept of a row, None for nothing.

    Blocks; one thread's at a time.
    """

    def __init__(self, open_store: Callable[[], S], keep: Callable[[StoredRollout], T | None]) -> None:
        self._open_store = open_store
        self._keep = keep
        self._store: S | None = None
        self._revision = 0
        self.deleted: Collection[str] = ()
        """The keys of rows that were deleted by the last changes."""

    def store(self) -> S:
        """The store, opened. Raises ``Unreachable``."""
        if self._store is None:
            self._store = self._open_store()
        return self._store

    def changed(self, known: Mapping[str, T]) -> Mapping[str, T | None]:
        """What is kept of rows that changed since the last time, by their keys; None where nothing is any more.

        ``known`` is what was kept so far: of a row that cannot be read it stays. Raises ``Unreachable``.
        """
        changes = self.store().changes(self._revision)
        deleted = set[str]()
        self.deleted = deleted
        if changes is None:
            return {}
        changed: dict[str, T | None] = {}
        for row in changes.rollouts:
            changed[row.key] = self._kept(row, known)
            if row.deleted:
                deleted.add(row.key)
        self._revision = changes.revision
        return {**dict.fromkeys(known), **changed} if changes.complete else changed

    def _kept(self, row: StoredRollout | UnreadableRollout, known: Mapping[str, T]) -> T | None:
        if row.deleted:
            return None
        return known.get(row.key) if isinstance(row, UnreadableRollout) else self._keep(row)
