"""The loop that moves rollouts: one leader, a look at everything under way each second, every step written at once.

It may end at any point and begin again anywhere: all it knows is in the store. Each transition is written with the
row's version and the leader's lease, so whoever lost either has moved nothing, and looks again at the next tick.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from extproc.clock import Clock
from extproc.control.actions import Verb
from extproc.control.active_rollouts import ActiveRollout, ActiveRollouts
from extproc.control.intent import Transition
from extproc.control.observer_reports import Hearing, Silence
from extproc.control.readiness import AllClusters, Clusters, gives_more
from extproc.control.reported_trips import ReportedTrips
from extproc.control.rollout import Evidence, advance, may_stall
from extproc.control.status_changes import arrived, from_commit_on, overlaps
from extproc.control.step_time import StepTime
from extproc.errors import Fault, Refused, Unreachable
from extproc.store.ports import ControlledStore
from extproc.store.records import HistoryEntry, Lease, StoredRollout, Write
from extproc.store.status import CLOCK_SET_BACK_SECONDS, Status
from extproc.trouble import Troubles

logger = logging.getLogger(__name__)
T = TypeVar("T")

TICK_SECONDS: Final = 1.0
"""From one tick to the next."""

MOST_TRANSITIONS: Final = 50
"""How far a rollout goes in one tick; no document has as many steps that wait for nothing."""

BATCH: Final = 50
"""Rollouts that are written together: the store is held for a few milliseconds at a time."""


class EvidenceSource(Protocol):
    """Collects what a rollout is advanced by. Blocks, for a bounded time; never raises."""

    def collect(self, under_way: Iterable[ActiveRollout], now: float) -> None:
        """See what is new of rollouts at ``now`` (Unix seconds); at each tick, whatever the store does."""
        ...

    def begin(self, now: float) -> None:
        """Each rollout will be looked at once, at ``now`` (Unix seconds)."""
        ...

    def evidence_of(self, followed: ActiveRollout, now: float) -> Evidence:
        """What there is to see of a rollout at ``now`` (Unix seconds)."""
        ...


Veto = Callable[[ActiveRollout, Transition, float], str]
"""Why a transition that gives the canary more may not be made; empty: it may."""


@dataclass(slots=True)
class _Moving:
    """A rollout within a tick. What was measured counts for its first transition alone."""

    followed: ActiveRollout
    evidence: Evidence


PlannedTransition = tuple[_Moving, Transition]


class _LeaseLost(Exception):
    """Somebody else leads."""


class Reconciler:
    """Moves the rollouts of ``store`` while ``holder``, a name that no other process has, leads. One thread's.

    ``actor`` is who did it, in history. ``say`` is told of every transition, in a line. ``hearing`` are the observers,
    None where there are none; ``clusters`` are asked before what one of them reports undoes a promotion. ``leading``
    and ``fault`` (why the store cannot be worked with at the moment) may be read from anywhere, and so may
    ``transitions`` and ``failures``: what it did, and how often a bug kept it from moving something, since the start.
    """

    def __init__(
        self,
        store: ControlledStore,
        clock: Clock,
        evidence: EvidenceSource,
        *,
        holder: str,
        actor: str,
        lease_seconds: float,
        veto: Veto = lambda _followed, _transition, _now: "",
        hearing: Hearing | None = None,
        clusters: Clusters | None = None,
        say: Callable[[str], None] = lambda _line: None,
        warn: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._evidence = evidence
        self._holder = holder
        self._actor = actor
        self._lease_seconds = lease_seconds
        self._veto = veto
        self._hearing = hearing
        self._say = say
        self._warn = warn
        self._troubles = Troubles(warn, clock.monotonic)
        self._under_way = ActiveRollouts(store, clock)
        self._reported = (
            ReportedTrips(store, clock, hearing, clusters or AllClusters(), self._under_way)
            if hearing is not None
            else None
        )
        self._step_time = StepTime(clock.monotonic)
        self._ahead = 0.0
        self._lease: Lease | None = None
        self._renew_at = 0.0
        self._broken: set[tuple[str, object]] = set()
        self.fault: Fault | None = None
        self.transitions = 0
        self.failures = 0

    @property
    def leading(self) -> bool:
        """Whether this is the controller that acts."""
        return self._lease is not None and self._clock.monotonic() < self._lease.expires_at

    @property
    def under_way(self) -> int:
        """Rollouts under way, as of the last tick."""
        return len(self._under_way)

    @property
    def alarms(self) -> int:
        """Rollouts whose stable version was tripped, as of the last tick."""
        return len(self._under_way.alarms)

    def tick(self) -> None:
        """Look at everything once. What fails is in ``fault``, and is tried again at the next tick.

        What hosts saw is looked at whether the store can be used or not, so that nothing is missed meanwhile.
        """
        try:
            try:
                lease = self._lead()
                if lease is not None:
                    if self._clock_was_set_back():
                        self._under_way.resync()
                    self._under_way.refresh()
            finally:
                self.collect()
            if lease is not None:
                self._record_trips()
                self._move(lease)
            self._note(None)
        except _LeaseLost:
            self._lose("another one took over")
        except Unreachable as error:
            self._note(error.faults[0])
            if not self.leading and self._lease is not None:
                self._lose("the lease could not be renewed")
        except Exception as error:  # a bug, or a row that nobody thought of: to end for it would move nothing either
            self.failures += 1
            if self.fault is None or self.fault.code != "tick_failed":
                logger.exception("a look at the rollouts failed, which is a bug; the next one comes")
            self._note(Fault("tick_failed", f"the rollouts cannot be looked at: {error!r}"))

    def release(self) -> None:
        """Let another lead at once."""
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                self._store.release(lease)
                self._say(f"gave up the lead as {self._holder}")
            except Unreachable as error:
                logger.warning("the lease runs out by itself: %s", error)

    # -- leading

    def _lead(self) -> Lease | None:
        now = self._clock.monotonic()
        if self._lease is not None and now < self._renew_at:
            return self._lease
        lease = self._store.acquire(self._holder, self._lease_seconds)
        if lease is None and self._lease is not None:
            raise _LeaseLost
        if lease is not None and self._lease is None:
            self._troubles.note("lead")
            self._say(f"leads as {self._holder}")
            self._under_way.resync()  # for what was planned by a clock that was set back meanwhile
        self._lease, self._renew_at = lease, now + self._lease_seconds / 3
        return lease

    def _clock_was_set_back(self) -> bool:
        """Whether the wall clock lost against time since the last tick: then any rise may lie too far ahead."""
        before, self._ahead = self._ahead, self._clock.now() - self._clock.monotonic()
        return before - self._ahead > CLOCK_SET_BACK_SECONDS

    def _lose(self, why: str) -> None:
        self._lease = None
        self._troubles.note("lead", f"given up: {why}")

    def _note(self, fault: Fault | None) -> None:
        """Say what is wrong with the store once, and when it is over."""
        self.fault = fault
        self._troubles.note_codes("rollouts", {fault.code: f"they wait: {fault}"} if fault is not None else {})

    # -- moving

    def _move(self, lease: Lease) -> None:
        """Take every rollout as far as it goes now. What takes away is written before anything that gives more."""
        now = self._clock.now()
        self._evidence.begin(now)
        self._step_time.begin()
        moving = [
            _Moving(followed, seen)
            for followed in self._under_way
            if (seen := self._by_itself(followed.key, self._evidence_of, followed, now)) is not None
        ]
        for _ in range(MOST_TRANSITIONS):
            falls: list[PlannedTransition] = []
            rises: list[PlannedTransition] = []
            for one, found in self._planned(moving, now):
                more = gives_more(one.followed.row.status, found.status)
                (rises if more else falls).append((one, found))
            moving = self._write_all(falls, now, lease)
            moving += self._write_all(self._planned(self._held_back(rises, now), now), now, lease)
            if not moving:
                return

    def _evidence_of(self, followed: ActiveRollout, now: float) -> Evidence:
        key, status = followed.key, followed.row.status
        in_step = self._step_time.in_step(key, status, now)
        stalled = self._step_time.stalled(key, may_stall(followed.plan, status, now))
        return replace(self._evidence.evidence_of(followed, now), in_step=in_step, stalled=stalled)

    def collect(self) -> None:
        """See what hosts saw, and move nothing: a part of every tick, and all of one that may not be."""
        self._evidence.collect(self._under_way, self._clock.now())
        if self._hearing is not None:
            self._hearing.refresh()

    def _record_trips(self) -> None:
        """What was taken away on some host comes before everything else."""
        for result in self._reported.record() if self._reported is not None else ():
            self._under_way.put(result.row)
            self._warn(f"rollout {result.row.key}: {result.message}")

    def _planned(self, moving: Sequence[_Moving], now: float) -> list[PlannedTransition]:
        """What is to be done with rollouts, where there is anything. A rise waits for the one before it."""
        planned = []
        for one in moving:
            followed = one.followed
            found = self._by_itself(followed.key, advance, followed.plan, followed.row.status, one.evidence, now)
            if found is not None and not overlaps(followed.row.status, found.status, now):
                planned.append((one, found))
        return planned

    def _by_itself(self, key: str, call: Callable[..., T], *arguments: Any) -> T | None:
        """What ``call`` gives for one rollout, or None: whatever that one holds, it must not hold up another."""
        try:
            found = call(*arguments)
        except Exception:
            self.failures += 1
            if (key, call) not in self._broken:
                logger.exception("%s is left as it is", key)
            self._broken.add((key, call))
            return None
        self._broken.discard((key, call))
        return found

    def _held_back(self, rises: Sequence[PlannedTransition], now: float) -> list[_Moving]:
        """The rollouts that are to get more, and where that may not be, why; without those of which it is not known."""
        moving = []
        for one, found in rises:
            silence = self._silence(one.followed)
            if silence is None:
                evidence = replace(one.evidence, vetoed=self._veto(one.followed, found, now))
            elif silence.certain:
                evidence = replace(one.evidence, unheard=silence.why)
            else:
                continue
            moving.append(_Moving(one.followed, evidence))
        return moving

    def _silence(self, followed: ActiveRollout) -> Silence | None:
        """Why it is not known whether an observer took the canary away."""
        if self._hearing is None or self._reported is None:
            return None
        if followed.key in self._reported.pending:
            return Silence("a trip is to be recorded first", certain=False)
        status = followed.row.status
        return self._hearing.silence(followed.key, status.attempt, status.without)

    def _write_all(self, planned: Sequence[PlannedTransition], now: float, lease: Lease) -> list[_Moving]:
        return [
            moved
            for start in range(0, len(planned), BATCH)
            for moved in self._write(planned[start : start + BATCH], now, lease)
        ]

    def _write(self, planned: Sequence[PlannedTransition], now: float, lease: Lease) -> list[_Moving]:
        """Write what was planned, and give what was moved by it. What others wrote first waits for the next tick.

        So does a rollout whose row was damaged while it was under way, for whoever repairs it.
        """
        try:
            rows = self._store.write([self._as_write(one, found, now) for one, found in planned], lease=lease)
        except (Refused, Unreachable) as error:
            if error.code == "lease_lost":
                raise _LeaseLost from error
            if isinstance(error, Unreachable) and error.code != "store_corrupt":
                raise
            if len(planned) == 1:
                self._see_again(planned[0][0].followed.row, error)
                return []
            return [moved for one in planned for moved in self._write([one], now, lease)]
        moved = []
        for (one, found), row in zip(planned, rows, strict=True):
            self.transitions += bool(found.message)
            if found.message:
                self._say(f"rollout {row.key}: {found.message}")
            self._under_way.put(row)
            if (followed := self._under_way.get(row.key)) is not None:
                after = replace(one.evidence, measured={}, vetoed="", unheard="", in_step=None, stalled=0.0)
                moved.append(_Moving(followed, after))
        return moved

    def _see_again(self, row: StoredRollout, error: Refused | Unreachable) -> None:
        """Go on from what others wrote first: of what changed an analysis only, changes say nothing."""
        try:
            if isinstance(error, Unreachable):
                raise error
            self._under_way.put(self._store.get(row.namespace, row.name) or replace(row, deleted=True))
        except Unreachable as damaged:
            if damaged.code != "store_corrupt":
                raise
            self._under_way.leave(row.key, damaged.faults[0])

    def _as_write(self, moving: _Moving, found: Transition, now: float) -> Write:
        row = moving.followed.row
        verb = verb_of(row.status, found.status)
        entry = HistoryEntry(now, row.namespace, row.name, self._actor, verb, found.message, found.detail)
        return Write(
            row.namespace,
            row.name,
            row.resource_version,
            status=arrived(found.status, now),
            at_commit=from_commit_on(now, self._clock),
            history=[entry] if found.message else [],
        )


def verb_of(before: Status, after: Status) -> Verb:
    """What history calls a step of the controller's: as the command that does the same, else ``advance``."""
    if after.stable != before.stable:
        return "promote"
    if len(after.aborted) > len(before.aborted):
        return "abort"
    if after.phase == "Paused" != before.phase:
        return "pause"
    return "advance"
