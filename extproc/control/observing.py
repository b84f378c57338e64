"""What a rollout is judged by: whether its upstream is ready, what is due to be measured, whether the split holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from extproc.assignment import BUCKETS
from extproc.control.analysis.measuring import MetricProvider, ObservationSource, Reading, Subject, judge
from extproc.control.analysis.runs import Measured, Metric
from extproc.control.analysis.sample_ratio import sample_ratio
from extproc.control.fleet import FleetBreaker
from extproc.control.following import Followed
from extproc.control.readiness import Clusters
from extproc.control.rollout import Observations, due
from extproc.errors import DropoutError
from extproc.names import ARM_CANARY, ARM_CONTROL

logger = logging.getLogger(__name__)

SPLIT_SECONDS: Final = 30.0
"""How often the units of the arms are counted: a sample of thousands is read for it."""


MEASURING_SECONDS: Final = 0.3
"""What measuring takes of a tick at most; what is left is due at the next one, and at other times from then on."""


class _Split(NamedTuple):
    """What was found about an epoch's split, and when to look again (monotonic seconds)."""

    epoch: int
    wrong: str
    again_at: float


class Senses:
    """An ``Observe`` that asks ``metrics``, ``clusters``, ``source`` and ``fleet``; what is None is not asked."""

    def __init__(
        self,
        metrics: MetricProvider,
        monotonic: Callable[[], float],
        *,
        clusters: Clusters | None = None,
        source: ObservationSource | None = None,
        fleet: FleetBreaker | None = None,
    ) -> None:
        self._metrics = metrics
        self._monotonic = monotonic
        self._clusters = clusters
        self._source = source
        self._fleet = fleet
        self._measure_until = float("-inf")
        self._splits: WeakKeyDictionary[Followed, _Split] = WeakKeyDictionary()

    def look(self, under_way: Iterable[Followed], now: float) -> None:
        """See ``Observe``."""
        if self._fleet is not None:
            self._fleet.look(under_way, now)

    def begin(self, now: float) -> None:
        """See ``Observe``."""
        self._measure_until = self._monotonic() + MEASURING_SECONDS

    def observe(self, followed: Followed, now: float) -> Observations:
        """See ``Observe``."""
        status = followed.row.status
        in_time = self._monotonic() <= self._measure_until
        wanted = due(followed.plan, status, now) if in_time else {}
        subject = Subject(followed.key, status.epoch_at(now), now, ARM_CANARY, ARM_CONTROL)
        return Observations(
            measured={kind: [self._measured(metric, subject) for metric in wanted[kind]] for kind in wanted},
            unready=self._unready(followed),
            sample_ratio=self._split(followed, now),
            broken=self._fleet.broken(followed) if self._fleet is not None else "",
        )

    def _unready(self, followed: Followed) -> str:
        canary = followed.row.status.canary
        if self._clusters is None or canary is None:
            return ""
        return self._clusters.unready(followed.rollout.upstream_of(canary))

    def _measured(self, metric: Metric, subject: Subject) -> Measured:
        """One measurement; whatever goes wrong with it is an error of the measurement, not of the rollout."""
        try:
            reading = self._metrics.measure(metric, subject)
        except Exception as error:
            logger.exception("%s of %s cannot be measured", metric.name, subject.rollout)
            reading = Reading(error=f"it cannot be measured: {error!r}")
        return judge(metric, reading, subject.now)

    def _split(self, followed: Followed, now: float) -> str:
        """What is wrong with the units of the arms in this epoch, as of the last time that they were counted."""
        weight, epoch = followed.row.status.weight_at(now), followed.row.status.epoch_at(now)
        if self._source is None or not 0 < weight < BUCKETS:
            self._splits.pop(followed, None)
            return ""
        known = self._splits.get(followed)
        is_due = known is None or known.epoch != epoch or self._monotonic() >= known.again_at
        if is_due and self._monotonic() <= self._measure_until:
            wrong = self._counted(self._source, followed.key, epoch, weight)
            known = self._splits[followed] = _Split(epoch, wrong, self._monotonic() + SPLIT_SECONDS)
        return known.wrong if known is not None and known.epoch == epoch else ""

    def _counted(self, source: ObservationSource, key: str, epoch: int, weight: int) -> str:
        try:
            totals = source.totals(key, epoch)
        except DropoutError:
            return ""  # whoever measures something says so
        if totals is None:
            return ""
        found = sample_ratio(totals.units.counts(), {ARM_CANARY: weight, ARM_CONTROL: BUCKETS - weight})
        return "" if found is None or found.healthy else str(found)
