"""The observer of ``dropout serve``: what it is put together from.

Started as ``python -m extproc.run.observer``; nobody types it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

import msgspec

from extproc.adapters.sqlite.observations import ObservationsWriter, Observed, observed
from extproc.adapters.sqlite.runs import RunReport, Watching
from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.decision_id import KeyFile
from extproc.errors import DropoutError, Unreachable
from extproc.metrics.catalogue import (
    OBSERVER_AGE,
    OBSERVER_DROPPED,
    OBSERVER_ENTRIES,
    OBSERVER_SURPLUS,
    OUTCOMES,
    TASK_FAILURES,
)
from extproc.metrics.counting import Metrics
from extproc.protect.access_log import AccessLogService
from extproc.protect.observer import Observer, Requests
from extproc.protect.outcome import RequestOutcome
from extproc.serve.logs import configure_logging
from extproc.serve.messages import DecisionCounts
from extproc.serve.observer import TellTrips, run_observer
from extproc.serve.worker_config import ObserverConfig
from extproc.settings import settings
from extproc.snapshot.holder import SnapshotHolder
from extproc.snapshot.model import CompiledRollout, Snapshot
from extproc.snapshot.trips import LocalTrip
from extproc.state import StateFolder
from extproc.store.ports import RolloutStore
from extproc.trouble import Troubles

logger = logging.getLogger(__name__)

_REPORT_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 0.5
_AT_ONCE: Final = 20
"""Epochs that are encoded before the event loop gets its turn."""

SURPLUS_SAID: Final = 20
"""Of so many ends more than decisions, it is said once for each version; a worker that is killed takes a few along."""

MAX_SURPLUSES: Final = 100
"""Versions of which that is told to the supervisor, for ``/snapshot``."""


_COUNTS: Final = msgspec.json.Decoder(list[Requests])
_UNITS: Final = msgspec.json.Decoder(list[tuple[str, int, list[tuple[int, str]]]])


class ObserverOfStore:
    """An observer of one store, as ``serve.observer.ObserverApplication`` wants it."""

    def __init__(self, config: ObserverConfig, trips: Sequence[LocalTrip], tell_trips: TellTrips) -> None:
        clock = SystemClock()
        self._clock = clock
        self._store_url = config.store
        state = StateFolder(config.state)
        self._began = clock.monotonic()
        self._metrics = Metrics(clock)
        self._tell_trips = tell_trips
        self._observer = Observer(KeyFile(state.ids, clock), settings().outcome_limit, clock, self, trips)
        self._service = AccessLogService(self._observer.take, lambda: self.dropped("malformed_message", 1))
        self._thread = ThreadPoolExecutor(1, "observations")
        self._writer = ObservationsWriter(state.observed, uuid.uuid4().hex)
        self._place = (socket.gethostname(), config.endpoint.target)
        self._watching: set[Watching] = set()
        self._told_watching: set[Watching] = set()
        self._surplus: Counter[tuple[str, str]] = Counter()
        self._news = asyncio.Event()
        self._troubles = Troubles(logger.warning)
        self._metrics.watch(OBSERVER_ENTRIES, lambda: self._observer.entries)
        self._metrics.watch(OBSERVER_DROPPED, lambda: self._observer.forgotten, "no_room")
        self._metrics.gauge(OBSERVER_AGE, self._age)

    # -- what the process asks of it

    @property
    def service(self) -> AccessLogService:
        """What takes the access log."""
        return self._service

    def decided(self, decided: DecisionCounts) -> None:
        """A worker's tally."""
        self._observer.decided(_COUNTS.decode(decided.counts))
        for key, epoch, units in _UNITS.decode(decided.units):
            self._observer.units(key, epoch, units)

    @property
    def surpluses(self) -> list[tuple[str, str, int]]:
        """Of which versions the log tells of more ends than decisions, and how many."""
        return [(*key, count) for key, count in self._surplus.most_common(MAX_SURPLUSES) if count >= SURPLUS_SAID]

    def adopt(self, trips: Sequence[LocalTrip]) -> None:
        """What another ``serve`` of this host took away."""
        self._observer.adopt(trips)

    def tick(self) -> None:
        """Settle what is due."""
        self._observer.tick()

    async def follow(self) -> None:
        """Follow the store, as soon as there is one."""
        store = await self._open_store()
        try:
            holder = SnapshotHolder(store, self._clock)
            holder.on_swap.append(self._swapped)
            await holder.follow()
        finally:
            store.close()

    async def report(self) -> None:
        """Write down every second what was observed, and what was taken away at once."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _REPORT_SECONDS)
            self._news.clear()
            await self._write()

    def count_failure(self, task: str) -> None:
        """Count it by the work that failed."""
        self._metrics.count(TASK_FAILURES, task)

    def dump(self) -> dict[str, Any]:
        """The metrics."""
        return self._metrics.dump()

    async def close(self) -> None:
        """Write the last counts, and that nothing more is to be heard of this run."""
        await self._write(over=True)
        self._thread.shutdown()
        self._writer.close()

    # -- what the observer tells

    def outcome(self, key: str, version: str, outcome: RequestOutcome, count: int) -> None:
        """For the metrics. There may be a surplus from now on: its series is there before, for whoever alerts on it."""
        self._metrics.count(OUTCOMES, key, version, outcome, amount=count)
        self._metrics.count(OBSERVER_SURPLUS, key, version, amount=0)

    def dropped(self, why: str, count: int) -> None:
        """For the metrics."""
        self._metrics.count(OBSERVER_DROPPED, why, amount=count)

    def surplus(self, key: str, version: str, count: int) -> None:
        """For the metrics and ``/snapshot``; said once when there are many."""
        self._metrics.count(OBSERVER_SURPLUS, key, version, amount=count)
        before = self._surplus[key, version]
        self._surplus[key, version] += count
        if before < SURPLUS_SAID <= before + count:
            logger.warning(
                "the access log tells of more ends of version %s of %s than there were decisions: two loggers send"
                " them, other workers decided, or somebody else writes to it; what is told first of a decision counts",
                version,
                key,
            )

    def tripped(self, compiled: CompiledRollout, version: str, why: str) -> None:
        """Say so."""
        logger.warning("version %s of %s was taken away: %s", version, compiled.key, why)

    def trips(self, in_force: Sequence[LocalTrip], lifted: Sequence[LocalTrip]) -> None:
        """For the next report, and for the supervisor, who tells the workers and has all of it outlive this process."""
        self._tell_trips(in_force, lifted)
        self._news.set()

    # -- the store and the counts

    async def _open_store(self) -> RolloutStore:
        """The store; one that is away is waited for."""
        while True:
            try:
                store = await asyncio.to_thread(open_store, self._store_url)
            except DropoutError as error:
                self._troubles.note("store", f"it cannot be read: {error}")
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._troubles.note("store")
                return store

    def _swapped(self, snapshot: Snapshot) -> None:
        if not gc.get_freeze_count():
            gc.freeze()  # what was loaded stays: full collections need not walk ten thousand rollouts
        self._metrics.retain(snapshot.rollouts.keys())
        for key in [key for key in self._surplus if key[0] not in snapshot.rollouts]:
            del self._surplus[key]
        self._observer.follow(snapshot)
        self._watching = {
            (key, compiled.attempt)
            for key, compiled in snapshot.rollouts.items()
            if compiled.canary is not None and compiled.canary not in compiled.aborted
        }

    async def _write(self, *, over: bool = False) -> None:
        rows: list[Observed] = []
        for number, (totals, units, part) in enumerate(self._observer.totals.take_changed(), start=1):
            rows.append(observed(totals, units=units, part=part))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        fallbacks = self._observer.take_fallbacks()
        watching, told = self._watching, self._told_watching
        deaf = self._observer.is_deaf
        nothing = "Envoy tells nothing of what is decided: no version of this host's gets more"
        self._troubles.note("access log", *([nothing] if deaf else ()))
        report = RunReport(*self._place, self._observer.trips_in_force, watching - told, told - watching, over, deaf)
        try:
            loop = asyncio.get_running_loop()
            known = await loop.run_in_executor(
                self._thread, self._writer.write, rows, fallbacks, self._clock.now(), report
            )
        except Unreachable as error:
            self._troubles.note("observations", f"they cannot be written: {error}")
            self._observer.take_back_fallbacks(fallbacks)
            self._observer.totals.tell_again()
            return
        self._troubles.note("observations")
        self._told_watching = watching if known else set()
        if not known:
            self._observer.totals.tell_again()

    def _age(self) -> float:
        heard_at = self._observer.heard_at
        return self._clock.monotonic() - (self._began if heard_at is None else heard_at)


def main(arguments: list[str]) -> int:
    """Observe; the one of ``arguments`` is the descriptor of the pipe."""
    configure_logging("observer")
    (pipe,) = arguments
    status = run_observer(int(pipe), ObserverOfStore)
    sys.stderr.flush()
    os._exit(status)  # a store that blocks a thread must not hold up the end


if __name__ == "__main__":
    main(sys.argv[1:])
