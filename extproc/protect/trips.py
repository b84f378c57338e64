"""The trips that are in force on this host, and what becomes of them.

A canary's trip holds for its attempt: whoever wants it back retries it. A variant of an experiment is tried again, by
a few of its buckets, after three windows, and after twice as long each time that it fails again; so is one that the
store says is tripped, by whichever host. When that goes well, it is lifted everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from extproc.measure.breaker import beyond_limit
from extproc.measure.outcomes import Counts, End, FailureStreak
from extproc.snapshot.model import BreakerLimits, CompiledRollout
from extproc.snapshot.trips import LocalTrip, is_void, tripped_at

WINDOWS_UNTIL_PROBE: Final = 3
LONGEST_WAIT_SECONDS: Final = 600.0

VersionKey = tuple[str, str]
"""A rollout (``namespace/name``) and a version."""


@dataclass(slots=True)
class _Held:
    """A trip, and since when (monotonic seconds) it stands as it does; ``probed`` is what came of the probe so far."""

    trip: LocalTrip
    since: float
    probed: Counts = field(default=Counts())
    row: FailureStreak = field(default_factory=FailureStreak)


class Trips:
    """All trips of this host. ``initial`` are those that an earlier observer left; for those time begins now."""

    def __init__(self, initial: Iterable[LocalTrip], now: float) -> None:
        self._held = {(trip.rollout, trip.version): _Held(trip, now) for trip in initial}
        self._lifted: dict[VersionKey, LocalTrip] = {}
        self._untold: list[LocalTrip] = []

    def in_force(self) -> list[LocalTrip]:
        """What workers are to go by."""
        return [held.trip for held in self._held.values()]

    def is_open(self, key: VersionKey) -> bool:
        """Whether the version is taken away, and not even probed."""
        held = self._held.get(key)
        return held is not None and not held.trip.probing

    def is_probing(self, key: VersionKey) -> bool:
        """Whether a few of the version's buckets get it."""
        held = self._held.get(key)
        return held is not None and held.trip.probing

    def trip(self, trip: LocalTrip, now: float) -> None:
        """Take a version away."""
        self._held[(trip.rollout, trip.version)] = _Held(trip, now)

    def adopt(self, trips: Iterable[LocalTrip], now: float) -> bool:
        """Hold ``trips`` too, which somebody else made, unless their versions are tripped here; whether any is new."""
        new = [trip for trip in trips if (trip.rollout, trip.version) not in self._held]
        for trip in new:
            self.trip(trip, now)
        return bool(new)

    def follow_stored(self, compiled: CompiledRollout, tripped: Collection[str], now: float, wall: float) -> bool:
        """Go by what the store says is ``tripped`` of an experiment; whether that is news.

        What was lifted here is not taken for tripped until the store has said once that it is not. ``wall`` is now in
        Unix seconds.
        """
        for key, trip in list(self._lifted.items()):
            if key[0] == compiled.key and (key[1] not in tripped or trip.attempt != compiled.attempt):
                del self._lifted[key]
        if not compiled.experiment or compiled.breaker is None:
            return False
        versions = (compiled.versions - {compiled.stable}).intersection(tripped)
        stored = [
            LocalTrip(
                compiled.key, version, compiled.attempt, at=tripped_at(compiled, version, wall), why="the store says so"
            )
            for version in sorted(versions)
            if (compiled.key, version) not in self._lifted
        ]
        return self.adopt(stored, now)

    def lifted_rollouts(self) -> set[str]:
        """The rollouts of which a version was lifted here and the store has not said so yet."""
        return {key for key, _ in self._lifted}

    def take_lifted(self) -> list[LocalTrip]:
        """The trips that a probe lifted since this was last asked, ``at`` the time when it did."""
        untold, self._untold = self._untold, []
        return untold

    def probed(
        self,
        key: VersionKey,
        limits: BreakerLimits,
        now: float,
        wall: float,
        end: End,
        *,
        count: int = 1,
        since: float | None = None,
    ) -> bool:
        """Count what a probed version's requests came to; whether that ended the probe, one way or the other.

        ``wall`` is now in Unix seconds, ``since`` as in ``FailureStreak.add``. A probe is compared with nothing, and
        some clients never wait: what is abandoned is no outcome, but so many in a row without an answer are.
        """
        held = self._held[key]
        if end is not End.ABANDONED:
            held.probed = held.probed.plus(Counts(count, count if end is End.FAILED else 0))
        held.row.add(now, failed=end is not End.ANSWERED, count=count, since=since)
        if beyond_limit(limits, held.probed, held.row.length):
            again = held.trip._replace(probing=False, probes=held.trip.probes + 1, at=max(wall, held.trip.at))
            self._held[key] = _Held(again, now)
            return True
        if _enough(held, limits):
            del self._held[key]
            # Whatever became of the clock meanwhile: it was lifted after it was tripped.
            self._lifted[key] = lifted = held.trip._replace(probing=False, at=max(wall, held.trip.at))
            self._untold.append(lifted)
            return True
        return False

    def advance(self, rollouts: Mapping[str, CompiledRollout], now: float) -> bool:
        """Begin the probes that are due, and let go of what holds no more; whether anything changed."""
        changed = False
        for key, held in list(self._held.items()):
            compiled = rollouts.get(key[0])
            if compiled is None or not _holds(held.trip, compiled):
                del self._held[key]
                changed = True
            elif not held.trip.probing and _is_due(held, compiled, now):
                self._held[key] = _Held(held.trip._replace(probing=True), now)
                changed = True
        return changed


def _holds(trip: LocalTrip, compiled: CompiledRollout) -> bool:
    """What nobody watches any more is not kept away either: without a breaker nobody would try it again.

    A canary that became stable in spite of its trip is not kept away either, but the trip goes on being told.
    """
    versions = compiled.versions - {compiled.stable} if compiled.experiment else compiled.versions
    return compiled.breaker is not None and trip.version in versions and not is_void(trip, compiled)


def _enough(held: _Held, limits: BreakerLimits) -> bool:
    return held.probed.requests >= limits.min_requests


def _is_due(held: _Held, compiled: CompiledRollout, now: float) -> bool:
    if not compiled.experiment or compiled.breaker is None:
        return False
    wait = WINDOWS_UNTIL_PROBE * compiled.breaker.window * 2.0 ** min(held.trip.probes, 32)
    return now - held.since >= min(wait, LONGEST_WAIT_SECONDS)
