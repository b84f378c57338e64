"""Features of an entity, read through a bounded cache, one reader per worker process.

The event loop never waits for the store: a request waits for an answer at most its rollout's timeout, and an answer
that comes too late for its request still serves the next one. An entity without values is remembered like any other, so
that unknown users cost the store one read, not one per request. Where a rollout says how old a value may be, what is
remembered serves requests for as long, while it is read anew beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from math import inf
from typing import Final

from extproc.clock import Clock
from extproc.datapath.feature_cache import MAX_BYTES, MAX_ENTRIES, CachedRows, FeatureCache, size_of
from extproc.datapath.feature_counts import FeatureViews
from extproc.datapath.feature_reads import MAX_READ_SECONDS, FeatureOutcome, FeatureReads
from extproc.datapath.feature_share import FeatureShare, ReadRate
from extproc.datapath.model import Features, FeatureValue
from extproc.datapath.ports import FeatureKey, FeatureRow, FeatureStore
from extproc.names import Reason
from extproc.snapshot.model import FeatureNeed, FeatureView

MAX_AGE_SECONDS: Final = 10.0
MAX_PENDING: Final = 256
MAX_ENTITY_LENGTH: Final = 512
"""Characters of an entity that is asked about: clients choose them, and the cache holds many."""

SKEW_SECONDS: Final = 60.0
"""How far in the future an event time may be: clocks of two machines differ."""

STALE_SHARE: Final = 0.5
"""Of the reads of a view that may be older than ``maxAge`` before somebody should see to it."""

OTHERS_READS: Final = 2000.0
"""Reads a second that entities may cause which nobody vouches for."""


class FeatureReader:
    """A read-through cache in front of a feature store. Every method belongs to the event loop.

    Least recently used entries leave at ``max_bytes`` and ``max_entries``, and what is too large for that serves the
    requests that wait for it alone. An entry is served for ``max_age`` seconds after it was asked for, and beyond
    that, while it is read anew, to rollouts with a ``maxAge`` that all of its values are within. At most
    ``max_pending`` reads wait for the store; a request beyond them gets ``feature_timeout`` at once.
    No request waits longer than ``deadline`` seconds, so that its decision comes before Envoy has given up.

    Entities of ``trusted`` headers, which no client can write, have half of all that to themselves, if there are any;
    the others share the rest, and cause at most ``others_reads`` reads a second.
    ``views`` has what is counted.
    """

    def __init__(
        self,
        store: FeatureStore,
        clock: Clock,
        *,
        max_bytes: int = MAX_BYTES,
        max_entries: int = MAX_ENTRIES,
        max_age: float = MAX_AGE_SECONDS,
        max_pending: int = MAX_PENDING,
        max_read: float = MAX_READ_SECONDS,
        deadline: float = inf,
        skew: float = SKEW_SECONDS,
        stale_share: float = STALE_SHARE,
        trusted: Collection[str] = (),
        others_reads: float = OTHERS_READS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._max_age = max_age
        self._deadline = deadline
        self._skew = skew
        self._stale_share = stale_share
        self._trusted = frozenset(trusted)
        self.views = FeatureViews()
        self.reads = FeatureReads(store, clock, self.views, self._remember, max_read=max_read, sleep=sleep)
        parts = 2 if trusted else 1

        def share(reads: float) -> FeatureShare:
            cache = FeatureCache(max_bytes // parts, max_entries // parts)
            return FeatureShare(cache, max(1, max_pending // parts), ReadRate(reads, clock.monotonic))

        self.others = share(others_reads)
        self.vouched = share(0.0) if trusted else None

    @property
    def shares(self) -> tuple[FeatureShare, ...]:
        """What is remembered, and read, for whom."""
        return (self.others,) if self.vouched is None else (self.vouched, self.others)

    def cached(self, need: FeatureNeed, entity: tuple[str | int, ...]) -> Features | None:
        """What the rollout needs, if it is in the cache; None when it must be fetched."""
        found = self._remembered(need, need.view, entity)
        if found is None or not need.others:
            return found
        views = {need.view: found}
        for view in need.others:
            other = self._remembered(need, view, entity)
            if other is None:
                return None
            views[view] = other
        return _together(need, views)

    async def fetch(self, need: FeatureNeed, entity: tuple[str | int, ...]) -> Features:
        """What the rollout needs, from the store, within ``need.timeout`` seconds and the deadline. Never raises.

        The fault is ``feature_timeout`` when there was no answer in time, ``feature_store_down`` when the store cannot
        be asked, ``feature_limited`` when entities that nobody vouches for have had their reads, ``feature_type`` when
        what is stored is not of the type that it should be, ``feature_missing`` when a value is not there, or its time
        is not where the rollout has a ``max_age``, or the entity is too long to be one, and ``feature_stale`` when a
        value is older than ``max_age`` or from the future; that value is left out.
        Of several views the first fault counts, stable's before any other's; what is not in the cache is asked for
        together.
        """
        if len(FeatureKey(need.view, entity).text) > MAX_ENTITY_LENGTH:
            return Features(fault=Reason.FEATURE_MISSING)
        views = (need.view, *need.others)
        found = {view: self._remembered(need, view, entity, counts=False) for view in views if need.others}
        asked = {view: self._ask(need, FeatureKey(view, entity)) for view in views if found.get(view) is None}
        waiting = [answer for answer in asked.values() if not isinstance(answer, Reason)]
        if waiting:
            # asyncio.wait leaves the futures alone when time is up: the answers still reach the cache.
            await asyncio.wait(waiting, timeout=min(need.timeout, self._deadline))
        return _together(need, {view: found.get(view) or self._answered(need, view, asked[view]) for view in views})

    def stale_views(self) -> set[str]:
        """Views of which, in the last window, more than the stated share of the reads met values that were too old."""
        now = self._clock.monotonic()
        for counts in self.views.values():
            counts.look(now, self._stale_share)
        return {name for name, counts in self.views.items() if counts.is_stale}

    async def close(self) -> None:
        """End what is being read and close the store, which gets a second for it."""
        await self.reads.close()

    def _remembered(
        self, need: FeatureNeed, view: FeatureView, entity: tuple[str | int, ...], *, counts: bool = True
    ) -> Features | None:
        """``counts`` is False for what was looked for before: of each request it counts once."""
        key = FeatureKey(view, entity)
        entry = self.others.cache.get(key)
        if entry is None and (self.vouched is None or (entry := self.vouched.cache.get(key)) is None):
            return None
        found = self._usable(need, view, entry, "cache")
        age = self._clock.monotonic() - entry.read_at
        if age > self._max_age:
            if need.max_age is None or found.fault is not None:
                return None
            self._ask(need, key)
        elif found.fault is Reason.FEATURE_STALE and not self._was_stale(need, view, entry.rows, age):
            return None  # it aged here: the store may have newer ones
        if counts:
            of_view = self.views[view.name]
            of_view.hits += 1
            if need.max_age is not None:
                of_view.note_age(found.fault)
        return found

    def _answered(
        self, need: FeatureNeed, view: FeatureView, answer: asyncio.Future[FeatureOutcome] | Reason
    ) -> Features:
        if isinstance(answer, Reason):
            return Features(fault=answer)
        if not answer.done():
            return Features(fault=Reason.FEATURE_TIMEOUT)
        outcome = answer.result()
        if isinstance(outcome, Reason):
            return Features(fault=outcome)
        found = self._usable(need, view, CachedRows(outcome, 0.0, 0), "store")
        if need.max_age is not None:
            self.views[view.name].note_age(found.fault)
        return found

    def _usable(self, need: FeatureNeed, view: FeatureView, entry: CachedRows, source: str) -> Features:
        """Ages are as of now, so what was fresh when it was cached can be stale when it is used."""
        if entry.fault is not None:
            return Features(fault=entry.fault)
        now, max_age = self._clock.now(), need.max_age
        values: dict[str, FeatureValue] = {}
        missing = stale = False
        rows = entry.rows
        for name in view.features:
            row = rows.get(name)
            if row is None or (row.event_time is None and max_age is not None):
                missing = True
                continue
            age = None if row.event_time is None else now - row.event_time
            if age is not None:
                if age < 0:
                    age = 0.0 if age >= -self._skew else None
                if max_age is not None and (age is None or age > max_age):
                    stale = True
                    continue
            values[name] = FeatureValue(row.value, age, source)
        return Features(values, Reason.FEATURE_MISSING if missing else Reason.FEATURE_STALE if stale else None)

    def _was_stale(self, need: FeatureNeed, view: FeatureView, rows: Mapping[str, FeatureRow], before: float) -> bool:
        """Whether a value was stale already so many seconds ago."""
        then, limit = self._clock.now() - before, inf if need.max_age is None else need.max_age
        times = [row.event_time for name in view.features if (row := rows.get(name)) is not None]
        return any(time is not None and not -self._skew <= then - time <= limit for time in times)

    def _ask(self, need: FeatureNeed, key: FeatureKey) -> asyncio.Future[FeatureOutcome] | Reason:
        share = self.vouched if self.vouched is not None and self._is_vouched(need) else self.others
        return self.reads.ask(key, min(need.timeout, self._deadline), share)

    def _is_vouched(self, need: FeatureNeed) -> bool:
        return all(source.header in self._trusted for source, _ in need.entity)

    def _remember(self, key: FeatureKey, outcome: FeatureOutcome, asked_at: float, share: FeatureShare) -> None:
        fault, rows = (outcome, {}) if isinstance(outcome, Reason) else (None, outcome)
        if self.vouched is not None and share is self.others and key in self.vouched.cache:
            share = self.vouched  # where it has its place, whoever had it read
        if share is self.vouched:
            self.others.cache.drop(key)
        size = size_of(key, rows, share.cache.max_entry_bytes)
        share.cache.put(key, CachedRows(rows, asked_at, size, fault))


def _together(need: FeatureNeed, found: Mapping[FeatureView, Features]) -> Features:
    """What was found in each view that ``need`` names, in its order, as one."""
    if not need.others:
        return found[need.view]
    fault = next((features.fault for features in found.values() if features.fault is not None), None)
    return Features(found[need.view].values, fault, {version: found[view].values for version, view in need.of_versions})
