"""Features of an entity, read through a bounded cache, one reader per worker process.

The event loop never waits for the store: a request waits for an answer at most its rollout's timeout, and an answer
that comes too late for its request still serves the next one. What one turn of the loop asks goes to the store
together. An entity without values is remembered like any other, so that unknown users cost the store one read, not one
per request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from math import inf
from typing import Final

from extproc.clock import Clock
from extproc.datapath.feature_cache import MAX_BYTES, CachedRows, FeatureCache, size_of
from extproc.datapath.model import Features, FeatureValue
from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow, FeatureStore
from extproc.errors import Unreachable
from extproc.names import Reason
from extproc.snapshot.model import FeatureNeed
from extproc.trouble import Troubles

logger = logging.getLogger(__name__)

MAX_AGE_SECONDS: Final = 10.0
MAX_PENDING: Final = 256
MAX_ENTITY_LENGTH: Final = 512
"""Characters of an entity that is asked about: clients choose them, and the cache holds many."""

MAX_READ_SECONDS: Final = 5.0
"""How long a read may go on, long after its requests have gone, before it is ended and counts as failed.

Ended at its request's timeout, a slow store would lose its connections and be asked everything again over new ones.
"""

_CLOSE_SECONDS: Final = 1.0


class FeatureReader:
    """A read-through cache in front of a feature store. Every method belongs to the event loop.

    Least recently used entries leave at ``max_bytes``, and what is too large for that serves the requests that wait for
    it alone; no entry is served longer than ``max_age`` seconds after it was read. At most ``max_pending`` reads wait
    for the store; a request beyond them gets ``feature_timeout`` at once.
    No request waits longer than ``deadline`` seconds, so that its decision comes before Envoy has given up.

    ``hits``, ``misses`` (reads asked of the store) and ``errors`` (reads that failed) count since the start, for the
    metrics.
    """

    def __init__(
        self,
        store: FeatureStore,
        clock: Clock,
        *,
        max_bytes: int = MAX_BYTES,
        max_age: float = MAX_AGE_SECONDS,
        max_pending: int = MAX_PENDING,
        max_read: float = MAX_READ_SECONDS,
        deadline: float = inf,
    ) -> None:
        self._store = store
        self._clock = clock
        self._max_age = max_age
        self._max_pending = max_pending
        self._max_read = max_read
        self._deadline = deadline
        self.cache = FeatureCache(max_bytes)
        self._pending: dict[FeatureKey, asyncio.Future[Mapping[str, FeatureRow] | None]] = {}
        self._wanted: list[FeatureKey] = []
        self._reads: set[asyncio.Task[None]] = set()
        self._failing = False
        self._troubles = Troubles(logger.warning, clock.monotonic)
        self.hits = 0
        self.misses = 0
        self.errors = 0

    def cached(self, need: FeatureNeed, entity: tuple[str | int, ...]) -> Features | None:
        """What the rollout needs, if it is in the cache; None when it must be fetched."""
        key = FeatureKey(need.view, entity)
        entry = self.cache.get(key)
        if entry is None:
            return None
        if self._clock.monotonic() - entry.read_at > self._max_age:
            self.cache.drop(key)
            return None
        self.hits += 1
        return self._usable(need, entry.rows, "cache")

    async def fetch(self, need: FeatureNeed, entity: tuple[str | int, ...]) -> Features:
        """What the rollout needs, from the store, within ``need.timeout`` seconds and the deadline. Never raises.

        The fault is ``feature_timeout`` when there was no answer in time, ``feature_missing`` when a value, or the
        store itself, is not there or the entity is too long to be one, ``feature_stale`` when a value is older than
        ``need.max_age``, or may be; that value is left out.
        """
        key = FeatureKey(need.view, entity)
        if len(key.text) > MAX_ENTITY_LENGTH:
            return Features(fault=Reason.FEATURE_MISSING)
        answer = self._pending.get(key)
        if answer is None:
            if len(self._pending) >= self._max_pending:
                return self._late()
            answer = self._ask(key)
        # asyncio.wait leaves the future alone when time is up: the answer still reaches the cache.
        await asyncio.wait((answer,), timeout=min(need.timeout, self._deadline))
        if not answer.done():
            return self._late()
        rows = answer.result()
        return Features(fault=Reason.FEATURE_MISSING) if rows is None else self._usable(need, rows, "store")

    async def close(self) -> None:
        """End what is being read and close the store, which gets a second for it."""
        for read in self._reads:
            read.cancel()
        await asyncio.gather(*self._reads, return_exceptions=True)
        try:
            await asyncio.wait_for(self._store.close(), _CLOSE_SECONDS)
        except Exception as error:  # the process ends either way
            logger.warning("the feature store did not close: %r", error)

    def _late(self) -> Features:
        return Features(fault=Reason.FEATURE_TIMEOUT)

    def _usable(self, need: FeatureNeed, rows: Mapping[str, FeatureRow], source: str) -> Features:
        """Ages are as of now, so what was fresh when it was cached can be stale when it is used."""
        now = self._clock.now()
        values: dict[str, FeatureValue] = {}
        missing = stale = False
        for name in need.view.features:
            row = rows.get(name)
            if row is None:
                missing = True
                continue
            age = None if row.event_time is None else max(0.0, now - row.event_time)
            if need.max_age is not None and (age is None or age > need.max_age):
                stale = True
                continue
            values[name] = FeatureValue(row.value, age, source)
        fault = Reason.FEATURE_MISSING if missing else Reason.FEATURE_STALE if stale else None
        return Features(values, fault)

    def _ask(self, key: FeatureKey) -> asyncio.Future[Mapping[str, FeatureRow] | None]:
        loop = asyncio.get_running_loop()
        self.misses += 1
        if not self._wanted:
            loop.call_soon(self._send)  # after all that asks in this turn of the loop
        self._wanted.append(key)
        answer = self._pending[key] = loop.create_future()
        return answer

    def _send(self) -> None:
        """Read what is wanted; a task of its own, because it outlives the requests."""
        wanted, self._wanted = self._wanted, []
        for start in range(0, len(wanted), self._store.max_batch):
            read = asyncio.get_running_loop().create_task(self._read(wanted[start : start + self._store.max_batch]))
            self._reads.add(read)
            read.add_done_callback(self._reads.discard)

    async def _read(self, keys: Sequence[FeatureKey]) -> None:
        unanswered = set(keys)
        fault: Exception = Unreachable.of("features_unanswered", "the feature store left a key unanswered")
        try:
            async with asyncio.timeout(self._max_read), aclosing(self._store.read(keys)) as answers:
                async for answer in answers:
                    if answer.key in unanswered:
                        unanswered.remove(answer.key)
                        self._arrived(answer)
        except Exception as error:  # unreachable, too slow, or a store's own bug: the reader outlives them all
            fault = error
        for key in unanswered:
            self._arrived(FeatureAnswer(key, None, fault))

    def _arrived(self, answer: FeatureAnswer) -> None:
        key, rows, fault = answer
        if rows is None:
            self.errors += 1
        else:
            size = size_of(key, rows, self.cache.max_entry_bytes)
            self.cache.put(key, CachedRows(rows, self._clock.monotonic(), size))
        if (rows is None) != self._failing:
            self._failing = rows is None
            why = f"it cannot be read, and features count as missing: {fault or 'no answer'}"
            self._troubles.note("feature store", *([why] if self._failing else ()))
        waiting = self._pending.pop(key)
        if not waiting.done():
            waiting.set_result(rows)
