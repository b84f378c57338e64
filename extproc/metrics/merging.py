"""The counts of several processes as one: summed, kept beyond the death of those that counted them, and exposed.

The supervisor collects the dumps of its processes and renders one exposition with prometheus-client.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, assert_never

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Family

from extproc.metrics.catalogue import METRICS, AnyMetric, Counter, Gauge, Histogram
from extproc.metrics.counting import Dump, Labels

_COUNTERS: Final = tuple(metric for metric in METRICS if isinstance(metric, Counter))
_GAUGES: Final = {metric.name: metric for metric in METRICS if isinstance(metric, Gauge)}
_OF_ROLLOUTS: Final = tuple(counter for counter in _COUNTERS if "rollout" in counter.labels)
_OF_VIEWS: Final = frozenset(metric.name for metric in METRICS if metric.labels == ("view",))


class _Sums:
    """Dumps added up: counters and histograms by sum, gauges as the catalogue says.

    By the metric's name, then by its labels.
    """

    def __init__(self) -> None:
        self.counters: dict[str, dict[Labels, float]] = {}
        self.histograms: dict[str, dict[Labels, tuple[list[int], float]]] = {}
        self.gauges: dict[str, dict[Labels, float]] = {}

    def add(self, dump: Mapping[str, Any], *, gauges: bool = True) -> None:
        for name, labels, value in dump["counters"]:
            counts, key = self.counters.setdefault(name, {}), tuple(labels)
            counts[key] = counts.get(key, 0) + value
        for name, labels, buckets, total in dump["histograms"]:
            observed, key = self.histograms.setdefault(name, {}), tuple(labels)
            before, sum_before = observed.get(key, ([0] * len(buckets), 0.0))
            observed[key] = ([a + b for a, b in zip(before, buckets, strict=True)], sum_before + total)
        for name, labels, value in dump["gauges"] if gauges else ():
            values, key = self.gauges.setdefault(name, {}), tuple(labels)
            known = values.get(key, value)
            values[key] = min(known, value) if _GAUGES[name].over == "min" else max(known, value)

    def forget(self, keys: Collection[str]) -> None:
        """Drop the label sets of rollouts that are not among ``keys``."""
        for name in (counter.name for counter in _OF_ROLLOUTS if counter.name in self.counters):
            counts = self.counters[name]
            self.counters[name] = {key: n for key, n in counts.items() if not key[0] or key[0] in keys}

    def forget_views(self, known: Collection[Labels]) -> None:
        """Drop what was counted of views that are not among ``known``."""
        for samples in (self.counters, self.histograms):
            for name in _OF_VIEWS & samples.keys():
                for gone in samples[name].keys() - known:
                    del samples[name][gone]

    def as_dump(self) -> Dump:
        return {
            "counters": [[name, list(key), n] for name, counts in self.counters.items() for key, n in counts.items()],
            "histograms": [
                [name, list(key), *both] for name, observed in self.histograms.items() for key, both in observed.items()
            ],
            "gauges": [],
        }

    def collect(self) -> Iterator[Family]:
        """One family per metric, those without a sample too: what exists can be seen before it happens."""
        return map(self._family, METRICS)

    def _family(self, metric: AnyMetric) -> Family:
        match metric:
            case Counter(name, text, labels):
                counter = CounterMetricFamily(name, text, labels=labels)
                _fill(counter, dict.fromkeys(_from_the_start(metric), 0.0) | self.counters.get(name, {}))
                return counter
            case Gauge(name, text, labels):
                gauge = GaugeMetricFamily(name, text, labels=labels)
                _fill(gauge, self.gauges.get(name, {}))
                return gauge
            case Histogram(name, text, labels, bounds):
                histogram = HistogramMetricFamily(name, text, labels=labels)
                for values, (counts, total) in sorted(self.histograms.get(name, {}).items()):
                    histogram.add_metric(values, _cumulated(bounds, counts), total)
                return histogram
            case _:
                assert_never(metric)


class _Once:
    """A collector over sums that are already there, in the shape that prometheus-client registers."""

    def __init__(self, sums: _Sums) -> None:
        self._sums = sums

    def collect(self) -> Iterable[Family]:
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
        """Forget what dead processes had counted for rollouts that are not among ``keys``, and for views of none.

        Live processes forget by themselves, so their dumps are left alone.
        """
        self._past.forget(keys)
        if self._live:
            live = (dump["counters"] for dump in self._live.values())
            self._past.forget_views({tuple(row[1]) for rows in live for row in rows if row[0] in _OF_VIEWS})

    def dumps(self) -> list[Mapping[str, Any]]:
        """Everything as it is now, for ``merge``: what happens to the totals later does not change it."""
        return [self._past.as_dump(), *self._live.values()]


def _fill(family: CounterMetricFamily | GaugeMetricFamily, samples: Mapping[Labels, float]) -> None:
    for labels, value in sorted(samples.items()):
        family.add_metric(labels, value)


def _from_the_start(counter: Counter) -> list[Labels]:
    """The series that a counter has before anything happened."""
    return [(value,) for value in counter.values] if counter.labels else [()]


def _cumulated(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Counts per bucket as the cumulative ``le`` pairs that Prometheus wants."""
    return list(zip((*map(str, bounds), "+Inf"), map(float, accumulate(counts)), strict=True))
