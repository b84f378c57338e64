"""Hosts' observers in a test: what they report, and whether they do."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from extproc.control.observer_reports import Hearing, ObserverReport
from extproc.errors import Unreachable
from extproc.snapshot.trips import LocalTrip
from tests.support.clock import FakeClock
from tests.support.reconciling import KEY


class Observers:
    """A ``ReportSource``: one run a host, each of which watches ``KEY`` in its first attempt."""

    def __init__(self, clock: FakeClock, *hosts: str) -> None:
        self.clock = clock
        self.told: dict[str, ObserverReport] = {}
        self.watched: set[tuple[str, int]] = {(KEY, 1)}
        self.away = False
        for host in hosts:
            self.report(host)

    def report(self, *hosts: str, trips: Sequence[LocalTrip] | None = None, over: bool = False) -> None:
        """A report of each of ``hosts``; ``trips`` are those in force from now on, if they changed."""
        for host in hosts:
            before = self.told.get(host, ObserverReport(host, host, "unix:observer.sock", 0, over=False))
            in_force = before.trips if trips is None else tuple(trips)
            self.told[host] = before._replace(number=before.number + 1, over=over, trips=in_force)

    def trip(self, *, version: str = "4", attempt: int = 1, ago: float = 0.0) -> LocalTrip:
        """A trip of ``KEY``."""
        return LocalTrip(KEY, version, attempt, at=self.clock.now() - ago, why="10 requests in a row failed")

    def hearing(self) -> Hearing:
        """A new listener."""
        return Hearing(self, self.clock.monotonic)

    def reports(self) -> Sequence[ObserverReport]:
        """See ``ReportSource``."""
        self._check()
        return list(self.told.values())

    def watching(self, rollout: str, attempt: int) -> Collection[str]:
        """See ``ReportSource``."""
        self._check()
        return set(self.told) if (rollout, attempt) in self.watched else ()

    def _check(self) -> None:
        if self.away:
            raise Unreachable.of("observations_unreachable", "the disk is away")
