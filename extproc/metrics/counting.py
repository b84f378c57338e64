"""What one process counts.

A worker counts into plain dicts on its event loop, because a decision pays for every microsecond here. Labels come
from documents and closed lists only, and go when their rollout goes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from extproc.clock import Clock
from extproc.datapath.ports import DecisionRecord
from extproc.metrics.catalogue import (
    DECISIONS,
    FALLBACKS,
    POLICY_AGE,
    POLICY_FAULTS,
    POLICY_INFO,
    SNAPSHOT_AGE,
    SNAPSHOT_REVISION,
    STAGES,
    Counter,
    Gauge,
    Histogram,
)
from extproc.names import POLICY_FAULT_REASONS

_STAGE_BUCKETS_US: Final = tuple(bound * 1e6 for bound in STAGES.buckets)

Labels = tuple[str, ...]
Row = tuple[Counter | Gauge, Labels, float]
"""A sample: the metric, its labels in the order that the catalogue has them in, the value."""
HistogramRow = tuple[Histogram, Labels, Sequence[int], float]
"""A histogram's sample: counts per bucket (the last is +Inf), and the sum."""
Dump = dict[str, Any]
"""What a process tells the supervisor, as JSON: ``counters`` and ``gauges`` as rows of name, labels, value;
``histograms`` as rows of name, labels, counts per bucket, sum."""


class _Histogram:
    """Counts per bucket (the last is +Inf) and their sum, in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(STAGES.buckets) + 1)
        self.sum = 0.0


class Metrics:
    """The counts of one process. Used on one thread; a ``DecisionSink``.

    ``record`` costs about 2 µs: dict entries instead of locked children, and nothing is formatted before a scrape.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._decisions: dict[Labels, int] = {}
        self._fallbacks: dict[Labels, int] = {}
        self._stages: dict[str, _Histogram] = {}
        self._counters: dict[tuple[Counter, Labels], float] = {}
        self._watched: list[tuple[Counter, Labels, Callable[[], float]]] = []
        self._read_gauges: list[tuple[Gauge, Callable[[], float]]] = []
        self._read_rows: list[Callable[[], Iterable[Row]]] = []
        self._read_histograms: list[Callable[[], Iterable[HistogramRow]]] = []
        self._revision: int | None = None
        self._confirmed = 0.0
        self._policy: tuple[str, float] | None = None

    def record(self, decided: DecisionRecord) -> None:
        """Count one decision, its fallbacks, and the time that each stage took."""
        decision = decided.decision
        labels = (decision.rollout or "", decision.version or "", decision.arm or "", decision.reason)
        try:
            self._decisions[labels] += 1
        except KeyError:
            self._decisions[labels] = 1
        for reason in decision.fallbacks:
            fallback = (labels[0], reason)
            self._fallbacks[fallback] = self._fallbacks.get(fallback, 0) + 1
            if reason in POLICY_FAULT_REASONS:
                self.count(POLICY_FAULTS, reason)
        stages = self._stages
        for stage, us in decision.stage_us.items():
            histogram = stages.get(stage)
            if histogram is None:
                histogram = stages[stage] = _Histogram()
            histogram.counts[bisect_left(_STAGE_BUCKETS_US, us)] += 1
            histogram.sum += us * 1e-6

    def count(self, counter: Counter, *labels: str, amount: float = 1) -> None:
        """Add to ``counter``; ``labels`` in the order of the catalogue, values from a closed list."""
        assert len(counter.labels) == len(labels), counter.name
        key = (counter, labels)
        self._counters[key] = self._counters.get(key, 0) + amount

    def watch(self, counter: Counter, read: Callable[[], float], *labels: str) -> None:
        """Have a counter read from where it is kept, at every dump: a sink's drops, a cache's hits."""
        self._watched.append((counter, labels, read))

    def gauge(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Have a gauge without labels read at every dump."""
        self._read_gauges.append((gauge, read))

    def rows(self, read: Callable[[], Iterable[Row]]) -> None:
        """Have counters and gauges, of as many series as there are then, read at every dump."""
        self._read_rows.append(read)

    def histograms(self, read: Callable[[], Iterable[HistogramRow]]) -> None:
        """Have histograms, of as many series as there are then, read at every dump."""
        self._read_histograms.append(read)

    def snapshot(self, revision: int) -> None:
        """A snapshot of this store revision was taken over."""
        self._revision = revision
        self._confirmed = self._clock.monotonic()

    def snapshot_confirmed(self, at: float) -> None:
        """The store was read at ``at`` (monotonic seconds) and had nothing newer than the snapshot."""
        self._confirmed = at

    def policy(self, revision: str) -> None:
        """Policies of this revision were taken over."""
        self._policy = (revision, self._clock.monotonic())

    def retain(self, keys: Collection[str]) -> None:
        """Forget every label set of a rollout whose ``namespace/name`` is not among ``keys``."""
        self._decisions = {labels: n for labels, n in self._decisions.items() if not labels[0] or labels[0] in keys}
        self._fallbacks = {labels: n for labels, n in self._fallbacks.items() if not labels[0] or labels[0] in keys}
        self._counters = {
            (counter, labels): n
            for (counter, labels), n in self._counters.items()
            if "rollout" not in counter.labels or labels[0] in keys
        }

    def dump(self) -> Dump:
        """Everything counted so far, ready for JSON."""
        counters: list[list[Any]] = [[DECISIONS.name, list(labels), n] for labels, n in self._decisions.items()]
        counters += [[FALLBACKS.name, list(labels), n] for labels, n in self._fallbacks.items()]
        counters += [[counter.name, list(labels), n] for (counter, labels), n in self._counters.items()]
        counters += [[counter.name, list(labels), read()] for counter, labels, read in self._watched]
        gauges = self._gauges()
        for metric, labels, value in (row for read in self._read_rows for row in read()):
            (counters if isinstance(metric, Counter) else gauges).append([metric.name, list(labels), value])
        return {
            "counters": counters,
            "histograms": [
                *([STAGES.name, [stage], list(h.counts), h.sum] for stage, h in self._stages.items()),
                *(
                    [histogram.name, list(labels), list(counts), total]
                    for read in self._read_histograms
                    for histogram, labels, counts, total in read()
                ),
            ],
            "gauges": gauges,
        }

    def _gauges(self) -> list[list[Any]]:
        now = self._clock.monotonic()
        gauges: list[list[Any]] = [[gauge.name, [], read()] for gauge, read in self._read_gauges]
        if self._revision is not None:
            gauges += [[SNAPSHOT_REVISION.name, [], self._revision], [SNAPSHOT_AGE.name, [], now - self._confirmed]]
        if self._policy is not None:
            revision, since = self._policy
            gauges += [[POLICY_INFO.name, [revision], 1], [POLICY_AGE.name, [], now - since]]
        return gauges
