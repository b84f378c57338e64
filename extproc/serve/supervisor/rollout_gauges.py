"""Where rollouts stand, for ``/metrics``: read from the store beside all requests, and from what the host holds.

A rollout has series as long as there is something to watch: a canary that is not promoted, variants, a kill, a trip.
They are there before anything happens to it, at 0: what appears with its first event has no increase, and no alert
sees that one. Ten thousand rollouts of which nobody wants to know anything have none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from extproc.clock import Clock
from extproc.errors import Unreachable
from extproc.metrics.catalogue import (
    ABORTS,
    KILLS,
    ROLLOUT_KILLED,
    ROLLOUT_PHASE,
    ROLLOUT_TRIPPED,
    ROLLOUT_WEIGHT,
    TRIPS,
    Counter,
)
from extproc.metrics.counting import Labels, Row
from extproc.serve.supervisor.followed_rows import FollowedRows
from extproc.snapshot.trips import LocalTrip, is_void
from extproc.store.ports import ChangeFeed
from extproc.store.records import StoredRollout
from extproc.store.status import Status
from extproc.trouble import Troubles

REFRESH_SECONDS: Final = 1.0


class HeldHere(Protocol):
    """What this host takes away by itself."""

    @property
    def trips(self) -> Sequence[LocalTrip]:
        """The trips in force."""
        ...

    @property
    def killed(self) -> Collection[str]:
        """The keys of the rollouts that are killed."""
        ...


class _Rollout(NamedTuple):
    """A rollout as the store has it; ``candidates`` are the versions that may be taken away from their units."""

    status: Status
    candidates: frozenset[str]


class _Taken(NamedTuple):
    """What of a rollout is taken away, by whomever."""

    killed: bool
    tripped: frozenset[str]
    aborted: frozenset[str]


class RolloutGauges:
    """Follows the store that ``open_store`` opens, and what is ``held``, on one event loop.

    No other part of the supervisor looks at the store as often: it is the one that tells, by ``warn``, of a lost one.
    """

    def __init__(
        self, open_store: Callable[[], ChangeFeed], held: HeldHere, clock: Clock, warn: Callable[[str], None]
    ) -> None:
        self._rows = FollowedRows(open_store, lambda row: _Rollout(_slim(row.status), _candidates(row)))
        self._held = held
        self._clock = clock
        self._troubles = Troubles(warn, clock.monotonic)
        self._rollouts: dict[str, _Rollout] = {}
        self._taken: dict[str, _Taken] = {}
        self._counts: dict[str, Mapping[tuple[Counter, Labels], int]] = {}
        self._held_of: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Refresh again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Take over what is new. A store that says nothing changes nothing, and is told once, as its return is."""
        try:
            changed = await asyncio.to_thread(self._rows.changed, self._rollouts)
        except Unreachable as error:
            self._troubles.note("store", f"{error}; what it had last is served on")
            changed = {}
        else:
            self._troubles.note("store")
        self._take(changed)

    def held_changed(self) -> None:
        """What the host holds is something else: that waits for no store."""
        self._take({})

    def rows(self) -> Iterator[Row]:
        """The series of all rollouts that have any."""
        now = self._clock.now()
        for key, counts in self._counts.items():
            (status, candidates), taken = self._rollouts[key], self._taken[key]
            yield ROLLOUT_PHASE, (key, status.phase), 1
            yield ROLLOUT_KILLED, (key,), int(taken.killed)
            if status.canary not in (None, status.stable):
                yield ROLLOUT_WEIGHT, (key,), status.weight_at(now) / 100
            for version in candidates:
                yield ROLLOUT_TRIPPED, (key, version), int(version in taken.tripped)
            for (counter, labels), count in counts.items():
                yield counter, labels, count

    def _take(self, changed: Mapping[str, _Rollout | None]) -> None:
        """Take over what changed, in the store or in what is held."""
        killed, before = frozenset(self._held.killed), self._held_of
        trips: dict[str, list[LocalTrip]] = {}
        for trip in self._held.trips:
            trips.setdefault(trip.rollout, []).append(trip)
        self._held_of = killed.union(trips)
        for key in before.union(self._held_of, changed):
            rollout = changed[key] if key in changed else self._rollouts.get(key)
            if rollout is None:
                for known in (self._rollouts, self._taken, self._counts):
                    known.pop(key, None)
            else:
                self._rollouts[key] = rollout
                self._count(key, rollout, _taken_of(rollout, trips.get(key, ()), held=key in killed))

    def _count(self, key: str, rollout: _Rollout, taken: _Taken) -> None:
        """Count what was taken away since the last refresh. What was so at the first one happened before."""
        before, self._taken[key] = self._taken.get(key, taken), taken
        if not (rollout.candidates or taken.killed):
            self._counts.pop(key, None)
            return
        new: dict[tuple[Counter, Labels], int] = {
            (KILLS, (key,)): taken.killed > before.killed,
            (ABORTS, (key,)): len(taken.aborted - before.aborted),
            **{
                (TRIPS, (key, version)): version in taken.tripped - before.tripped
                for version in sorted(rollout.candidates)
            },
        }
        old = self._counts.get(key, {})
        self._counts[key] = {series: old.get(series, 0) + count for series, count in new.items()}


def _taken_of(rollout: _Rollout, trips: Iterable[LocalTrip], *, held: bool) -> _Taken:
    status = rollout.status
    tripped = {trip.version for trip in trips if not is_void(trip, status)}.union(status.tripped)
    return _Taken(
        status.killed or held,
        rollout.candidates.intersection(tripped),
        rollout.candidates.intersection(status.aborted),
    )


def _candidates(row: StoredRollout) -> frozenset[str]:
    """The canary, or the variants but the control; a stable version only while it is tripped all the same."""
    status = row.status
    variants = row.document.get("spec", {}).get("variants") or ()
    versions = {*([status.canary] if status.canary else ()), *(variant["version"] for variant in variants)}
    return frozenset(versions - {status.stable} | {status.stable}.intersection(status.tripped))


def _slim(status: Status) -> Status:
    """The status without what is of no use here and makes ten thousand of them large."""
    return replace(status, message="", conditions=(), analysis={}, previous={}, numbers={}, applied={}, unknown={})
