"""What a worker tells of its features: by view, of the cache, of the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from extproc.metrics.catalogue import (
    CACHE_BYTES,
    CACHE_ENTRIES,
    CACHE_HITS,
    CACHE_MISSES,
    CACHE_REFUSED,
    FEATURE_AGE,
    FEATURE_ERRORS,
    FEATURE_OPENINGS,
    FEATURE_READ_SECONDS,
    FEATURE_STALE,
    FEATURE_STORE_UP,
    FEATURES_LIMITED,
    FEATURES_STALE,
)

if TYPE_CHECKING:
    from extproc.datapath.features import FeatureReader
    from extproc.metrics.counting import HistogramRow, Metrics, Row


def watch_features(metrics: Metrics, features: FeatureReader) -> None:
    """Have what ``features`` counts read at every dump."""
    shares = features.shares
    metrics.watch(CACHE_REFUSED, lambda: sum(share.cache.refused for share in shares))
    metrics.gauge(CACHE_BYTES, lambda: sum(share.cache.bytes for share in shares))
    metrics.gauge(CACHE_ENTRIES, lambda: sum(len(share.cache) for share in shares))
    metrics.watch(FEATURES_LIMITED, lambda: sum(share.limited for share in shares))
    metrics.watch(FEATURE_OPENINGS, lambda: features.reads.openings)
    metrics.gauge(FEATURE_STORE_UP, lambda: float(not features.reads.is_left_alone))
    metrics.rows(lambda: _of_views(features))
    metrics.histograms(lambda: _spreads(features))


def _of_views(features: FeatureReader) -> Iterator[Row]:
    stale = features.stale_views()
    for view, counts in features.views.items():
        yield CACHE_HITS, (view,), counts.hits
        yield CACHE_MISSES, (view,), counts.misses
        yield FEATURE_ERRORS, (view,), counts.errors
        yield FEATURE_STALE, (view,), counts.stale
        yield FEATURES_STALE, (view,), float(view in stale)


def _spreads(features: FeatureReader) -> Iterator[HistogramRow]:
    for view, counts in features.views.items():
        yield FEATURE_READ_SECONDS, (view,), counts.latency.counts, counts.latency.sum
        yield FEATURE_AGE, (view,), counts.age.counts, counts.age.sum
