"""Keeps the snapshot current: follows the store, compiles only what changed, swaps in one assignment.

The last good is kept for each rollout: a document that does not compile leaves its own rollout as it was and stands
in ``errors``; it never holds up another's change. What its status takes away is taken away all the same. A store that
cannot be read leaves everything as it was.

What takes away is read ahead of what has to be compiled: a kill does not wait for the ten thousand documents before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from extproc.clock import Clock
from extproc.errors import DropoutError, Fault, Unreachable
from extproc.matching import MatchKey, MatchTable
from extproc.resources.loading import parse_known, parse_rollout
from extproc.snapshot.compile import compile_rollout, compile_stable, compile_with_less
from extproc.snapshot.model import NO_OVERLAY, CompiledRollout, Overlay, Snapshot
from extproc.snapshot.stops import over, with_stops, without_aborted
from extproc.snapshot.trips import LocalTrip, with_held
from extproc.store.ports import POLL_SECONDS, ChangeFeed
from extproc.store.records import Changes, StoredRollout, UnreadableRollout
from extproc.store.status import NO_STOPS, Stops, StopsAt

logger = logging.getLogger(__name__)

EMPTY = Snapshot(0, {}, MatchTable())

STOPS_SECONDS = 0.05
"""Compiling for longer than this, a look at what stops comes in between."""


class SnapshotHolder:
    """The snapshot in force, as ``current``; one for each worker.

    ``errors`` holds the fault of each rollout whose latest state did not compile, ``store_fault`` why the store
    cannot be followed at the moment. ``confirmed_at`` is the monotonic time at which the snapshot was last known to
    agree with the store. ``compiled`` counts the rollouts that were compiled so far. Callbacks in ``on_swap`` are
    called on the event loop with each new snapshot.
    """

    def __init__(self, feed: ChangeFeed, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._pending: dict[str, StoredRollout] = {}
        self._trips: Sequence[LocalTrip] = ()
        self._killed: Set[str] = frozenset()
        self._stops: dict[str, StopsAt] = {}
        self._stops_seen = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.current = EMPTY
        self.errors: Mapping[str, Fault] = {}
        self.store_fault: Fault | None = None
        self.confirmed_at = clock.monotonic()
        self.compiled = 0
        self.on_swap: list[Callable[[Snapshot], None]] = []

    def load(self) -> None:
        """Build the first snapshot.

        Raises:
            Unreachable: when the store cannot be read.
        """
        changes = self._feed.changes(0)
        if changes is not None:
            self._swap(self._rebuild(changes))
        self.confirmed_at = self._clock.monotonic()

    def hold(self, trips: Sequence[LocalTrip], killed: Set[str] = frozenset()) -> None:
        """Let ``trips`` and kills, all of this host's that are in force, hold from the next request on.

        ``killed`` are rollouts by their keys; one that is not there yet is killed when it comes. On the event loop.
        """
        self._trips, self._killed = trips, killed
        self.current = with_held(self.current, trips, killed)

    async def follow(self) -> None:
        """Follow the store until cancelled. Whatever fails is tried again at the next poll."""
        self._loop = loop = asyncio.get_running_loop()
        # A thread of its own: a store that blocks must not stop the event loop.
        with ThreadPoolExecutor(1, "snapshot") as thread:
            while True:
                await asyncio.sleep(self._until_next_poll())
                snapshot = await loop.run_in_executor(thread, self.refresh)
                if snapshot is not None:
                    self._swap(snapshot)

    def refresh(self) -> Snapshot | None:
        """The next snapshot, if anything changed in the store or fell due. Never raises for what the store holds."""
        try:
            changes = self._changes()
            due = self._due()
            snapshot = self._rebuild(changes, due) if changes is not None or due else None
        except Unreachable as error:
            self.store_fault = error.faults[0]
            return None
        except Exception as error:  # a bug must not cost what is being served
            fault = Fault("snapshot_failed", f"the changes cannot be taken over: {error!r}")
            if fault != self.store_fault:
                logger.exception("the changes of the store cannot be taken over; what was served is served on")
            self.store_fault = fault
            return None
        self.store_fault = None
        self.confirmed_at = self._clock.monotonic()
        return snapshot

    def _changes(self) -> Changes | None:
        before = self.current.revision
        self._stops_seen = max(self._stops_seen, before)
        changes = self._feed.changes(before)
        if changes is not None and changes.complete:
            self._look_for_stops_anew()
        return changes

    def _until_next_poll(self) -> float:
        """Seconds until the next poll, or until the next rise falls due if that is sooner."""
        now = self._clock.now()
        return min([POLL_SECONDS, *(max(0.0, row.status.effective_at - now) for row in self._pending.values())])

    def _due(self) -> list[StoredRollout]:
        now = self._clock.now()
        return [row for row in self._pending.values() if not row.status.is_pending(now)]

    def _look_for_stops(self) -> None:
        """Let what stops hold before what is being compiled; on the thread that compiles."""
        if self._loop is None:  # nobody is served by it yet
            return
        self._stops_seen, found = self._feed.stops(self._stops_seen)
        if found:
            self._loop.call_soon_threadsafe(self._stop, found)

    def _look_for_stops_anew(self) -> None:
        """What was found ahead may stand in a store that is no more, whose place one of other revisions took."""
        self._stops_seen = 0
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop_no_more)

    def _stop_no_more(self) -> None:
        self._stops = {}

    def _stop(self, found: Sequence[StopsAt]) -> None:
        self._stops.update({at.key: at for at in found})
        self._swap(self.current)

    def _swap(self, snapshot: Snapshot) -> None:
        self._stops = {key: at for key, at in self._stops.items() if at.revision > snapshot.revision}
        if self._stops:
            snapshot = with_stops(snapshot, self._stops.values())
        self.current = with_held(snapshot, self._trips, self._killed)
        for callback in self.on_swap:
            callback(self.current)

    def _rebuild(self, changes: Changes | None, due: Iterable[StoredRollout] = ()) -> Snapshot:
        """The snapshot after ``changes`` and with the rises that fell ``due``; nothing is kept if reading fails."""
        draft = _Draft(self.current, self.errors, self._pending)
        now = self._clock.now()
        # What changed comes after what fell due: of two states of one rollout the later one stands.
        for row in due:
            draft.put(row, now)
        if changes is not None:
            seen = set()
            read_at = self._clock.monotonic()
            for changed in changes.rollouts:
                if self._clock.monotonic() - read_at > STOPS_SECONDS:
                    self._look_for_stops()
                    read_at = self._clock.monotonic()
                draft.put(changed, now)
                seen.add(changed.key)
            if changes.complete:
                draft.keep_only(seen)
        self.errors, self._pending = draft.errors, draft.pending
        self.compiled += draft.compiled
        return draft.snapshot(changes.revision if changes is not None else self.current.revision)


def _compile(row: StoredRollout, now: float) -> CompiledRollout:
    """The row's rollout as it stands at ``now``, with what it becomes when a pending rise falls due."""
    rollout, due = parse_rollout(row.document), row.status.effective_at
    compiled = compile_rollout(rollout, row.status, now)
    if not row.status.is_pending(now):
        return compiled
    return replace(compiled, successor=compile_rollout(rollout, row.status, due), successor_at=due)


class _Draft:
    """The next snapshot while it is being put together, from a copy of the one before."""

    def __init__(self, before: Snapshot, errors: Mapping[str, Fault], pending: Mapping[str, StoredRollout]) -> None:
        self._table = before.table
        self._rollouts = dict(before.rollouts)
        self._overlay = dict(before.overlay)
        self._moved: list[tuple[str, tuple[MatchKey, ...], tuple[MatchKey, ...]]] = []
        self.errors = dict(errors)
        self.pending = dict(pending)
        self.compiled = 0

    def put(self, row: StoredRollout | UnreadableRollout, now: float) -> None:
        """Take one rollout's state into the draft."""
        if row.deleted:
            self.drop(row.key)
            return
        if isinstance(row, UnreadableRollout):
            self._stop(row.key, row.stops)
            self.errors[row.key] = row.fault
            return
        try:
            self._take(row, _compile(row, now), now)
        except DropoutError as error:
            self._take_less(row, error.faults[0], now)
        except Exception as error:  # whatever a row holds, it must not hold up another's change
            self._take_less(row, Fault("rollout_unreadable", f"the rollout cannot be compiled: {error!r}"), now)
            logger.exception("the rollout %s cannot be compiled", row.key)

    def _take(self, row: StoredRollout, compiled: CompiledRollout, now: float) -> None:
        self.compiled += 1
        self.drop(row.key, moving=compiled)
        self._rollouts[row.key] = compiled
        if row.status.killed or row.status.tripped:
            self._overlay[row.key] = Overlay(row.status.killed, frozenset(row.status.tripped))
        if row.status.is_pending(now):
            self.pending[row.key] = row

    def _take_less(self, row: StoredRollout, fault: Fault, now: float) -> None:
        """Go by a row whose document is not understood: by the last one that was, as far as the status lets it.

        Where there was none, by what of it is understood: then all of it is served by stable.
        """
        before = self._rollouts.get(row.key)
        try:
            if before is not None:
                self._take(row, compile_with_less(before, row.status, now), now)
            else:
                self._take(row, compile_stable(parse_known(row.document), row.status, now), now)
                self._stop(row.key, Stops(killed=True))
        except Exception:
            status = row.status
            self._stop(row.key, Stops(status.killed, status.aborted, status.tripped))
        self.errors[row.key] = fault

    def _stop(self, key: str, stops: Stops) -> None:
        """Take away from what there is of a rollout."""
        if (compiled := self._rollouts.get(key)) is not None and stops != NO_STOPS:
            self._rollouts[key] = without_aborted(compiled, frozenset(stops.aborted))
            self._overlay[key] = over(self._overlay.get(key, NO_OVERLAY), stops)

    def drop(self, key: str, moving: CompiledRollout | None = None) -> None:
        """Take out whatever there is of a rollout; ``moving`` is what comes in its place."""
        old = self._rollouts.pop(key, None)
        self._overlay.pop(key, None)
        self.errors.pop(key, None)
        self.pending.pop(key, None)
        before, after = old.match if old else (), moving.match if moving else ()
        if before != after:
            self._moved.append((key, before, after))

    def keep_only(self, keys: set[str]) -> None:
        """Take out every rollout that is not among ``keys``."""
        for key in (self._rollouts.keys() | self.errors.keys()) - keys:
            self.drop(key)

    def snapshot(self, revision: int) -> Snapshot:
        """The draft, frozen."""
        table = self._table.changed(self._moved) if self._moved else self._table
        return Snapshot(revision, self._rollouts, table, self._overlay)
