"""The store in memory, with words for what tests write into it: rollouts of ``payments``, from 3 to 4."""

from __future__ import annotations

from typing import Any

from extproc.store.records import StoredRollout, Write
from extproc.store.status import Status
from extproc.testing import memory_store
from tests.support.rollouts import CANARY, document


class MemoryStore(memory_store.MemoryStore):
    """What is written, somebody else writes."""

    def put(self, name: str = "fraud-detector", spec: dict[str, Any] | None = None, **status: Any) -> StoredRollout:
        """Write a canary rollout from 3 to 4."""
        standing = Status(**{"stable": "3", "canary": "4", **status})
        return self._write(Write("payments", name, self._at(name), document(spec or CANARY, name), standing))

    def damage(self, name: str) -> None:
        """Make a row one that nobody can read."""
        self.place.damage("payments", name)

    def delete(self, name: str) -> None:
        """Delete a rollout."""
        self._write(Write("payments", name, self._at(name), delete=True))

    def _at(self, name: str) -> int | None:
        assert self.place.content is not None
        row = self.place.content.rows.get(("payments", name))
        return None if row is None or row.deleted_at is not None else row.revision

    def _write(self, write: Write) -> StoredRollout:
        (row,) = memory_store.MemoryStore(self.place).write([write])
        return row
