"""What a decision is made from, where gathering it goes wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from extproc.datapath import gather
from extproc.datapath.model import Request
from extproc.datapath.pipeline import Pipeline
from extproc.names import Reason
from tests.support.clock import FakeClock
from tests.support.ids import make_ids
from tests.support.policies import engine_of
from tests.support.rollouts import canary, snapshot


@pytest.mark.parametrize(("on_error", "status"), [("deny", 403), ("stable", None), (None, 403)])
async def test_an_input_that_cannot_be_built_ends_at_on_error(
    on_error: str | None, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(gather, "build_input", fail)
    rollout = canary(10_000, policy={"path": "routing/decision", "onError": on_error})
    policies = SimpleNamespace(current=engine_of('package routing\n\ndecision := {"allow": false}\n'))
    pipeline = Pipeline(SimpleNamespace(current=snapshot(rollout)), policies, None, make_ids(), FakeClock())
    request = Request("POST", "/v1/models/fraud-detector", "h", "http", {"x-user-id": b"alice"})
    mutation, made_of = await pipeline.decide(request)
    assert made_of.decision.reason is Reason.POLICY_ERROR
    assert (mutation.denial.http_status if mutation.denial else None) == status
