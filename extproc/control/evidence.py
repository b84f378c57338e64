"""What a rollout is advanced by: whether its upstream is ready, what is due to be measured, whether the split holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from extproc.assignment import BUCKETS, variant_ranges
from extproc.control.active_rollouts import ActiveRollout
from extproc.control.analysis.measuring import evaluate, surplus_of
from extproc.control.analysis.ports import EmbeddedProvider, ObservationSource, Reading, Subject
from extproc.control.analysis.runs import Measured, Metric
from extproc.control.analysis.sample_ratio import sample_ratio
from extproc.control.analysis.servers import MetricServers, Run
from extproc.control.experiments import VARIANT
from extproc.control.fleet import FleetBreaker
from extproc.control.readiness import Clusters
from extproc.control.rollout import Evidence, due
from extproc.control.unmet import Unmet
from extproc.errors import DropoutError
from extproc.names import ARM_CANARY, ARM_CONTROL
from extproc.resources.rollout import RolloutSpec

logger = logging.getLogger(__name__)

SPLIT_SECONDS: Final = 30.0
"""How often the units of the arms are counted: a sample of thousands is read for it."""


MEASURING_SECONDS: Final = 0.3
"""What embedded providers take of a tick at most; what is left is due at the next one, and then at other times."""


class _Split(NamedTuple):
    """What was found about an epoch's split, and when to look again (monotonic seconds).

    ``doubt`` says why what the log told of its arms is in doubt; empty if it is not.
    """

    epoch: int
    wrong: str = ""
    doubt: str = ""
    again_at: float = 0.0


class EvidenceCollector:
    """An ``EvidenceSource`` that asks ``clusters``, ``source`` and ``fleet``; what is None is not asked.

    Metrics are measured by the ``embedded`` providers, by their name, at once; by all others beside the tick, by
    ``servers``. ``undelivered`` says why a proxy does not have the routes, empty if each has; ``unmet`` what of a
    document a ``serve`` does not do. Either is None if nobody can say.
    """

    def __init__(
        self,
        embedded: Mapping[str, EmbeddedProvider],
        servers: MetricServers,
        monotonic: Callable[[], float],
        *,
        clusters: Clusters | None = None,
        source: ObservationSource | None = None,
        fleet: FleetBreaker | None = None,
        undelivered: Callable[[], str | None] = lambda: "",
        unmet: Callable[[RolloutSpec], Unmet | None] = lambda _spec: None,
        stale: Callable[[RolloutSpec], Unmet | None] = lambda _spec: None,
    ) -> None:
        self._embedded = embedded
        self._servers = servers
        self._monotonic = monotonic
        self._clusters = clusters
        self._source = source
        self._fleet = fleet
        self._undelivered = undelivered
        self._unmet = unmet
        self._stale = stale
        self._measure_until = float("-inf")
        self._splits: WeakKeyDictionary[ActiveRollout, _Split] = WeakKeyDictionary()

    def collect(self, under_way: Iterable[ActiveRollout], now: float) -> None:
        """See ``EvidenceSource``."""
        self._servers.expire()
        if self._fleet is not None:
            self._fleet.collect(under_way, now)

    def begin(self, now: float) -> None:
        """See ``EvidenceSource``."""
        self._servers.begin()
        self._measure_until = self._monotonic() + MEASURING_SECONDS

    def evidence_of(self, followed: ActiveRollout, now: float) -> Evidence:
        """See ``EvidenceSource``."""
        split = self._split(followed, now)
        return Evidence(
            measured=self._measured(followed, now),
            unready=self._unready(followed),
            sample_ratio=split.wrong,
            doubt=split.doubt,
            undelivered=self._undelivered(),
            unmet=self._unmet(followed.rollout.spec),
            stale=self._stale(followed.rollout.spec),
            broken=self._fleet.broken(followed) if self._fleet is not None else "",
        )

    def _unready(self, followed: ActiveRollout) -> str:
        canary = followed.row.status.canary
        if self._clusters is None or canary is None:
            return ""
        return self._clusters.unready(followed.rollout.upstream_of(canary))

    def _measured(self, followed: ActiveRollout, now: float) -> dict[str, list[Measured]]:
        """What there is of what is due, by run. What is embedded is measured if this tick has time for it."""
        wanted = due(followed.plan, followed.row.status, now)
        in_time = self._monotonic() <= self._measure_until
        found: dict[str, list[Measured]] = {}
        for kind, metrics in wanted.items():
            run, subject = _run(followed, kind, now), _subject(followed, kind, now)
            for metric in metrics:
                reading = self._reading(run, metric, subject, in_time)
                if reading is not None:
                    found.setdefault(kind, []).append(evaluate(metric, reading, now))
        return found

    def _reading(self, run: Run, metric: Metric, subject: Subject, in_time: bool) -> Reading | None:
        """What can be read of a metric now; whatever goes wrong with it is an error of it, not of the rollout."""
        embedded = self._embedded.get(metric.provider.name)
        if embedded is None:
            return self._servers.measure(run, metric, subject)
        if not in_time:
            return None
        try:
            return embedded.measure(metric, subject)
        except Exception as error:
            logger.exception("%s of %s cannot be measured", metric.name, subject.rollout)
            return Reading(error=f"it cannot be measured: {error!r}")

    def _split(self, followed: ActiveRollout, now: float) -> _Split:
        """What is wrong with the arms in this epoch, as of the last time that their units were counted."""
        shares, epoch = _shares(followed, now), followed.row.status.epoch_id_at(now)
        if self._source is None or not shares:
            self._splits.pop(followed, None)
            return _Split(epoch)
        known = self._splits.get(followed)
        is_due = known is None or known.epoch != epoch or self._monotonic() >= known.again_at
        if is_due and self._monotonic() <= self._measure_until:
            said = known.doubt if known is not None and known.epoch == epoch else ""
            known = self._splits[followed] = self._counted(self._source, followed.key, epoch, shares, said)
        return known if known is not None and known.epoch == epoch else _Split(epoch)

    def _counted(self, source: ObservationSource, key: str, epoch: int, shares: Mapping[str, int], said: str) -> _Split:
        """The split as it is counted now; a doubt that was ``said`` is not said again in other numbers."""
        again_at = self._monotonic() + SPLIT_SECONDS
        try:
            totals = source.totals(key, epoch)
        except DropoutError:
            totals = None  # whoever measures something says so
        if totals is None:
            return _Split(epoch, again_at=again_at)
        found = sample_ratio(totals.units.counts(), shares)
        doubt = next(filter(None, (surplus_of(name, arm) for name, arm in sorted(totals.arms.items()))), "")
        wrong = "" if found is None or found.healthy else str(found)
        return _Split(epoch, wrong, doubt and (said or doubt), again_at)


def _run(followed: ActiveRollout, kind: str, now: float) -> Run:
    status = followed.row.status
    return Run(followed.key, status.attempt, status.epoch_id_at(now), kind, status.analysis[kind]["started"])


def _subject(followed: ActiveRollout, kind: str, now: float) -> Subject:
    """What a run compares: the canary with the control, or a variant."""
    status, variants = followed.row.status, followed.plan.intent.variants
    epoch = status.epoch_id_at(now)
    if kind.startswith(VARIANT):
        name = kind.removeprefix(VARIANT)
        return Subject(followed.key, epoch, now, name, variants[-1][0], (dict(variants)[name], status.stable))
    return Subject(followed.key, epoch, now, ARM_CANARY, ARM_CONTROL, (status.canary or "", status.stable))


def _shares(followed: ActiveRollout, now: float) -> dict[str, int]:
    """How many buckets each arm owns; none while there is only one of them."""
    spec = followed.rollout.spec
    if spec.is_experiment:
        coverage = BUCKETS if spec.coverage is None else spec.coverage
        ranges = variant_ranges([variant.weight for variant in spec.variants], coverage)
        return {variant.name: end - start for variant, (start, end) in zip(spec.variants, ranges, strict=True)}
    weight = followed.row.status.weight_at(now)
    return {ARM_CANARY: weight, ARM_CONTROL: BUCKETS - weight} if 0 < weight < BUCKETS else {}
