"""What Dropout counts, in a worker and over all of them, and how Prometheus reads it.

A worker counts into plain dicts on its event loop, because a decision pays for every microsecond here; the
supervisor collects the workers' dumps, keeps what dead workers had counted, and renders one exposition with
prometheus-client. Labels come from documents and closed lists only, and go when their rollout goes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

from extproc.clock import Clock
from extproc.datapath.ports import Decided

DECISIONS: Final = "dropout_decisions_total"
STAGES: Final = "dropout_stage_seconds"
FALLBACKS: Final = "dropout_fallbacks_total"
SNAPSHOT_REVISION: Final = "dropout_snapshot_revision"
SNAPSHOT_AGE: Final = "dropout_snapshot_age_seconds"
POLICY_INFO: Final = "dropout_policy_info"
POLICY_AGE: Final = "dropout_policy_age_seconds"
RELOADS_REFUSED: Final = "dropout_reloads_refused_total"
DOCUMENTS_MISSING: Final = "dropout_documents_missing"
LOG_DROPS: Final = "dropout_decision_log_drops_total"
LOG_ERRORS: Final = "dropout_decision_log_errors_total"
WORKERS_REPLACED: Final = "dropout_workers_replaced_total"
CACHE_HITS: Final = "dropout_feature_cache_hits_total"
CACHE_MISSES: Final = "dropout_feature_cache_misses_total"
CACHE_REFUSED: Final = "dropout_feature_cache_refused_total"
CACHE_BYTES: Final = "dropout_feature_cache_bytes"
VERDICT_HITS: Final = "dropout_verdict_cache_hits_total"
VERDICT_MISSES: Final = "dropout_verdict_cache_misses_total"
FEATURE_ERRORS: Final = "dropout_feature_read_errors_total"
TASK_FAILURES: Final = "dropout_task_failures_total"
STREAM_ERRORS: Final = "dropout_stream_errors_total"
OUTCOMES: Final = "dropout_outcomes_total"
TRIPS: Final = "dropout_trips_total"
OBSERVER_UP: Final = "dropout_observer_up"
OBSERVER_AGE: Final = "dropout_observer_age_seconds"
OBSERVER_ENTRIES: Final = "dropout_observer_entries_total"
OBSERVER_DROPPED: Final = "dropout_observer_dropped_total"
OBSERVER_REPLACED: Final = "dropout_observer_replaced_total"
SAFETY_WAITING: Final = "dropout_safety_waiting"
SAFETY_KEPT: Final = "dropout_safety_kept"
FEEDBACK: Final = "dropout_feedback_total"
CONTROLLER_LEADS: Final = "dropout_controller_leads"
CONTROLLER_ROLLOUTS: Final = "dropout_controller_rollouts"
CONTROLLER_STABLE_TRIPPED: Final = "dropout_controller_stable_tripped"
CONTROLLER_TRANSITIONS: Final = "dropout_controller_transitions_total"

STAGE_BUCKETS: Final = (
    *(5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6),
    *(1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3),
)
"""Upper bounds in seconds: from the cheapest stage to a feature store at its deadline."""

_STAGE_BUCKETS_US: Final = tuple(bound * 1e6 for bound in STAGE_BUCKETS)


class MetricInfo(NamedTuple):
    """One row of the README's table. ``over`` says how a gauge of several workers becomes one number."""

    name: str
    type: Literal["counter", "histogram", "gauge"]
    labels: tuple[str, ...]
    help: str
    over: Literal["sum", "min", "max"] = "sum"


METRICS: Final[tuple[MetricInfo, ...]] = (
    MetricInfo(
        DECISIONS,
        "counter",
        ("rollout", "version", "arm", "reason"),
        "Decisions; rollout, version and arm are empty when no rollout matched.",
    ),
    MetricInfo(STAGES, "histogram", ("stage",), "Seconds that a decision spent in each stage."),
    MetricInfo(
        FALLBACKS,
        "counter",
        ("rollout", "reason"),
        "What could not be had (a unit, a feature, a verdict), whether or not it changed the outcome.",
    ),
    MetricInfo(SNAPSHOT_REVISION, "gauge", (), "Store revision that the worker furthest behind decides from.", "min"),
    MetricInfo(
        SNAPSHOT_AGE,
        "gauge",
        (),
        "Seconds since the store last confirmed the snapshot, in the worker where it is longest.",
        "max",
    ),
    MetricInfo(POLICY_INFO, "gauge", ("revision",), "1 for each policy revision that a worker decides with.", "max"),
    MetricInfo(
        POLICY_AGE,
        "gauge",
        (),
        "Seconds since the policies were taken over, in the worker where it is longest.",
        "max",
    ),
    MetricInfo(RELOADS_REFUSED, "counter", ("what",), "Reloads that were refused; the last good one stays in force."),
    MetricInfo(DOCUMENTS_MISSING, "gauge", (), "Documents that left the rollouts' folder and are not deleted yet."),
    MetricInfo(LOG_DROPS, "counter", (), "Decisions that the decision log had to leave out."),
    MetricInfo(LOG_ERRORS, "counter", (), "Attempts to write the decision log that failed."),
    MetricInfo(WORKERS_REPLACED, "counter", (), "Workers that died or hung and were replaced."),
    MetricInfo(CACHE_HITS, "counter", (), "Requests whose features were in the worker's cache."),
    MetricInfo(CACHE_MISSES, "counter", (), "Reads of the feature store, because the cache had no answer."),
    MetricInfo(CACHE_REFUSED, "counter", (), "Answers of the feature store that were too large to be remembered."),
    MetricInfo(
        CACHE_BYTES,
        "gauge",
        (),
        "Bytes, about, of features that are remembered, in the worker where they are most.",
        "max",
    ),
    MetricInfo(VERDICT_HITS, "counter", (), "Requests whose verdict the worker remembered."),
    MetricInfo(VERDICT_MISSES, "counter", (), "Evaluations of policies because nothing was remembered."),
    MetricInfo(FEATURE_ERRORS, "counter", (), "Reads of the feature store that failed."),
    MetricInfo(STREAM_ERRORS, "counter", (), "Streams that ended in an error of the client or of Dropout."),
    MetricInfo(TASK_FAILURES, "counter", ("task",), "Failures of work in the background by a bug; it begins again."),
    MetricInfo(
        OUTCOMES,
        "counter",
        ("rollout", "version", "outcome"),
        "How requests ended, by the version that they were decided for.",
    ),
    MetricInfo(TRIPS, "counter", ("rollout", "version"), "Versions that the breaker took away."),
    MetricInfo(OBSERVER_UP, "gauge", (), "Whether the observer takes Envoy's access log; absent without one."),
    MetricInfo(OBSERVER_AGE, "gauge", (), "Seconds since Envoy last sent some of its access log, or since the start."),
    MetricInfo(OBSERVER_ENTRIES, "counter", (), "Requests that Envoy told the end of."),
    MetricInfo(
        OBSERVER_DROPPED, "counter", ("why",), "What the observer could not take into account, of the log or of counts."
    ),
    MetricInfo(OBSERVER_REPLACED, "counter", (), "Observers that died or hung and were replaced."),
    MetricInfo(SAFETY_WAITING, "gauge", (), "Kills and trips of this host that the store does not have yet."),
    MetricInfo(SAFETY_KEPT, "gauge", (), "1 while all kills and trips of this host stand in its file.", "min"),
    MetricInfo(FEEDBACK, "counter", ("code",), "Records of feedback by what became of them: `recorded`, or why not."),
    MetricInfo(
        CONTROLLER_LEADS, "gauge", (), "1 in the controller that moves rollouts, 0 in those that stand by.", "max"
    ),
    MetricInfo(CONTROLLER_ROLLOUTS, "gauge", (), "Rollouts under way, where the controller leads.", "max"),
    MetricInfo(
        CONTROLLER_STABLE_TRIPPED,
        "gauge",
        (),
        "Rollouts whose stable version was tripped (`StableTripped`), where the controller leads.",
        "max",
    ),
    MetricInfo(CONTROLLER_TRANSITIONS, "counter", (), "Steps that the controller took with rollouts."),
)
"""Every metric there is. The README's table is tested against it."""

_INFO: Final = {metric.name: metric for metric in METRICS}

Labels = tuple[str, ...]
Dump = dict[str, Any]
"""What a worker tells the supervisor, as JSON: ``counters`` and ``gauges`` as rows of name, labels, value;
``histograms`` as rows of name, labels, counts per bucket, sum."""


class _Histogram:
    """Counts per bucket (the last is +Inf) and their sum, in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(STAGE_BUCKETS) + 1)
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
        self._counters: dict[tuple[str, Labels], float] = {}
        self._watched: list[tuple[str, Labels, Callable[[], float]]] = []
        self._read_gauges: list[tuple[str, Callable[[], float]]] = []
        self._revision: int | None = None
        self._confirmed = 0.0
        self._policy: tuple[str, float] | None = None

    def record(self, decided: Decided) -> None:
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
        stages = self._stages
        for stage, us in decision.stage_us.items():
            histogram = stages.get(stage)
            if histogram is None:
                histogram = stages[stage] = _Histogram()
            histogram.counts[bisect_left(_STAGE_BUCKETS_US, us)] += 1
            histogram.sum += us * 1e-6

    def count(self, name: str, *labels: str, amount: float = 1) -> None:
        """Add to a counter of ``METRICS``; ``labels`` in the order of its row, values from a closed list."""
        assert _INFO[name].type == "counter", name
        assert len(_INFO[name].labels) == len(labels), name
        key = (name, labels)
        self._counters[key] = self._counters.get(key, 0) + amount

    def watch(self, name: str, read: Callable[[], float], *labels: str) -> None:
        """Have a counter read from where it is kept, at every dump: the decision log's drops, a cache's hits."""
        assert _INFO[name].type == "counter", name
        self._watched.append((name, labels, read))

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Have a gauge without labels read at every dump."""
        assert _INFO[name].type == "gauge", name
        self._read_gauges.append((name, read))

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
            (name, labels): n
            for (name, labels), n in self._counters.items()
            if "rollout" not in _INFO[name].labels or labels[0] in keys
        }

    def dump(self) -> Dump:
        """Everything counted so far, ready for JSON."""
        counters: list[list[Any]] = [[DECISIONS, list(labels), n] for labels, n in self._decisions.items()]
        counters += [[FALLBACKS, list(labels), n] for labels, n in self._fallbacks.items()]
        counters += [[name, list(labels), n] for (name, labels), n in self._counters.items()]
        counters += [[name, list(labels), read()] for name, labels, read in self._watched]
        return {
            "counters": counters,
            "histograms": [[STAGES, [stage], list(h.counts), h.sum] for stage, h in self._stages.items()],
            "gauges": self._gauges(),
        }

    def _gauges(self) -> list[list[Any]]:
        now = self._clock.monotonic()
        gauges: list[list[Any]] = [[name, [], read()] for name, read in self._read_gauges]
        if self._revision is not None:
            gauges += [[SNAPSHOT_REVISION, [], self._revision], [SNAPSHOT_AGE, [], now - self._confirmed]]
        if self._policy is not None:
            revision, since = self._policy
            gauges += [[POLICY_INFO, [revision], 1], [POLICY_AGE, [], now - since]]
        return gauges


class _Sums:
    """Dumps added up: counters and histograms by sum, gauges as their row of ``METRICS`` says."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, Labels], float] = {}
        self.histograms: dict[tuple[str, Labels], tuple[list[int], float]] = {}
        self.gauges: dict[tuple[str, Labels], float] = {}

    def add(self, dump: Mapping[str, Any], *, gauges: bool = True) -> None:
        for name, labels, value in dump["counters"]:
            key = (name, tuple(labels))
            self.counters[key] = self.counters.get(key, 0) + value
        for name, labels, counts, total in dump["histograms"]:
            key = (name, tuple(labels))
            before, sum_before = self.histograms.get(key, ([0] * len(counts), 0.0))
            self.histograms[key] = ([a + b for a, b in zip(before, counts, strict=True)], sum_before + total)
        for name, labels, value in dump["gauges"] if gauges else ():
            key = (name, tuple(labels))
            known = self.gauges.get(key, value)
            self.gauges[key] = min(known, value) if _INFO[name].over == "min" else max(known, value)

    def forget(self, keys: Collection[str]) -> None:
        """Drop the label sets of rollouts that are not among ``keys``."""
        self.counters = {
            (name, labels): value
            for (name, labels), value in self.counters.items()
            if "rollout" not in _INFO[name].labels or not labels[0] or labels[0] in keys
        }

    def as_dump(self) -> Dump:
        return {
            "counters": [[name, list(labels), value] for (name, labels), value in self.counters.items()],
            "histograms": [[name, list(labels), *both] for (name, labels), both in self.histograms.items()],
            "gauges": [],
        }

    def collect(self) -> Iterator[Metric]:
        """One family per metric, those without a sample too: what exists can be seen before it happens."""
        for info in METRICS:
            if info.type == "histogram":
                yield self._histogram(info)
                continue
            family: CounterMetricFamily | GaugeMetricFamily
            if info.type == "counter":
                family, values = CounterMetricFamily(info.name, info.help, labels=info.labels), self.counters
            else:
                family, values = GaugeMetricFamily(info.name, info.help, labels=info.labels), self.gauges
            rows = {labels: value for (name, labels), value in values.items() if name == info.name}
            if not rows and not info.labels and info.type == "counter":
                rows = {(): 0}
            for labels, value in sorted(rows.items()):
                family.add_metric(labels, value)
            yield family

    def _histogram(self, info: MetricInfo) -> HistogramMetricFamily:
        family = HistogramMetricFamily(info.name, info.help, labels=info.labels)
        for (name, labels), (counts, total) in sorted(self.histograms.items()):
            if name == info.name:
                family.add_metric(labels, _cumulated(counts), total)
        return family


class _Once:
    """A collector over sums that are already there, in the shape that prometheus-client registers."""

    def __init__(self, sums: _Sums) -> None:
        self._sums = sums

    def collect(self) -> Iterable[Metric]:
        return self._sums.collect()


def merge(dumps: Iterable[Mapping[str, Any]]) -> str:
    """The dumps of several processes as one exposition in Prometheus' text format."""
    sums = _Sums()
    for dump in dumps:
        sums.add(dump)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(sums))
    return generate_latest(registry).decode()


class Totals:
    """The supervisor's view: the last dump of every live process, and the sum of what dead ones had counted.

    Counters never go back when a worker is replaced; at most the counts since its last dump are lost.
    """

    def __init__(self) -> None:
        self._past = _Sums()
        self._live: dict[str, Mapping[str, Any]] = {}

    def update(self, process: str, dump: Mapping[str, Any]) -> None:
        """Take the newest dump of a live process; ``process`` names one life of a worker, not its slot."""
        self._live[process] = dump

    def retire(self, process: str) -> None:
        """The process is dead: keep its counts, forget its gauges."""
        dump = self._live.pop(process, None)
        if dump is not None:
            self._past.add(dump, gauges=False)

    def retain(self, keys: Collection[str]) -> None:
        """Forget what dead processes had counted for rollouts that are not among ``keys``.

        Live processes forget by themselves, so their dumps are left alone.
        """
        self._past.forget(keys)

    def exposition(self) -> str:
        """Everything, in Prometheus' text format."""
        return merge([self._past.as_dump(), *self._live.values()])


def _cumulated(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Counts per bucket as the cumulative ``le`` pairs that Prometheus wants."""
    pairs: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(str, STAGE_BUCKETS), "+Inf"), counts, strict=True):
        total += count
        pairs.append((bound, total))
    return pairs
