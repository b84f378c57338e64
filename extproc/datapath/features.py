"""Features of an entity, read through a bounded cache, one reader per worker process.

The event loop never waits for the store: a thread of its own reads, a request waits for it at most its rollout's
timeout, and an answer that comes too late for its request still serves the next one. An entity without values is
remembered like any other, so that unknown users cost the store one read, not one per request.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Mapping
from contextlib import suppress
from math import inf
from typing import Final

from extproc.clock import Clock
from extproc.datapath.feature_cache import MAX_BYTES, Entry, FeatureCache, Key, size_of
from extproc.datapath.model import Features, FeatureValue
from extproc.datapath.ports import FeatureRow, FeatureStore
from extproc.names import Reason
from extproc.snapshot.model import FeatureNeed

logger = logging.getLogger(__name__)

MAX_AGE_SECONDS: Final = 10.0
MAX_PENDING: Final = 256
MAX_ENTITY_LENGTH: Final = 512
"""Characters of an entity that is asked about: clients choose them, and the cache holds many."""

CLOSE: Final = None


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
        deadline: float = inf,
    ) -> None:
        self._store = store
        self._clock = clock
        self._max_age = max_age
        self._max_pending = max_pending
        self._deadline = deadline
        self.cache = FeatureCache(max_bytes)
        self._pending: dict[Key, asyncio.Future[Mapping[str, FeatureRow] | None]] = {}
        self._wanted: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, Key] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failing = False
        self.hits = 0
        self.misses = 0
        self.errors = 0

    def cached(self, need: FeatureNeed, entity: str) -> Features | None:
        """What the rollout needs, if it is in the cache; None when it must be fetched."""
        key = Key(need.view, need.names, entity)
        entry = self.cache.get(key)
        if entry is None:
            return None
        if self._clock.monotonic() - entry.read_at > self._max_age:
            self.cache.drop(key)
            return None
        self.hits += 1
        return self._judge(need, entry.rows, "cache")

    async def fetch(self, need: FeatureNeed, entity: str) -> Features:
        """What the rollout needs, from the store, within ``need.timeout`` seconds and the deadline. Never raises.

        The fault is ``feature_timeout`` when there was no answer in time, ``feature_missing`` when a value, or the
        store itself, is not there or the entity is too long to be one, ``feature_stale`` when a value is older than
        ``need.max_age``; that value is left out.
        """
        if len(entity) > MAX_ENTITY_LENGTH:
            return Features(fault=Reason.FEATURE_MISSING)
        key = Key(need.view, need.names, entity)
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
        return Features(fault=Reason.FEATURE_MISSING) if rows is None else self._judge(need, rows, "store")

    def close(self) -> None:
        """Let the reading thread end, after which it closes the store; does not wait for it."""
        if self._thread is None:
            self._store.close()
        self._wanted.put(CLOSE)

    def _late(self) -> Features:
        return Features(fault=Reason.FEATURE_TIMEOUT)

    def _judge(self, need: FeatureNeed, rows: Mapping[str, FeatureRow], source: str) -> Features:
        """Ages are as of now, so what was fresh when it was cached can be stale when it is used."""
        now = self._clock.now()
        values: dict[str, FeatureValue] = {}
        missing = stale = False
        for name in need.names:
            row = rows.get(name)
            if row is None:
                missing = True
                continue
            age = max(0.0, now - row.event_time)
            if need.max_age is not None and age > need.max_age:
                stale = True
                continue
            values[name] = FeatureValue(row.value, age, source)
        fault = Reason.FEATURE_MISSING if missing else Reason.FEATURE_STALE if stale else None
        return Features(values, fault)

    def _ask(self, key: Key) -> asyncio.Future[Mapping[str, FeatureRow] | None]:
        loop = asyncio.get_running_loop()
        if self._thread is None:
            # A daemon, not an executor: a store that never answers must not keep the process from ending.
            self._thread = threading.Thread(target=self._read_for_ever, name="features", daemon=True)
            self._thread.start()
        self.misses += 1
        answer = self._pending[key] = loop.create_future()
        self._wanted.put((loop, key))
        return answer

    def _read_for_ever(self) -> None:
        """The reading thread. Answers go back to the loop that asked, which may be gone by then."""
        while (wanted := self._wanted.get()) is not CLOSE:
            loop, key = wanted
            rows: Mapping[str, FeatureRow] | None = None
            fault: Exception | None = None
            size = 0
            try:
                found = self._store.read(key.view, key.entity, key.names)
                rows, size = found, size_of(key, found, self.cache.max_entry_bytes)
            except Exception as error:  # Unreachable, or a store's own bug: the thread must outlive both
                fault = error
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._arrived, key, rows, size, fault)
        self._store.close()

    def _arrived(self, key: Key, rows: Mapping[str, FeatureRow] | None, size: int, fault: Exception | None) -> None:
        if rows is None:
            self.errors += 1
        else:
            self.cache.put(key, Entry(rows, self._clock.monotonic(), size))
        if (rows is None) != self._failing:
            self._failing = rows is None
            if self._failing:
                logger.warning("The feature store cannot be read; features count as missing: %s", fault)
            else:
                logger.info("The feature store can be read again.")
        answer = self._pending.pop(key)
        if not answer.done():
            answer.set_result(rows)
