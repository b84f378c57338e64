"""What observers report that they took away, written into the store by the leader too.

The host writes it by itself when it can; but whoever is about to give a version more must not be first.
"""

from __future__ import annotations

from collections.abc import Sequence

from extproc.clock import Clock
from extproc.control.acting import act, as_action
from extproc.control.active_rollouts import ActiveRollouts
from extproc.control.observer_reports import Hearing, ReportedTrip
from extproc.control.readiness import Clusters
from extproc.control.result import ActionResult
from extproc.errors import InvalidInput, Refused, Unreachable
from extproc.snapshot.trips import LocalTrip
from extproc.store.ports import ActionStore


class ReportedTrips:
    """Records every trip of ``hearing`` once, and by it undoes a promotion if ``clusters`` know what it replaced.

    What a store that was made anew, or is an older copy, does not know any more of rollouts ``under_way`` is recorded
    again. ``pending`` are the rollouts whose trips could not be recorded yet.
    """

    def __init__(
        self, store: ActionStore, clock: Clock, hearing: Hearing, clusters: Clusters, under_way: ActiveRollouts
    ) -> None:
        self._store = store
        self._clock = clock
        self._hearing = hearing
        self._clusters = clusters
        self._under_way = under_way
        self._settled: set[tuple[str, str, int]] = set()
        self.pending: set[str] = set()

    def record(self) -> Sequence[ActionResult]:
        """What became of the rollouts that are new to the store as tripped.

        Raises:
            Unreachable: when the store cannot be read or written; what was not recorded is so the next time.
        """
        reported = self._hearing.trips()
        self._settled &= {trip[:3] for _, trip in reported}
        self.pending.clear()
        results = []
        for told in reported:
            trip = told.trip
            if trip[:3] in self._settled and not self._is_forgotten(trip):
                continue
            try:
                results += self._record(told)
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

    def _is_forgotten(self, trip: LocalTrip) -> bool:
        """Whether the store has the attempt as if nothing had been taken away."""
        followed = self._under_way.get(trip.rollout)
        if followed is None:
            return False
        status = followed.row.status
        known = trip.version in status.taken_away
        return (status.canary, status.attempt) == (trip.version, trip.attempt) and not known

    def _record(self, told: ReportedTrip) -> list[ActionResult]:
        actor, trip = as_action(told)
        results = act(self._store, actor, trip, self._clock, clusters=self._clusters)
        return [result for result in results if result.result != "unchanged"]
