"""What a decision's id says is how the decision came out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from xxhash import xxh64_intdigest

from extproc.datapath.embedded_policy import Embedded
from extproc.datapath.model import Decision, Mutation, Request
from extproc.datapath.pipeline import Pipeline
from extproc.decision_id import arm_codes, hashed_number
from extproc.snapshot.model import CompiledRollout
from tests.support.clock import FakeClock
from tests.support.ids import make_ids, opened
from tests.support.policies import engine_of
from tests.support.rollouts import canary, experiment, snapshot

KEY = "payments/fraud-detector"
PATH = "/v1/models/fraud-detector"


async def decided(
    rollout: CompiledRollout, headers: dict[str, bytes] | None = None, path: str = PATH, engine: Any = None, **made: Any
) -> tuple[Mutation, Decision]:
    ids = made.pop("ids", None) or make_ids()
    policies = SimpleNamespace(current=engine)
    pipeline = Pipeline(SimpleNamespace(current=snapshot(rollout)), policies, None, ids, FakeClock())
    mutation, made_of = await pipeline.decide(
        Request("POST", path, "h", "http", headers if headers is not None else {})
    )
    return mutation, made_of.decision


@pytest.mark.parametrize(
    ("rollout", "arm"),
    [(canary(10_000), "canary"), (canary(0), "control"), (experiment(), "treatment"), (experiment(), "control")],
)
async def test_an_id_says_epoch_arm_and_group(rollout: CompiledRollout, arm: str) -> None:
    units = (f"user-{number}".encode() for number in range(1000))
    for unit in units:
        mutation, decision = await decided(rollout, {"x-user-id": unit})
        if decision.arm == arm:
            break
    assert dict(mutation.set_headers)["x-decision-id"] == decision.decision_id.encode()
    said = opened(decision.decision_id)
    assert said.number == hashed_number(KEY, 1)
    codes = arm_codes(["treatment", "control"] if rollout.experiment else [])
    assert said.arm == codes[arm]
    assert said.group == xxh64_intdigest(b"fraud-2026-11:" + unit) // 10_000 % 256
    assert said.at == FakeClock().now()


async def test_units_spread_over_all_groups_whatever_their_bucket() -> None:
    groups = []
    for number in range(2000):
        _, decision = await decided(canary(10_000), {"x-user-id": b"user-%d" % number})
        groups.append(opened(decision.decision_id).group)
    assert len(set(groups)) > 250
    assert max(groups.count(group) for group in set(groups)) < 30


async def test_an_id_for_nobody_in_particular_says_nothing() -> None:
    mutation, decision = await decided(canary(10_000), path="/elsewhere")
    said = opened(decision.decision_id)
    assert (said.number, said.arm, said.group) == (0, 0, 0)
    assert "x-decision-id" not in dict(mutation.set_headers)


async def test_a_request_without_a_unit_is_in_no_arm() -> None:
    _, decision = await decided(canary(10_000))
    said = opened(decision.decision_id)
    assert (said.number, said.arm, said.group) == (hashed_number(KEY, 1), 0, 0)


async def test_a_denied_request_gets_an_id_too() -> None:
    rollout = canary(10_000, policy={"path": "routing/decision"})
    engine = Embedded(engine_of('package routing\n\ndecision := {"allow": false}\n'))
    mutation, decision = await decided(rollout, {"x-user-id": b"alice"}, engine=engine)
    assert mutation.denial is not None
    assert opened(dict(mutation.set_headers)["x-decision-id"].decode()).arm == 0
    assert decision.decision_id in (mutation.denial.body or "")


async def test_requests_without_a_unit_are_drawn_one_by_one() -> None:
    rollout, ids = canary(5000, unit={"header": "x-user-id", "missing": "request"}), make_ids()
    decisions = [(await decided(rollout, ids=ids))[1] for _ in range(400)]
    assert 140 < sum(decision.version == "4" for decision in decisions) < 260
    assert {opened(decision.decision_id).arm for decision in decisions} == {0}
    by_request_id = [(await decided(rollout, {"x-request-id": b"r"}, ids=ids))[1].version for _ in range(20)]
    assert len(set(by_request_id)) == 1
