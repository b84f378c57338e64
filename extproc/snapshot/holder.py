"""Keeps the snapshot current: follows the store, compiles only what changed, swaps in one assignment.

The last good is kept for each rollout: a document that does not compile leaves its own rollout as it was and stands
in ``errors``; it never holds up another's change. A store that cannot be read leaves everything as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from extproc.clock import Clock
from extproc.errors import DropoutError, Fault, Unreachable
from extproc.resources.loading import parse_rollout
from extproc.snapshot.compile import compile_rollout
from extproc.snapshot.matching import MatchKey, MatchTable
from extproc.snapshot.model import CompiledRollout, Overlay, Snapshot
from extproc.snapshot.store import POLL_SECONDS, Changes, RolloutStore, StoredRollout

_T = TypeVar("_T")
EMPTY = Snapshot(0, {}, MatchTable())


class SnapshotHolder:
    """The snapshot in force, as ``current``; one for each worker.

    ``errors`` holds the fault of each rollout whose latest state did not compile, ``store_fault`` why the store
    cannot be followed at the moment. ``confirmed_at`` is the monotonic time at which the snapshot was last known to
    agree with the store. Callbacks in ``on_swap`` are called on the event loop with each new snapshot.
    """

    def __init__(self, store: RolloutStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._pending: dict[str, tuple[float, StoredRollout]] = {}
        self.current = EMPTY
        self.errors: Mapping[str, Fault] = {}
        self.store_fault: Fault | None = None
        self.confirmed_at = clock.monotonic()
        self.on_swap: list[Callable[[Snapshot], None]] = []

    def load(self) -> None:
        """Build the first snapshot.

        Raises:
            Unreachable: when the store cannot be read.
        """
        changes = self._store.changes(0)
        if changes is not None:
            self._swap(self._rebuild(changes))
        self.confirmed_at = self._clock.monotonic()

    async def follow(self) -> None:
        """Follow the store until cancelled. Whatever fails is retried at the next poll."""
        loop = asyncio.get_running_loop()
        # A thread of its own: a store that blocks must not stop the event loop.
        with ThreadPoolExecutor(1, "snapshot") as thread:
            while True:
                await asyncio.sleep(self._until_next_look())
                snapshot = await loop.run_in_executor(thread, self.refresh)
                if snapshot is not None:
                    self._swap(snapshot)

    def refresh(self) -> Snapshot | None:
        """The next snapshot, if anything changed in the store or fell due; never raises for what is in the store."""
        try:
            changes = self._store.changes(self.current.revision)
        except Unreachable as error:
            self.store_fault = error.faults[0]
            changes = None
        else:
            self.store_fault = None
            self.confirmed_at = self._clock.monotonic()
        if changes is None and not self._due():
            return None
        return self._rebuild(changes or Changes(self.current.revision, ()))

    def _until_next_look(self) -> float:
        """Seconds until the next poll, or until the next rise falls due if that is sooner."""
        if not self._pending:
            return POLL_SECONDS
        due = min(due for due, _ in self._pending.values()) - self._clock.now()
        return min(POLL_SECONDS, max(0.0, due))

    def _due(self) -> list[StoredRollout]:
        now = self._clock.now()
        return [row for due, row in self._pending.values() if due <= now]

    def _swap(self, snapshot: Snapshot) -> None:
        self.current = snapshot
        for callback in self.on_swap:
            callback(snapshot)

    def _rebuild(self, changes: Changes) -> Snapshot:
        before = self.current
        rollouts = dict(before.rollouts)
        overlay = dict(before.overlay)
        errors = dict(self.errors)
        moved: list[tuple[str, tuple[MatchKey, ...], tuple[MatchKey, ...]]] = []
        seen: set[str] = set()
        # What changed comes after what fell due: of two states of one rollout the later one stands.
        for row in [*self._due(), *changes.rollouts]:
            seen.add(row.key)
            old = rollouts.get(row.key)
            new = None if row.deleted else self._compile(row, old, errors)
            _put(rollouts, row.key, new)
            killed = new is not None and row.status is not None and row.status.killed
            _put(overlay, row.key, Overlay(killed=True) if killed else None)
            _note_move(moved, row.key, old, new)
        if changes.complete:
            for key in [key for key in rollouts if key not in seen]:
                _note_move(moved, key, rollouts.pop(key), None)
                overlay.pop(key, None)
                self._pending.pop(key, None)
        self.errors = {key: fault for key, fault in errors.items() if not changes.complete or key in seen}
        table = before.table.changed(moved) if moved else before.table
        return Snapshot(changes.revision, rollouts, table, overlay)

    def _compile(
        self, row: StoredRollout, last_good: CompiledRollout | None, errors: dict[str, Fault]
    ) -> CompiledRollout | None:
        now = self._clock.now()
        self._pending.pop(row.key, None)
        errors.pop(row.key, None)
        try:
            assert row.status is not None
            compiled = compile_rollout(parse_rollout(row.document), row.status, now)
        except DropoutError as error:
            errors[row.key] = error.faults[0]
            return last_good
        if row.status.effective_at > now:
            self._pending[row.key] = (row.status.effective_at, row)
        return compiled


def _put(mapping: dict[str, _T], key: str, value: _T | None) -> None:
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value


def _note_move(
    moved: list[tuple[str, tuple[MatchKey, ...], tuple[MatchKey, ...]]],
    key: str,
    old: CompiledRollout | None,
    new: CompiledRollout | None,
) -> None:
    before, after = old.match if old else (), new.match if new else ()
    if before != after:
        moved.append((key, before, after))
