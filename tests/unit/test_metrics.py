"""Metrics: what is counted, what the labels may be, and that nothing is lost or doubled over workers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from extproc.metrics.catalogue import (
    ABORTS,
    CACHE_HITS,
    FEATURE_AGE,
    KILLS,
    LOG_DROPS,
    METRICS,
    OBSERVER_SURPLUS,
    RELOADS_REFUSED,
    STAGE_BUCKETS,
    STAGES,
    TRIPS,
    Counter,
    Gauge,
    Histogram,
)
from extproc.metrics.counting import Metrics
from extproc.metrics.merging import Totals, merge
from extproc.names import Reason
from tests.support.clock import FakeClock
from tests.support.decisions import make_decided, make_decision
from tests.support.paths import ROOT


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What Prometheus reads: (name, labels) -> value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float | None:
    return samples(text).get((name, tuple(sorted(labels.items()))))


def decide(metrics: Metrics, **changes: Any) -> None:
    metrics.record(make_decided(decision=make_decision(**changes)))


def dumped(metrics: Metrics) -> dict[str, Any]:
    """A dump as it arrives in the supervisor."""
    dump: dict[str, Any] = json.loads(json.dumps(metrics.dump()))
    return dump


def test_decisions_are_counted_by_rollout_version_arm_and_reason() -> None:
    metrics = Metrics(FakeClock())
    decide(metrics)
    decide(metrics)
    decide(metrics, arm="control", version="3")
    text = merge([dumped(metrics)])
    labels = {"rollout": "payments/fraud-detector", "reason": "weight"}
    assert value(text, "dropout_decisions_total", version="4", arm="canary", **labels) == 2
    assert value(text, "dropout_decisions_total", version="3", arm="control", **labels) == 1


def test_a_decision_without_a_rollout_has_empty_labels() -> None:
    metrics = Metrics(FakeClock())
    decide(metrics, rollout=None, version=None, arm=None, reason=Reason.NO_MATCH)
    text = merge([dumped(metrics)])
    assert value(text, "dropout_decisions_total", rollout="", version="", arm="", reason="no_match") == 1


def test_fallbacks_are_counted_by_reason() -> None:
    metrics = Metrics(FakeClock())
    decide(metrics, fallbacks=("feature_missing", "unit_missing"))
    text = merge([dumped(metrics)])
    assert value(text, "dropout_fallbacks_total", rollout="payments/fraud-detector", reason="unit_missing") == 1


def test_stages_are_histograms_in_seconds_with_cumulated_buckets() -> None:
    metrics = Metrics(FakeClock())
    decide(metrics, stage_us={"policy": 21.0})
    decide(metrics, stage_us={"policy": 25.0})
    decide(metrics, stage_us={"policy": 999_999.0})
    text = merge([dumped(metrics)])
    assert value(text, "dropout_stage_seconds_bucket", stage="policy", le="1e-05") == 0
    assert value(text, "dropout_stage_seconds_bucket", stage="policy", le="2.5e-05") == 2
    assert value(text, "dropout_stage_seconds_bucket", stage="policy", le="0.05") == 2
    assert value(text, "dropout_stage_seconds_bucket", stage="policy", le="+Inf") == 3
    assert value(text, "dropout_stage_seconds_count", stage="policy") == 3
    assert value(text, "dropout_stage_seconds_sum", stage="policy") == pytest.approx(1.000045)


def test_a_thousand_units_make_no_label() -> None:
    metrics = Metrics(FakeClock())
    for number in range(1000):
        decide(metrics, unit=b"%d" % number, bucket=number)
    assert len(dumped(metrics)["counters"]) == 1


def test_workers_are_summed_histograms_too() -> None:
    workers = [Metrics(FakeClock()) for _ in range(3)]
    for count, worker in enumerate(workers, start=1):
        for _ in range(count):
            decide(worker, stage_us={"policy": 21.0})
    text = merge(map(dumped, workers))
    labels = {"rollout": "payments/fraud-detector", "version": "4", "arm": "canary", "reason": "weight"}
    assert value(text, "dropout_decisions_total", **labels) == 6
    assert value(text, "dropout_stage_seconds_bucket", stage="policy", le="2.5e-05") == 6
    assert value(text, "dropout_stage_seconds_sum", stage="policy") == pytest.approx(6 * 21e-6)


def test_gauges_show_the_worker_that_is_furthest_behind() -> None:
    clock = FakeClock()
    behind, current = Metrics(clock), Metrics(clock)
    behind.snapshot(6)
    behind.policy("aaa")
    clock.advance(30)
    current.snapshot(7)
    current.policy("bbb")
    text = merge([dumped(behind), dumped(current)])
    assert value(text, "dropout_snapshot_revision") == 6
    assert value(text, "dropout_snapshot_age_seconds") == 30
    assert value(text, "dropout_policy_age_seconds") == 30
    assert value(text, "dropout_policy_info", revision="aaa") == 1
    assert value(text, "dropout_policy_info", revision="bbb") == 1


def test_a_confirmed_snapshot_is_young_again() -> None:
    clock = FakeClock()
    metrics = Metrics(clock)
    metrics.snapshot(7)
    clock.advance(30)
    metrics.snapshot_confirmed(clock.monotonic())
    assert value(merge([dumped(metrics)]), "dropout_snapshot_age_seconds") == 0


def test_counters_kept_elsewhere_are_read_at_each_dump() -> None:
    metrics = Metrics(FakeClock())
    drops = [0]
    metrics.watch(LOG_DROPS, lambda: drops[0], "file")
    drops[0] = 5
    metrics.count(RELOADS_REFUSED, "policies")
    text = merge([dumped(metrics)])
    assert value(text, "dropout_decision_log_drops_total", sink="file") == 5
    assert value(text, "dropout_reloads_refused_total", what="policies") == 1


def test_a_deleted_rollout_is_gone_and_no_match_stays() -> None:
    metrics = Metrics(FakeClock())
    decide(metrics, fallbacks=("feature_missing",))
    decide(metrics, rollout="default/other")
    decide(metrics, rollout=None)
    metrics.retain({"default/other"})
    text = merge([dumped(metrics)])
    assert "payments/fraud-detector" not in text
    assert 'rollout="default/other"' in text
    assert 'rollout=""' in text


def test_totals_keep_what_dead_workers_counted_and_forget_their_gauges() -> None:
    totals = Totals()
    worker = Metrics(FakeClock())
    worker.snapshot(7)
    decide(worker, stage_us={"policy": 21.0})
    totals.update("0/100", dumped(worker))
    totals.retire("0/100")
    totals.retire("0/100")
    successor = Metrics(FakeClock())
    decide(successor, stage_us={"policy": 21.0})
    totals.update("0/101", dumped(successor))
    totals.update("0/101", dumped(successor))
    text = merge(totals.dumps())
    labels = {"rollout": "payments/fraud-detector", "version": "4", "arm": "canary", "reason": "weight"}
    assert value(text, "dropout_decisions_total", **labels) == 2
    assert value(text, "dropout_stage_seconds_count", stage="policy") == 2
    assert value(text, "dropout_snapshot_revision") is None


def test_totals_forget_what_dead_workers_counted_of_views_that_no_document_names_any_more() -> None:
    totals = Totals()
    dead, alive = Metrics(FakeClock()), Metrics(FakeClock())
    for metrics, views in ((dead, ("gone", "user_risk")), (alive, ("user_risk",))):
        for view in views:
            metrics.count(CACHE_HITS, view)
        metrics.histograms(lambda views=views: [(FEATURE_AGE, (view,), [1] * 10, 1.0) for view in views])  # type: ignore[misc]
    totals.update("0/100", dumped(dead))
    totals.retire("0/100")
    totals.retain(())
    assert value(merge(totals.dumps()), "dropout_feature_cache_hits_total", view="gone") == 1
    totals.update("0/101", dumped(alive))
    totals.retain(())
    text = merge(totals.dumps())
    assert 'view="gone"' not in text
    assert value(text, "dropout_feature_cache_hits_total", view="user_risk") == 2


def test_totals_forget_deleted_rollouts_of_dead_workers() -> None:
    totals = Totals()
    worker = Metrics(FakeClock())
    decide(worker)
    totals.update("0/100", dumped(worker))
    totals.retire("0/100")
    totals.retain(set())
    assert "payments/fraud-detector" not in merge(totals.dumps())


def test_what_is_merged_stays_as_it_was_when_a_worker_ends_meanwhile() -> None:
    totals = Totals()
    for number, rollout in enumerate(("default/first", "default/second")):
        worker = Metrics(FakeClock())
        decide(worker, rollout=rollout)
        totals.update(f"0/{number}", dumped(worker))
    totals.retire("0/0")
    dumps = totals.dumps()
    before = merge(dumps)
    totals.retire("0/1")
    totals.retain(set())
    assert merge(dumps) == before
    assert 'rollout="default/second"' in before


def test_every_metric_is_exported_before_anything_happened_and_no_other() -> None:
    families = {family.name: family for family in text_string_to_metric_families(merge([]))}
    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.type, metric.help)


def test_a_counter_of_a_closed_list_has_all_of_it_at_0_before_and_after_workers_are_merged() -> None:
    worker = Metrics(FakeClock())
    decide(worker, fallbacks=("policy_error", "unit_missing"))
    for text, errors in ((merge([]), 0), (merge(map(dumped, (worker, worker))), 2)):
        assert value(text, "dropout_policy_faults_total", reason="policy_error") == errors
        assert value(text, "dropout_policy_faults_total", reason="policy_timeout") == 0
        assert value(text, "dropout_reloads_refused_total", what="envoy") == 0


def test_what_alerts_ask_the_increase_of_is_there_before_its_first_event() -> None:
    asked = set(re.findall(r"increase\((dropout_\w+)\[", (ROOT / "envoy" / "alerts.yaml").read_text()))
    from_the_start = {name for name, _ in samples(merge([]))}
    of_a_rollout = {TRIPS.name, ABORTS.name, KILLS.name}  # as unit/serve/supervisor/test_rollout_gauges.py says
    of_a_sink = {LOG_DROPS.name}  # as unit/run/test_worker.py says
    assert asked - from_the_start - of_a_rollout - of_a_sink == {
        OBSERVER_SURPLUS.name
    }  # as contract/test_observer.py says


def test_every_metric_has_the_labels_that_its_row_says() -> None:
    metrics = Metrics(FakeClock())
    metrics.snapshot(1)
    metrics.policy("aaa")
    decide(metrics, fallbacks=("unit_missing",))
    for metric in METRICS:
        if isinstance(metric, Counter):
            metrics.count(metric, *metric.labels)
    metrics.rows(lambda: [(metric, metric.labels, 1.0) for metric in METRICS if isinstance(metric, Gauge)])
    of_views = [metric for metric in METRICS if isinstance(metric, Histogram) and metric is not STAGES]
    metrics.histograms(lambda: [(each, each.labels, [0] * (len(each.buckets) + 1), 0.0) for each in of_views])
    found = samples(merge([dumped(metrics)]))
    for metric in METRICS:
        names = {metric.name, f"{metric.name}_count"}
        labels = {tuple(sorted(metric.labels))}
        assert {tuple(key for key, _ in pairs) for name, pairs in found if name in names} == labels, metric.name


def test_the_buckets_span_five_microseconds_to_fifty_milliseconds() -> None:
    assert (STAGE_BUCKETS[0], STAGE_BUCKETS[-1]) == (5e-6, 50e-3)
    assert list(STAGE_BUCKETS) == sorted(STAGE_BUCKETS)
