"""The supervisor's part in the protect loop: the observer's place, and who tells whom what.

Workers tell what they decide, the observer tells what is tripped; both through here. What is tripped is held by
``safety``. An observer that ends, hangs or loses its socket is replaced and told the trips in force. No request waits
for it; readiness does once, at the start, for a few seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, assert_never

from extproc.metrics.merging import Totals
from extproc.net.endpoints import UnixEndpoint
from extproc.net.sockets import SocketWatch
from extproc.serve.messages import (
    FROM_OBSERVER,
    AdoptTrips,
    Alive,
    Counted,
    DecisionCounts,
    Failed,
    FromObserver,
    ObserverListens,
    ObserverReady,
    StartObserver,
    ToObserver,
    ToWorker,
    TripsInForce,
    WantMetrics,
)
from extproc.serve.supervisor.auxiliary import Auxiliary
from extproc.serve.supervisor.children import AuxiliaryCommand
from extproc.serve.supervisor.safety import HostSafety
from extproc.serve.worker_config import ObserverPlan
from extproc.settings import Settings
from extproc.snapshot.trips import LocalTrip

_CHECK_SECONDS: Final = 0.1
_ANSWER_SECONDS: Final = 1.0


class Protection:
    """The observer of one run.

    ``tell`` sends a message to every worker that takes requests, ``warn`` writes a line for people, ``replaced`` hears
    of each observer that ended.
    """

    def __init__(
        self,
        plan: ObserverPlan,
        tuning: Settings,
        totals: Totals,
        safety: HostSafety,
        *,
        tell: Callable[[ToWorker], None],
        warn: Callable[[str], None],
        replaced: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._settings = tuning
        self._totals = totals
        self._safety = safety
        self._tell = tell
        self._warn = warn
        self._replaced = replaced
        self._observer = Auxiliary[ToObserver, FromObserver](
            AuxiliaryCommand("observer", plan.command), warn, FROM_OBSERVER, self._received, self._ended, self._began
        )
        self._socket = SocketWatch(plan.lock)
        self._heard_at = time.monotonic()
        self._answer: asyncio.Future[None] | None = None
        self._surpluses: Sequence[tuple[str, str, int]] = ()
        self.up = False

    # -- its life

    def start(self) -> None:
        """Begin to observe; an observer that ends is followed by another."""
        self._observer.start()

    async def run(self) -> None:
        """Replace an observer that lives and does not work, until cancelled."""
        while True:
            asleep = time.monotonic()
            await asyncio.sleep(_CHECK_SECONDS)
            if time.monotonic() - asleep > 4 * _CHECK_SECONDS:
                self._heard_at = time.monotonic()  # it is this process that was held up: what was said is still unread
            self._check()

    def _check(self) -> None:
        """Replace an observer that nothing is heard of, or that nobody finds any more."""
        silent = time.monotonic() - self._heard_at
        endpoint = self._plan.config.endpoint
        if silent > (self._settings.hang_limit if self.up else self._settings.start_timeout):
            self._warn("the observer hangs: it is replaced")
        elif self.up and self._socket.lost(endpoint):
            hindrance = self._socket.make_room(endpoint, self._pids())
            self._warn(f"the observer's socket is gone: {hindrance or 'it is replaced'}")
        else:
            return
        self._heard_at = time.monotonic()
        self._observer.replace()

    def _began(self) -> None:
        self._heard_at = time.monotonic()
        if self._plan.lock is not None:
            with suppress(OSError):  # a full disk: a successor has to wait for this observer to end
                self._plan.lock.note(self._pids())
        self._observer.send(StartObserver(self._plan.config, self._safety.trips))

    def _ended(self, life: str) -> None:
        self.up = False
        self._surpluses = ()
        self._heard_at = time.monotonic()
        self._totals.retire(life)
        self._replaced()

    def _pids(self) -> list[int]:
        return [self._observer.pid] if self._observer.pid is not None else []

    # -- what is said

    def _received(self, life: str, message: FromObserver) -> None:
        self._heard_at = time.monotonic()
        match message:
            case ObserverReady():
                self.up = True
                self._socket.bound(self._plan.config.endpoint)
                self._tell(ObserverListens())
                self.adopt(self._safety.trips)  # what another serve took away since this one began
            case Failed():
                for fault in message.faults:
                    self._warn(f"observer: {fault.message}")
            case TripsInForce():
                self._safety.observed(message.trips, message.lifted)
            case Alive():
                self._surpluses = message.surpluses
            case Counted():
                self._totals.update(life, message.dump)
                if self._answer is not None and not self._answer.done():
                    self._answer.set_result(None)
            case _:
                assert_never(message)

    def decided(self, decided: DecisionCounts) -> None:
        """A worker tells what it decided."""
        if self.up:
            self._observer.send(decided)

    def adopt(self, trips: Sequence[LocalTrip]) -> None:
        """Another ``serve`` of this host took something away; an observer that only begins is told when it is up."""
        if self.up:
            self._observer.send(AdoptTrips(list(trips)))

    async def gather_metrics(self) -> None:
        """Have the observer's counts among the totals; an observer that does not answer is passed over."""
        self._answer = asyncio.get_running_loop().create_future()
        if self.up and self._observer.send(WantMetrics()):
            await asyncio.wait([self._answer], timeout=_ANSWER_SECONDS)

    def described(self) -> Mapping[str, Any]:
        """For /snapshot."""
        return {
            "pid": self._observer.pid,
            "address": self._plan.config.endpoint.target,
            "state": "serving" if self.up else "starting" if self._observer.pid is not None else "dead",
            "trips": [
                {"rollout": rollout, "version": version, "attempt": attempt, "probing": probing}
                for rollout, version, attempt, probing, *_ in self._safety.trips
            ],
            "surplus": [
                {"rollout": rollout, "version": version, "ends": ends} for rollout, version, ends in self._surpluses
            ],
        }

    # -- the end

    def release(self) -> None:
        """Let a successor have the socket; this observer is the last, and ends when the workers have."""
        self._observer.retire()
        if self._plan.lock is not None:
            self._plan.lock.release()

    async def stop(self) -> None:
        """Let the observer write what it knows, and end it."""
        await self._observer.stop()
        endpoint = self._plan.config.endpoint
        if self._plan.lock is not None and isinstance(endpoint, UnixEndpoint):
            self._plan.lock.clean_up([endpoint])

    def kill(self) -> None:
        """End it now."""
        self._observer.kill()
