"""Rollouts, facts and decisions to write down, count and replay, without a document or a store."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson

from extproc.assignment import BucketRange
from extproc.datapath.model import Buckets, Decision, Facts, Features, FeatureValue, PolicyVerdict, Request, Unit
from extproc.datapath.ports import DecisionRecord
from extproc.decision_id import arm_codes, hashed_number
from extproc.names import Reason
from extproc.snapshot.model import NO_OVERLAY, CompiledRollout, PolicyUse, UnitSource

KEY = b"k" * 32


def make_rollout(**changes: Any) -> CompiledRollout:
    """``payments/fraud-detector`` at 5 percent of version 4, with a policy and one feature that may be written."""
    made = CompiledRollout(
        key="payments/fraud-detector",
        namespace="payments",
        name="fraud-detector",
        model="fraud-detector",
        match=(),
        epoch=1,
        number=hashed_number("payments/fraud-detector", 1),
        epoch_id=1,
        attempt=1,
        unit=UnitSource(header="x-user-id"),
        seed=b"payments/fraud-detector@4",
        stable="3",
        canary="4",
        experiment=False,
        arms=(),
        ranges={"canary": BucketRange(0, 500)},
        versions=frozenset({"3", "4"}),
        upstreams={"3": "fraud-detector-v3", "4": "fraud-detector-v4"},
        aborted=frozenset(),
        arm_codes=arm_codes([]),
        breaker=None,
        holdout=None,
        layer=None,
        shadow=None,
        features=None,
        policy=PolicyUse("routing/decision", deny_on_error=False),
        log_headers=frozenset({"x-region"}),
        log_features=frozenset({"risk_score"}),
        weight=500,
        policy_input={
            "namespace": "payments",
            "name": "fraud-detector",
            "model": "fraud-detector",
            "stable": "3",
            "canary": "4",
            "versions": ["3", "4"],
        },
        plan=orjson.dumps({"spec": {"model": "fraud-detector"}, "status": {"stable": "3", "canary": "4"}}),
    )
    return dataclasses.replace(made, **changes)


def make_facts(**changes: Any) -> Facts:
    """A unit in bucket 123 whose risk is 0.2 and whom the policy allows everything."""
    made = Facts(
        unit=Unit(b"alice"),
        buckets=Buckets(unit=123),
        features=Features({"risk_score": FeatureValue(0.2, 12.5, "cache")}),
        verdict=PolicyVerdict(versions=frozenset({"4", "3"})),
        policy_input={
            "attributes": {"request": {"http": {"method": "POST", "path": "/v1", "headers": {"x-region": "eu"}}}},
            "features": {"risk_score": 0.2},
            "time": "2027-01-15T08:00:00Z",
        },
    )
    return made._replace(**changes)


def make_decision(**changes: Any) -> Decision:
    """Alice gets the canary by weight."""
    made = Decision(
        decision_id="d-1",
        revision=7,
        policy_revision="abc123",
        rollout="payments/fraud-detector",
        epoch=1,
        arm="canary",
        unit=b"alice",
        bucket=123,
        ranges={"canary": BucketRange(0, 500)},
        version="4",
        upstream="fraud-detector-v4",
        shadow=None,
        reason=Reason.WEIGHT,
        features={"risk_score": FeatureValue(0.2, 12.5, "cache")},
        stage_us={"match": 3.1, "policy": 21.7, "decide": 5.25, "total": 44.0},
    )
    return dataclasses.replace(made, **changes)


def make_request(**changes: Any) -> Request:
    """Alice's request."""
    made = Request(
        method="POST", path="/v1", host="models", scheme="http", headers={"x-user-id": b"alice", "x-region": b"eu"}
    )
    return dataclasses.replace(made, **changes)


def make_decided(**changes: Any) -> DecisionRecord:
    """A decision and what it was made from, each as the functions above make it unless ``changes`` has it."""
    made = DecisionRecord(make_decision(), make_request(), make_facts(), make_rollout(), NO_OVERLAY)
    return made._replace(**changes)


def decisions_in(log: bytes) -> list[dict[str, Any]]:
    """The decisions in a log, whole lines alone, without the plans that they refer to."""
    events = [orjson.loads(line) for line in log.splitlines(keepends=True) if line.endswith(b"\n")]
    return [event for event in events if event.get("kind") != "plan"]
