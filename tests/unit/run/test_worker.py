"""A worker's decision path as it is put together: what it does when the snapshot changes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from extproc.adapters.sqlite.features import FeatureRecord, SqliteFeatureStore
from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.control.acting import act
from extproc.control.actions import Apply, Delete, SetWeight
from extproc.datapath import feature_counts
from extproc.datapath.model import Request
from extproc.metrics.catalogue import DECISIONS, LOG_DROPS
from extproc.names import Reason
from extproc.resources.loading import load_valid
from extproc.run import worker
from extproc.run.worker import DecisionApplication
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.serve.worker_config import WorkerConfig
from tests.support.decisions import decisions_in
from tests.support.policies import sources_of
from tests.support.rollouts import CANARY, document

ASKED = Request("POST", "/v1/models/fraud-detector:predict", "models", "http", {"x-user-id": b"u-1"})
READS_METHOD = 'package routing\n\ndecision := {"allow": input.attributes.request.http.method == "POST"}\n'
READS_SCHEME = 'package routing\n\ndecision := {"allow": input.attributes.request.http.scheme == "http"}\n'


class Cycle:
    """What only a collection can free; gRPC leaves such behind every stream."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
async def application(tmp_path: Path) -> AsyncIterator[DecisionApplication]:
    """A worker's application over a store with one canary rollout."""
    apply(tmp_path, CANARY)
    page = HeartbeatPage.create()
    app = DecisionApplication(WorkerConfig(index=0, store=url(tmp_path), state=f"{tmp_path}/"), PolicySlot(page))
    app.load()
    yield app
    await app.close(5.0)
    page.close()
    gc.unfreeze()


def test_a_swap_does_not_keep_what_a_stream_left_behind(application: DecisionApplication, tmp_path: Path) -> None:
    left = weakref.ref(Cycle())
    swap(application, tmp_path)
    gc.collect()
    assert left() is None


def test_many_new_rollouts_are_frozen_without_the_garbage(
    application: DecisionApplication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_WORTH_FREEZING", 1)
    gc.unfreeze()
    left = weakref.ref(Cycle())
    swap(application, tmp_path)
    assert gc.get_freeze_count() > 0
    assert left() is None


async def test_a_decision_that_is_answered_is_counted(application: DecisionApplication) -> None:
    await application.process(Request("GET", "/nothing/here", "models", "http", {}))
    assert [DECISIONS.name, ["", "", "", "no_match"], 1] in orjson.loads(orjson.dumps(application.dump()["counters"]))


async def test_a_decision_of_a_rollout_that_is_gone_brings_its_counts_back_no_more(
    application: DecisionApplication, tmp_path: Path
) -> None:
    await application.process(ASKED)
    with_store(tmp_path, Delete("payments", "fraud-detector"))
    take_over(application)
    assert "payments/fraud-detector" not in orjson.dumps(application.dump()).decode()


async def test_what_is_told_and_logged_at_the_end_has_the_last_decision(
    application: DecisionApplication, tmp_path: Path
) -> None:
    page = HeartbeatPage.create()
    log = tmp_path / "decisions.log"
    state, sinks = f"{tmp_path}/", [f"file:{log}"]
    config = WorkerConfig(index=1, store=url(tmp_path), state=state, sinks=sinks, observed=True)
    observed = DecisionApplication(config, PolicySlot(page))
    observed.load()
    await observed.process(ASKED)
    assert observed.take_decided() is not None
    await observed.process(ASKED)
    await observed.close(5.0)
    page.close()
    assert len(decisions_in(log.read_bytes())) == 2


async def test_a_decision_is_logged_by_what_the_policy_read_that_was_asked(tmp_path: Path) -> None:
    apply(tmp_path, {**CANARY, "policy": {"path": "routing/decision"}})
    page = HeartbeatPage.create()
    policies = PolicySlot(page)
    log = tmp_path / "decisions.log"
    config = WorkerConfig(index=0, store=url(tmp_path), state=f"{tmp_path}/", sinks=[f"file:{log}"])
    app = DecisionApplication(config, policies)
    policies.swap(app.engine(sources_of(READS_METHOD).to_json()))
    app.load()
    counters = orjson.loads(orjson.dumps(app.dump()["counters"]))
    assert [LOG_DROPS.name, ["file"], 0] in counters  # an alert asks for its increase
    await app.process(ASKED)
    policies.swap(app.engine(sources_of(READS_SCHEME).to_json()))
    await app.close(5.0)
    page.close()
    (event,) = decisions_in(log.read_bytes())
    assert event["custom"]["reads"] == ["attributes.request.http.method"]


async def test_what_a_rollout_asks_for_and_nobody_has_is_told(tmp_path: Path) -> None:
    features = {"entity": {"header": "x-user-id"}, "view": "user_risk", "names": ["risk_score"]}
    apply(tmp_path, {**CANARY, "policy": {"path": "routing/nope"}, "features": features})
    page = HeartbeatPage.create()
    policies = PolicySlot(page)
    app = DecisionApplication(WorkerConfig(index=0, store=url(tmp_path), state=f"{tmp_path}/"), policies)
    app.load()

    def told() -> dict[str, str]:
        return {error["code"]: error["message"] for error in app.describe()["errors"]}

    assert told().keys() == {"policy_rule_missing", "feature_store_missing"}
    assert "no policies are served" in told()["policy_rule_missing"]
    policies.swap(app.engine(sources_of("package routing\n\ndecision := {}\n").to_json()))
    assert "no policy has it" in told()["policy_rule_missing"]
    policies.swap(app.engine(sources_of("package routing\n\nnope := {}\n").to_json()))
    assert told().keys() == {"feature_store_missing"}
    await app.close(5.0)
    page.close()


def swap(application: DecisionApplication, tmp_path: Path) -> None:
    """Change a weight and take the next snapshot over, as following the store does."""
    with_store(tmp_path, SetWeight("payments", "fraud-detector", 100))
    take_over(application)


def take_over(application: DecisionApplication) -> None:
    holder = application._holder
    snapshot = holder.refresh()
    assert snapshot is not None
    holder._swap(snapshot)


def apply(tmp_path: Path, spec: dict[str, Any]) -> None:
    """Make a store with a rollout of this spec, or change it."""
    (tmp_path / "rollout.json").write_text(orjson.dumps(document(spec)).decode())
    with_store(tmp_path, Apply(load_valid([tmp_path / "rollout.json"])))


def with_store(tmp_path: Path, action: Apply | SetWeight | Delete) -> None:
    store = open_store(url(tmp_path), create=True)
    act(store, "test", action, SystemClock())
    store.close()


def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'dropout.db'}"


async def test_a_rollout_that_waits_longer_than_a_decision_may_take_is_told(tmp_path: Path) -> None:
    features = {"entity": {"header": "x-user-id"}, "view": "v", "names": ["n"], "timeout": "1s"}
    apply(tmp_path, {**CANARY, "features": features})
    page = HeartbeatPage.create()
    config = WorkerConfig(
        index=0, store=url(tmp_path), state=f"{tmp_path}/", features=f"sqlite:{tmp_path}/f.db", decision_deadline=0.16
    )
    app = DecisionApplication(config, PolicySlot(page))
    app.load()
    (error,) = app.describe()["errors"]
    assert error["code"] == "timeout_beyond_deadline"
    assert "1s" in error["message"]
    assert "160ms" in error["message"]
    await app.close(5.0)
    page.close()


async def test_features_are_counted_by_the_views_that_documents_name_and_a_view_that_is_too_old_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_counts, "STALE_WINDOW_SECONDS", 0.0)
    features = {"entity": {"header": "x-user-id"}, "view": "user_risk", "names": ["risk_score"]}
    apply(tmp_path, {**CANARY, "features": {**features, "maxAge": "1h", "timeout": "3s"}})
    SqliteFeatureStore(tmp_path / "features.db").load([FeatureRecord("user_risk", "u-1", "risk_score", 0.5, 1.0)])
    page = HeartbeatPage.create()
    config = WorkerConfig(0, url(tmp_path), features=f"sqlite:{tmp_path}/features.db", state=f"{tmp_path}/")
    app = DecisionApplication(config, PolicySlot(page))
    app.load()

    def rows() -> dict[str, float]:
        dump = orjson.loads(orjson.dumps(app.dump()))
        counted = {
            name: value for name, labels, value in (*dump["counters"], *dump["gauges"]) if labels == ["user_risk"]
        }
        return counted | {
            name: sum(counts) for name, labels, counts, _ in dump["histograms"] if labels == ["user_risk"]
        }

    assert set(rows().values()) == {0}
    for _ in range(25):
        _, made_of = await app._pipeline.decide(ASKED)
        assert made_of.decision.reason is Reason.FEATURE_STALE
    counted = rows()
    assert counted["dropout_feature_stale_total"] == 25
    assert counted["dropout_feature_cache_hits_total"] == 24
    assert counted["dropout_feature_cache_misses_total"] == counted["dropout_feature_age_seconds"] == 1
    assert counted["dropout_features_stale"] == 1
    (stale,) = app.unanswered()
    assert (stale["code"], stale["view"], stale["rollout"]) == (
        "features_stale",
        "user_risk",
        "payments/fraud-detector",
    )
    with_store(tmp_path, Delete("payments", "fraud-detector"))
    take_over(app)
    assert (rows(), app.unanswered()) == ({}, [])
    await app.close(5.0)
    page.close()
