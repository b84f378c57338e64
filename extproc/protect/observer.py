"""The observer: from what Envoy logs and what workers decided to totals, windows and trips.

Belongs to one event loop and does no I/O: whoever puts it together feeds it and passes on what it says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from extproc.assignment import BUCKETS
from extproc.clock import Clock
from extproc.decision_id import IdFault, Opened, arm_and_stream
from extproc.measure.breaker import WatchedVersion
from extproc.measure.outcomes import Counts, End
from extproc.names import ARM_EXCLUDED
from extproc.protect.access_log import LogEntry
from extproc.protect.bounded import Bounded
from extproc.protect.epochs import SnapshotEpochs
from extproc.protect.heard_decisions import EXPIRED, GOING_ON, REPEATED, HeardDecisions, News
from extproc.protect.missing import Decisions, Missing, Settled
from extproc.protect.outcome import ENDS, OF_STABLE, RequestOutcome, outcome_of
from extproc.protect.totals import EpochKey, RunTotals
from extproc.protect.trips import Trips, VersionKey
from extproc.snapshot.model import CompiledRollout, Snapshot
from extproc.snapshot.trips import LocalTrip, tripped_at

MAX_WATCHED: Final = 32_768
"""Versions whose outcomes are watched at a time: 20 MB with windows of ten seconds, 100 MB with the longest."""

MAX_FALLBACKS: Final = 20_000
"""Ids of requests that stable answered in a version's place, between two times that they are asked for."""

DEAF_AFTER: Final = 20
"""After so many decisions of which nothing is known, and nothing of any other since, it is the log that is missing."""

MAX_EARLY: Final = 20_000
EARLY_SECONDS: Final = 2.0
"""Entries that name an epoch of which nothing is known yet wait for as long, and as many of them at most."""


class OpenIds(Protocol):
    """What opens decision ids."""

    def open(self, text: str) -> Opened | IdFault:
        """What the id ``text`` says, or why it says nothing. Never raises."""
        ...


class Events(Protocol):
    """Who hears of what the observer sees."""

    def outcome(self, key: str, version: str, outcome: RequestOutcome, count: int) -> None:
        """``count`` requests that were decided for a version ended so."""
        ...

    def dropped(self, why: str, count: int) -> None:
        """``count`` entries could not be taken into account; ``why`` is one of a closed list."""
        ...

    def surplus(self, key: str, version: str, count: int) -> None:
        """The log told of ``count`` ends that no decision for the version stands for, or told of them again."""
        ...

    def tripped(self, compiled: CompiledRollout, version: str, why: str) -> None:
        """A version was taken away."""
        ...

    def trips(self, in_force: Sequence[LocalTrip], lifted: Sequence[LocalTrip]) -> None:
        """The trips in force changed; these are all. Probes went well of those that were ``lifted``, at their time."""
        ...


class Requests(NamedTuple):
    """What workers decided within one second of the wall clock: requests of an arm, for a version.

    Of what may be a ``stream`` nobody knows when it has to have ended.
    """

    rollout: str
    epoch: int
    arm: str
    version: str
    second: int
    requests: int
    stream: bool = False


class _Early(NamedTuple):
    """An entry whose epoch is not known yet, and until when (monotonic seconds) it may become so."""

    until: float
    entry: LogEntry
    opened: Opened


class Observer:
    """Watches all rollouts of the snapshots that it is told of.

    A decision is waited for ``limit`` seconds. ``trips`` are those that an earlier observer left in force. ``totals``
    are the counts of this run, ``entries`` how many requests it was told the end of, ``heard_at`` when it was last told
    anything (monotonic seconds).
    """

    def __init__(
        self, ids: OpenIds, limit: float, clock: Clock, events: Events, trips: Iterable[LocalTrip] = ()
    ) -> None:
        self._ids = ids
        self._limit = limit
        self._clock = clock
        self._events = events
        self._rollouts: Mapping[str, CompiledRollout] = {}
        self._follows = False
        self._epochs = SnapshotEpochs()
        self._watched: Bounded[VersionKey, WatchedVersion] = Bounded(MAX_WATCHED)
        self._missing = Missing(limit, clock.now())
        self._told = HeardDecisions(limit, clock.now())
        self.totals = RunTotals()
        self._trips = Trips(trips, clock.monotonic())
        self._early: deque[_Early] = deque()
        self._suspects: set[VersionKey] = set()
        self._fallbacks: list[str] = []
        self._trips_changed = False
        self._untold = 0
        self._has_news = False
        self._told_at: float | None = None
        self.entries = 0
        self.heard_at: float | None = None

    @property
    def forgotten(self) -> int:
        """Versions, epochs, seconds and requests that had to make room for others, and are known in part only."""
        return self._watched.dropped + self.totals.dropped + self._missing.dropped + self._told.dropped

    @property
    def trips_in_force(self) -> Sequence[LocalTrip]:
        """What is kept away on this host."""
        return self._trips.in_force()

    @property
    def is_deaf(self) -> bool:
        """Whether workers decide and the log tells of nothing: what fails is not seen then."""
        return self._untold >= DEAF_AFTER

    # -- what it is told

    def follow(self, snapshot: Snapshot) -> None:
        """Go by ``snapshot`` from now on."""
        restarted = frozenset(self._epochs.follow(snapshot))
        for key in [key for key in self._watched if key[0] in restarted] if restarted else ():
            self._watched.forget(key)
        self._rollouts, self._follows = snapshot.rollouts, True
        self._follow_stored(snapshot)
        early, self._early = self._early, deque()
        for waiting in early:
            self._take_opened(waiting.entry, waiting.opened, waiting.until)
        self._settle_trips()

    def _follow_stored(self, snapshot: Snapshot) -> None:
        """See which variants the store says are tripped, and which no more."""
        now, wall = self._clock.monotonic(), self._clock.now()
        for key in snapshot.overlay.keys() | self._trips.lifted_rollouts():
            compiled = snapshot.rollouts.get(key)
            tripped = snapshot.overlay[key].tripped if key in snapshot.overlay else ()
            if compiled is not None and self._trips.follow_stored(compiled, tripped, now, wall):
                self._trips_changed = True

    def adopt(self, trips: Iterable[LocalTrip]) -> None:
        """Keep away too what another ``serve`` of this host took away."""
        if self._trips.adopt(trips, self._clock.monotonic()):
            self._trips_changed = True
            self._settle_trips()

    def take(self, entries: Sequence[LogEntry]) -> None:
        """Take a batch of the access log, and trip at once what it brings beyond its limit."""
        now = self.heard_at = self._clock.monotonic()
        self._has_news = False
        for entry in entries:
            self.entries += entry.ended
            if not entry.decision_id or not (entry.ended or entry.answer.status):
                continue  # undecided: nothing was promised of it; or nothing came of it yet
            opened = self._ids.open(entry.decision_id)
            if isinstance(opened, IdFault):
                self._events.dropped(opened, 1)
            else:
                self._take_opened(entry, opened, now + EARLY_SECONDS)
        if self._has_news:
            self._told_at = now
        self._settle_trips()

    def decided(self, counts: Iterable[Requests]) -> None:
        """Workers tell what they decided."""
        now = self._clock.now()
        for key, epoch, arm, version, second, count, stream in counts:
            if key not in self._rollouts:
                continue
            self.totals.decided((key, epoch), arm, count, now)
            if not stream:
                self._missing.decided(second, Decisions(key, epoch, arm, version), count, now)

    def units(self, key: str, epoch: int, units: Iterable[tuple[int, str]]) -> None:
        """Workers tell which units they met, and the arm that each drew."""
        if key in self._rollouts:
            self.totals.units((key, epoch), units, self._clock.now())

    def tick(self) -> None:
        """Do what is due by the clock; called a few times a second."""
        now = self._clock.monotonic()
        while self._early and self._early[0].until <= now:
            self._early.popleft()
            self._events.dropped("unknown_epoch", 1)
        self._count_missing(now)
        self._settle_trips()

    def take_fallbacks(self) -> list[str]:
        """The ids of requests that stable answered in a version's place, since this was last asked."""
        fallbacks, self._fallbacks = self._fallbacks, []
        return fallbacks

    def take_back_fallbacks(self, ids: Sequence[str]) -> None:
        """Those that were taken could not be told to anybody: they are to be taken again, the newest if not all."""
        kept = ids[max(0, len(ids) + len(self._fallbacks) - MAX_FALLBACKS) :]
        if len(kept) < len(ids):
            self._events.dropped("fallback_ids", len(ids) - len(kept))
        self._fallbacks = [*kept, *self._fallbacks]

    # -- outcomes

    def _take_opened(self, entry: LogEntry, opened: Opened, until: float) -> None:
        epoch = self._epochs.find(entry.rollout, opened.number)
        if epoch is None:
            self._wait_for_epoch(_Early(until, entry, opened))
            return
        code, stream = arm_and_stream(opened.arm)
        arm = epoch.arms.get(code)
        own = epoch.upstreams.get(entry.version)
        if arm is None or own is None:
            self._events.dropped("unknown_version", 1)
            return
        now = self._clock.now()
        decisions = Decisions(epoch.rollout, epoch.id, arm, entry.version)
        news = self._told.news(opened.key, opened.at, now)
        if news is REPEATED or news is EXPIRED:
            if entry.ended:
                self._refuse(news, decisions, now)
            return
        self._untold, self._has_news = 0, True
        if not entry.ended:
            self.totals.heard((epoch.rollout, epoch.id), now)
            if stream or news is GOING_ON or self._missing.seen(opened.at, decisions, now):
                self._told.goes_on(opened.key)
            return
        self._told.ended(opened.key, now)
        of_stable = epoch.upstreams[epoch.stable]
        outcome = outcome_of(entry.answer, epoch.rollout, entry.version, own, of_stable, stream=stream)
        self._events.outcome(epoch.rollout, entry.version, outcome, 1)
        if outcome in OF_STABLE:
            self._note_fallback(entry.decision_id)
        group = None if arm == ARM_EXCLUDED else opened.group
        in_time = stream or news is GOING_ON or self._missing.seen(opened.at, decisions, now)
        is_new = self.totals.count(epoch, arm, group, entry.answer, outcome, now, in_time=in_time, stream=stream)
        compiled = self._rollouts.get(epoch.rollout)
        if is_new and compiled is not None and outcome in ENDS:
            self._weigh(compiled, epoch.id, entry.version, ENDS[outcome])

    def _refuse(self, news: News, decisions: Decisions, now: float) -> None:
        """An end counts for nothing. One that was told before is a doubt about the log, but stops no trip.

        If it did, whoever writes to the log could have a bad version stay.
        """
        self._events.dropped(news, 1)
        if news is REPEATED:
            self._note_surplus(decisions, 1, now)

    def _note_surplus(self, decisions: Decisions, count: int, now: float) -> None:
        self.totals.surplus((decisions.rollout, decisions.epoch), decisions.arm, count, now)
        self._events.surplus(decisions.rollout, decisions.version, count)

    def _wait_for_epoch(self, early: _Early) -> None:
        if early.until <= self._clock.monotonic() or len(self._early) >= MAX_EARLY:
            self._events.dropped("unknown_epoch", 1)
        else:
            self._early.append(early)

    def _note_fallback(self, decision_id: str) -> None:
        if len(self._fallbacks) < MAX_FALLBACKS:
            self._fallbacks.append(decision_id)
        else:
            self._events.dropped("fallback_ids", 1)

    def _weigh(
        self,
        compiled: CompiledRollout,
        epoch: int,
        version: str,
        end: End,
        *,
        count: int = 1,
        since: float | None = None,
    ) -> None:
        """Hold requests that ended in one way for or against a version; ``since`` as in ``Row.add``."""
        limits, key, now = compiled.breaker, (compiled.key, version), self._clock.monotonic()
        if limits is None or self._trips.is_open(key) or not self._epochs.in_attempt(compiled, epoch):
            return
        if self._trips.is_probing(key):
            wall = self._clock.now()
            if self._trips.probed(key, limits, now, wall, end, count=count, since=since):
                self._trips_changed = True
            return
        is_stable = version == compiled.stable
        stable = None if is_stable else self._watched.find((compiled.key, compiled.stable))
        watched = self._watched.use(key, lambda: WatchedVersion(limits.window))
        watched.add(epoch, now, stable, end, count=count, since=since)
        if end is not End.ANSWERED and not is_stable:
            self._suspects.add(key)

    def _count_missing(self, now: float) -> None:
        wall = self._clock.now()
        for second, settled in self._missing.settle(wall):
            if self._told_at is None or self._told_at < now - (wall - second):
                self._untold += sum(one.missing for one in settled)
            of_stable = self._of_stable(settled)
            for decisions, _, missing, surplus in settled:
                name, epoch, arm, version = decisions
                if surplus and name in self._rollouts:
                    self._note_surplus(decisions, surplus, wall)
                compiled = self._rollouts.get(name)
                if compiled is None or not missing or not self._heard_of(compiled, of_stable.get((name, epoch)), now):
                    continue
                self._events.outcome(name, version, RequestOutcome.MISSING, missing)
                self.totals.missing((name, epoch), arm, missing, self._limit * 1e3, wall)
                if version in compiled.versions:
                    self._weigh(compiled, epoch, version, End.FAILED, count=missing, since=now - (wall - second))

    def _of_stable(self, settled: Iterable[Settled]) -> dict[EpochKey, Counts]:
        """The decisions for stable, whatever the arm, and how many of them are missing."""
        found: dict[EpochKey, Counts] = {}
        for (name, epoch, _, version), decided, missing, _ in settled:
            compiled = self._rollouts.get(name)
            if compiled is not None and version == compiled.stable:
                found[name, epoch] = found.get((name, epoch), Counts()).plus(Counts(decided, missing))
        return found

    def _heard_of(self, compiled: CompiledRollout, of_stable: Counts | None, now: float) -> bool:
        """Whether the log told of stable's requests: otherwise it may be the log that is missing."""
        if of_stable is not None and of_stable.requests:
            return of_stable.failures < of_stable.requests
        stable = self._watched.find((compiled.key, compiled.stable))
        return stable is not None and compiled.breaker is not None and now - stable.heard_at < compiled.breaker.window

    # -- trips

    def _settle_trips(self) -> None:
        """Hold whoever failed against its limits, and tell of what changed."""
        now = self._clock.monotonic()
        for key in self._suspects:
            self._check_limits(key, now)
        self._suspects.clear()
        # Before the first snapshot nothing is known of the rollouts, so whatever was tripped stays tripped.
        if (self._follows and self._trips.advance(self._rollouts, now)) or self._trips_changed:
            self._trips_changed = False
            self._events.trips(self._trips.in_force(), self._trips.take_lifted())

    def _check_limits(self, key: VersionKey, now: float) -> None:
        compiled, watched = self._rollouts.get(key[0]), self._watched.find(key)
        if compiled is None or watched is None or compiled.breaker is None or key[1] == compiled.stable:
            return
        stable = self._watched.find((key[0], compiled.stable))
        if why := watched.breach(compiled.breaker, stable, now, alone=compiled.weight == BUCKETS):
            at = tripped_at(compiled, key[1], self._clock.now())
            self._trips.trip(LocalTrip(*key, compiled.attempt, at=at, why=why), now)
            self._watched.forget(key)
            self._trips_changed = True
            self._events.tripped(compiled, key[1], why)
