"""What observers report that they took away, written into the store by the leader too.

The host writes it by itself when it can; but whoever is about to give a version more must not be first.
"""

from __future__ import annotations

from collections.abc import Sequence

from extproc.clock import Clock
from extproc.control.actions import Result, Trip, act
from extproc.control.hearing import Hearing
from extproc.errors import InvalidInput, Refused, Unreachable
from extproc.snapshot.store import RolloutStore
from extproc.snapshot.trips import LocalTrip


class ReportedTrips:
    """Records every trip of ``hearing`` once. ``pending`` are the rollouts whose trips could not be recorded yet."""

    def __init__(self, store: RolloutStore, clock: Clock, hearing: Hearing) -> None:
        self._store = store
        self._clock = clock
        self._hearing = hearing
        self._settled: set[tuple[str, str, int]] = set()
        self.pending: set[str] = set()

    def record(self) -> Sequence[Result]:
        """What became of the rollouts that are new to the store as tripped.

        Raises:
            Unreachable: when the store cannot be read or written; what was not recorded is so the next time.
        """
        reported = self._hearing.trips()
        self._settled &= {trip[:3] for _, trip in reported}
        self.pending.clear()
        results = []
        for host, trip in reported:
            if trip[:3] in self._settled:
                continue
            try:
                results += self._record(host, trip)
            except Refused:  # others keep writing first
                self.pending.add(trip.rollout)
                continue
            except (InvalidInput, Unreachable) as error:
                if isinstance(error, Unreachable) and error.code != "store_corrupt":
                    raise
                if error.code != "not_found":  # nobody can move it as it is, and somebody may repair it
                    self.pending.add(trip.rollout)
                    continue
            self._settled.add(trip[:3])
        return results

    def _record(self, host: str, trip: LocalTrip) -> list[Result]:
        namespace, _, name = trip.rollout.partition("/")
        action = Trip(namespace, name, trip.version, trip.attempt, trip.why)
        found = act(self._store, f"breaker@{host}", action, self._clock)
        return [result for result in found if result.result != "unchanged"]
