"""A store in memory: what a snapshot holder sees of the real one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from extproc.errors import Fault, Unreachable
from extproc.snapshot.store import Changes, Status, Stops, StopsAt, StoredRollout, UnreadableRollout
from tests.support.rollouts import CANARY, document


class MemoryStore:
    """Rows with revisions; ``broken`` makes every call fail with that code."""

    def __init__(self) -> None:
        self.rows: dict[str, StoredRollout] = {}
        self.damaged: set[str] = set()
        self.revision = 0
        self.broken: str | None = None
        self.replacement: MemoryStore | None = None

    def put(self, name: str = "fraud-detector", spec: dict[str, Any] | None = None, **status: Any) -> StoredRollout:
        """Write a canary rollout from 3 to 4."""
        self.revision += 1
        standing = Status(**{"stable": "3", "canary": "4", **status})
        row = StoredRollout("payments", name, document(spec or CANARY, name), standing, self.revision)
        self.rows[row.key] = row
        self.damaged.discard(row.key)
        return row

    def damage(self, name: str) -> None:
        """Make a row one that nobody can read."""
        self.revision += 1
        row = self.rows[f"payments/{name}"]
        self.rows[row.key] = replace(row, resource_version=self.revision)
        self.damaged.add(row.key)

    def delete(self, name: str) -> None:
        """Leave a tombstone row, as the real store does."""
        self.revision += 1
        row = self.rows[f"payments/{name}"]
        self.rows[row.key] = StoredRollout("payments", name, {}, row.status, self.revision, deleted=True)

    def changes(self, since: int) -> Changes | None:
        self._check()
        if since == self.revision:
            return None
        rows = [row for row in self.rows.values() if row.resource_version > since and not (row.deleted and since == 0)]
        return Changes(self.revision, map(self._as_read, rows), complete=since == 0)

    def stops(self, since: int) -> list[StopsAt]:
        self._check()
        rows = [row for row in self.rows.values() if row.resource_version > since and not row.deleted]
        found = [StopsAt(row.key, row.resource_version, Stops.found_in(row.status.as_dict())) for row in rows]
        return [each for each in found if each.stops != Stops()]

    def _as_read(self, row: StoredRollout) -> StoredRollout | UnreadableRollout:
        if row.key not in self.damaged:
            return row
        fault = Fault("store_corrupt", "the row is damaged")
        stops = Stops.found_in(row.status.as_dict())
        return UnreadableRollout(row.namespace, row.name, fault, row.resource_version, deleted=row.deleted, stops=stops)

    def reopen(self) -> None:
        if self.replacement is None or not self.replacement.rows:
            self._check()
            return
        self.rows, self.revision, self.broken = self.replacement.rows, self.replacement.revision, None

    def _check(self) -> None:
        if self.broken:
            raise Unreachable.of(self.broken, "the store is away")
