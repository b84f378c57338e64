"""What is asked of a feature store: together what one turn of the loop asks, once what several ask, and not for ever.

A read outlives the requests that wait for it: what comes too late for them is remembered for the next. A store that
does not answer is left alone by its circuit until a probe, off the way of any request, is answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Final, NamedTuple

from extproc.clock import Clock
from extproc.datapath.circuit import Circuit, Probes, Sample
from extproc.datapath.feature_counts import FeatureViews
from extproc.datapath.feature_share import FeatureShare
from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow, FeatureStore
from extproc.errors import InvalidInput, Unreachable
from extproc.names import Reason
from extproc.trouble import Troubles

logger = logging.getLogger(__name__)

MAX_READ_SECONDS: Final = 5.0
"""How long a read may go on, long after its requests have gone, before it is ended and counts as failed.

Ended at its request's timeout, a slow store would lose its connections and be asked everything again over new ones.
"""

SLOW_SECONDS: Final = 0.25
"""A read without any answer for so long, or as long as a document waits if that is longer, speaks against the store.

What comes sooner is in time even if no request has waited for it: it serves the next one.
"""

_HELD_UP: Final = 1.5
"""A timer that is so much later says that this process was held up, and nothing of the store."""

_CLOSE_SECONDS: Final = 1.0

FeatureOutcome = Mapping[str, FeatureRow] | Reason
"""What is stored of a key, or why there is nothing to be had: ``feature_type``, ``feature_store_down``."""

Remember = Callable[[FeatureKey, FeatureOutcome, float, FeatureShare], None]
"""Takes what the store answered of a key that was asked for at a time (monotonic seconds) for a share."""


class _Wanted(NamedTuple):
    """A key that the store is asked for, who waits for it, since when, and for how long the most patient one does."""

    answer: asyncio.Future[FeatureOutcome]
    asked_at: float
    patience: float
    share: FeatureShare


class _Read:
    """One question to the store. ``is_judged``: it was counted, for or against the store."""

    __slots__ = ("due", "is_judged", "is_late", "keys", "patience", "task", "unanswered")

    def __init__(self, wanted: Mapping[FeatureKey, _Wanted]) -> None:
        self.keys = tuple(wanted)
        self.unanswered = dict(wanted)
        self.patience = max(SLOW_SECONDS, *(each.patience for each in wanted.values()))
        self.due = 0.0
        self.is_judged = self.is_late = False
        self.task: asyncio.Task[None] | None = None


class FeatureReads:
    """The reads of one store. Every method belongs to one event loop.

    ``remember`` is called with every answer, before those who wait for it have it. ``openings`` counts how often the
    store was left alone.
    """

    def __init__(
        self,
        store: FeatureStore,
        clock: Clock,
        views: FeatureViews,
        remember: Remember,
        *,
        max_read: float = MAX_READ_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.openings = 0
        self._store = store
        self._clock = clock
        self._views = views
        self._remember = remember
        self._max_read = max_read
        self._pending: dict[FeatureKey, _Wanted] = {}
        self._next: dict[FeatureKey, _Wanted] = {}
        self._reads: set[_Read] = set()
        self._circuit = Circuit()
        self._sample: Sample[tuple[FeatureKey, float]] | None = None
        self._probes = Probes[Circuit](sleep)
        self._failing = self._is_closing = False
        self._broken: set[str] = set()
        self._troubles = Troubles(logger.warning, clock.monotonic)

    @property
    def is_left_alone(self) -> bool:
        """Whether the store is not asked at the moment."""
        return self._circuit.is_open

    def ask(self, key: FeatureKey, patience: float, share: FeatureShare) -> asyncio.Future[FeatureOutcome] | Reason:
        """The answer to come, which may be one that another waits for already, or why the store is not asked.

        ``patience`` is how long the request will wait, in seconds. The reasons are ``feature_store_down``,
        ``feature_timeout`` where too many reads are under way, ``feature_limited``.
        """
        if self._circuit.is_open or self._is_closing:
            return Reason.FEATURE_STORE_DOWN
        wanted = self._pending.get(key)
        if wanted is not None:
            return wanted.answer
        if share.pending >= share.max_pending:
            return Reason.FEATURE_TIMEOUT
        if not share.rate.take():
            share.limited += 1
            return Reason.FEATURE_LIMITED
        loop = asyncio.get_running_loop()
        if not self._next:
            loop.call_soon(self._send)  # after all that asks in this turn of the loop
        wanted = _Wanted(loop.create_future(), self._clock.monotonic(), patience, share)
        self._pending[key] = self._next[key] = wanted
        share.pending += 1
        self._views[key.view.name].misses += 1
        return wanted.answer

    async def close(self) -> None:
        """End what is being read and close the store, which gets a second for it."""
        self._is_closing = True
        unsent, self._next = self._next, {}
        for key, wanted in unsent.items():
            self._settle(key, wanted, Reason.FEATURE_STORE_DOWN)
        await self._probes.close()
        tasks = [read.task for read in self._reads if read.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await asyncio.wait_for(self._store.close(), _CLOSE_SECONDS)
        except Exception as error:  # the process ends either way
            logger.warning("the feature store did not close: %r", error)

    # -- one read

    def _send(self) -> None:
        """Read what is wanted; a task of its own, because it outlives the requests."""
        wanted, self._next = list(self._next.items()), {}
        loop = asyncio.get_running_loop()
        for start in range(0, len(wanted), self._store.max_batch):
            read = _Read(dict(wanted[start : start + self._store.max_batch]))
            self._reads.add(read)
            read.task = loop.create_task(self._read(read))

    async def _read(self, read: _Read) -> None:
        loop = asyncio.get_running_loop()
        read.due = loop.time() + read.patience
        slow = loop.call_at(read.due, self._slow, read)
        fault: Exception | None = None
        try:
            async with asyncio.timeout(self._max_read), aclosing(self._store.read(read.keys)) as answers:
                async for answer in answers:
                    self._heard(read, answer)
        except Exception as error:  # unreachable, too slow, or a store's own bug: the reader outlives them all
            fault = error
        finally:
            slow.cancel()
            self._reads.discard(read)
            if read.unanswered and fault is None:
                fault = Unreachable.of("features_unanswered", "the feature store left a key unanswered")
            for key in tuple(read.unanswered):
                self._heard(read, FeatureAnswer(key, None, fault))
            if not read.is_judged:
                self._failed(read)

    def _heard(self, read: _Read, answer: FeatureAnswer) -> None:
        key, rows, fault = answer
        wanted = read.unanswered.pop(key, None)
        if wanted is None:
            return
        outcome: FeatureOutcome
        if rows is not None:
            outcome = rows
        else:
            outcome = Reason.FEATURE_TYPE if isinstance(fault, InvalidInput) else Reason.FEATURE_STORE_DOWN
            self._warn_of(key, outcome, fault)
        if outcome is not Reason.FEATURE_STORE_DOWN and not read.is_judged:
            read.is_judged = True
            self._circuit.note(in_time=True)
            self._note(key, read.patience, answered=True)
        if rows is not None:
            self._told(None)
        self._settle(key, wanted, outcome)

    def _settle(self, key: FeatureKey, wanted: _Wanted, outcome: FeatureOutcome) -> None:
        self._forget(key, wanted)
        wanted.share.pending -= 1
        self._count(key, outcome, wanted.asked_at)
        if outcome is not Reason.FEATURE_STORE_DOWN:
            self._remember(key, outcome, wanted.asked_at, wanted.share)
        if not wanted.answer.done():
            wanted.answer.set_result(outcome)

    def _count(self, key: FeatureKey, outcome: FeatureOutcome, asked_at: float) -> None:
        counts, now = self._views[key.view.name], self._clock.now()
        if isinstance(outcome, Reason):
            counts.errors += 1
        else:
            for row in outcome.values():
                if row.event_time is not None:
                    counts.age.note(now - row.event_time)
        if outcome is not Reason.FEATURE_STORE_DOWN:
            counts.latency.note(self._clock.monotonic() - asked_at)

    def _warn_of(self, key: FeatureKey, outcome: FeatureOutcome, fault: Exception | None) -> None:
        if outcome is Reason.FEATURE_STORE_DOWN:
            self._told(f"it cannot be read, and features count as missing: {fault or 'no answer'}")
        elif key.view.name not in self._broken:
            self._broken.add(key.view.name)
            logger.warning("view %s has what cannot be read, of which more is counted alone: %s", key.view.name, fault)

    def _told(self, why: str | None) -> None:
        if self._is_closing:  # that reads are ended is no fault of the store
            return
        if (why is not None) != self._failing:
            self._failing = why is not None
            self._troubles.note("feature store", *([why] if why is not None else ()))

    # -- the circuit

    def _slow(self, read: _Read) -> None:
        """It has had no answer yet, or too few: those that came say that the store is well."""
        late = asyncio.get_running_loop().time() - read.due
        if read.is_judged or late > (_HELD_UP - 1) * read.patience:
            return
        read.is_late = True
        self._failed(read)
        if self._circuit.is_open:
            self._end_late()

    def _end_late(self) -> None:
        """End what hangs: those who asked have gone, and it keeps connections from the probes, and slots from others.

        It may wait for an answer that never comes, on a connection that is dead, behind which a probe would wait too.
        """
        for read in self._reads:
            if read.is_late and read.task is not None:
                read.task.cancel()
                for key, wanted in read.unanswered.items():
                    self._forget(key, wanted)

    def _failed(self, read: _Read) -> None:
        read.is_judged = True
        self._note(read.keys[0], read.patience, answered=False)
        if self._circuit.note(in_time=False):
            self.openings += 1
            self._told("it does not answer and is left alone until it does: features count as missing")
            self._probes.begin(self._circuit, self._is_well, self._circuit.close)

    def _note(self, key: FeatureKey, patience: float, *, answered: bool) -> None:
        sample = self._sample = self._sample or Sample((key, patience))
        (sample.answered if answered else sample.unanswered)((key, patience))

    async def _is_well(self) -> bool:
        assert self._sample is not None, "a circuit opens by reads"
        key, patience = self._sample.question
        try:
            async with asyncio.timeout(patience), aclosing(self._store.read((key,))) as answers:
                async for _, rows, fault in answers:
                    is_well = rows is not None or isinstance(fault, InvalidInput)
                    if is_well:
                        self._told(None)
                    return is_well
        except Exception:  # whatever the store raises, it is not well
            return False
        return False

    def _forget(self, key: FeatureKey, wanted: _Wanted) -> None:
        """Nobody joins it any more; another one may be under way by now."""
        if self._pending.get(key) is wanted:
            del self._pending[key]
