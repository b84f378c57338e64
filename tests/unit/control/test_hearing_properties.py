"""Whatever fails in whatever order: no version that a host took away is promoted, and no trip is lost."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from hypothesis import event, given, settings
from hypothesis import strategies as st

from extproc.control.acting import act, as_action
from extproc.control.observer_reports import SILENT_SECONDS, ReportedTrip
from extproc.control.reconciler import Reconciler
from extproc.errors import Unreachable
from extproc.snapshot.trips import LocalTrip
from extproc.store.records import Lease
from extproc.testing.memory_store import MemoryStore
from tests.support.hearing import Observers
from tests.support.reconciling import LEASE_SECONDS, Environment

HOSTS = ("a", "b")


class Second(NamedTuple):
    """What happens within a second, before the controller ticks. Hosts report, trip and write into the store."""

    writable: bool = True
    readable: bool = True
    reporting: frozenset[str] = frozenset(HOSTS)
    tripping: str = ""
    recording: str = ""
    restarted: bool = False


class Faulty(MemoryStore):
    """A store that cannot be written at times."""

    writable = True

    def acquire(self, holder: str, seconds: float) -> Lease | None:
        self._check()
        return super().acquire(holder, seconds)

    def write(self, *args: Any, **options: Any) -> Any:
        self._check()
        return super().write(*args, **options)

    def _check(self) -> None:
        if not self.writable:
            raise Unreachable.of("store_locked", "somebody holds it")


class Fleet:
    """Two hosts that hold trips in their memories, and a controller."""

    def __init__(self, folder: Path) -> None:
        self.environment = Environment(folder)
        self.environment.apply(steps=[{"setWeight": 50}, {"pause": {"duration": "6s"}}])
        self.observers = Observers(self.environment.clock, *HOSTS)
        self.store = Faulty(self.environment.place, clock=self.environment.clock)
        self.memory: dict[str, LocalTrip] = {}
        self.reported_at = dict.fromkeys(HOSTS, self.environment.clock.now())
        self.controller = self.new_controller()

    def new_controller(self) -> Reconciler:
        return Reconciler(
            self.store,
            self.environment.clock,
            self.environment.seen,
            holder="one",
            actor="controller",
            lease_seconds=LEASE_SECONDS,
            hearing=self.observers.hearing(),
        )

    @property
    def stable(self) -> str:
        return self.environment.row().status.stable

    def live(self, second: Second) -> None:
        now, before = self.environment.clock.now(), self.stable
        self.store.writable, self.observers.away = second.writable, not second.readable
        if second.tripping:
            self.memory.setdefault(second.tripping, self.observers.trip())
        for host in second.reporting:
            self.observers.report(host, trips=[self.memory[host]] if host in self.memory else ())
            self.reported_at[host] = now
        if second.writable and second.recording in self.memory:
            act(
                self.store,
                *as_action(ReportedTrip(second.recording, self.memory[second.recording])),
                self.environment.clock,
            )
        if second.restarted:
            self.controller = self.new_controller()
        self.controller.tick()
        if self.stable == "4" != before:
            self.check_promotion(now)
        self.environment.clock.advance(1)

    def check_promotion(self, now: float) -> None:
        """Everybody was heard, nobody had told of a trip, and one that was not told yet is as young as a silence."""
        assert self.environment.row().status.aborted == ()
        assert not self.observers.away
        assert all(now - at <= SILENT_SECONDS for at in self.reported_at.values())
        assert not any(report.trips for report in self.observers.told.values())
        assert all(now - trip.at <= SILENT_SECONDS for trip in self.memory.values())
        event("promoted with an untold trip" if self.memory else "promoted")

    def close(self) -> None:
        self.environment.store.close()
        self.store.close()


mostly = st.sampled_from([True, True, True, False])
seconds = st.builds(
    Second,
    writable=mostly,
    readable=mostly,
    reporting=st.sampled_from([HOSTS, HOSTS, HOSTS, ("a",), ()]).map(frozenset),
    tripping=st.sampled_from(["", "", "", "", "", "", "", *HOSTS]),
    recording=st.sampled_from(["", *HOSTS]),
    restarted=st.sampled_from([False, False, False, False, True]),
)
# What fails goes on failing for a while.
stretches = st.tuples(seconds, st.integers(1, 9)).map(lambda drawn: [drawn[0]] * drawn[1])


@given(st.lists(stretches, max_size=8).map(lambda lists: [second for one in lists for second in one]))
@settings(max_examples=25, deadline=None)
def test_no_version_that_a_host_took_away_stays_promoted_and_no_trip_is_lost(schedule: list[Second]) -> None:
    with TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder))
        for second in schedule:
            fleet.live(second)
        for _ in range(15):  # everything works again
            fleet.live(Second())
        status = fleet.environment.row().status
        if fleet.memory:
            assert (status.stable, status.aborted) == ("3", ("4",))
            assert any(entry.action == "trip" for entry in fleet.environment.history())
        else:
            assert (status.stable, status.phase) == ("4", "Healthy")
        fleet.close()
