"""What a decision is made from, where gathering it goes wrong."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from extproc.datapath import gather
from extproc.datapath.embedded_policy import Embedded
from extproc.datapath.model import PolicyVerdict, Request
from extproc.datapath.pipeline import Pipeline
from extproc.datapath.policy_input import EVERYTHING, InputPaths
from extproc.names import Reason
from extproc.snapshot.model import PolicyUse
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
    policies = SimpleNamespace(current=Embedded(engine_of('package routing\n\ndecision := {"allow": false}\n')))
    pipeline = Pipeline(SimpleNamespace(current=snapshot(rollout)), policies, None, make_ids(), FakeClock())
    request = Request("POST", "/v1/models/fraud-detector", "h", "http", {"x-user-id": b"alice"})
    mutation, made_of = await pipeline.decide(request)
    assert made_of.decision.reason is Reason.POLICY_ERROR
    assert (mutation.denial.http_status if mutation.denial else None) == status


class Asked:
    """An engine that somebody must be waited for, for as long as it says that it was given."""

    revision = "elsewhere"

    def __init__(self, verdict: PolicyVerdict) -> None:
        self._verdict = verdict
        self.within: list[float] = []

    def known(self, path: str, document: Any) -> None:
        return None

    async def fetch(self, use: PolicyUse, document: Any, within: float) -> PolicyVerdict:
        assert document["unit"] == "alice"
        self.within.append(within)
        return self._verdict

    def reads(self, path: str) -> InputPaths:
        return EVERYTHING

    def can_deny(self, path: str) -> bool:
        return True

    def has(self, path: str) -> bool:
        return True


@pytest.mark.parametrize(
    ("deadline", "written", "within"), [(inf, "20ms", 0.02), (0.01, "20ms", 0.01), (4.0, None, 0.01)]
)
async def test_a_verdict_that_is_not_known_is_asked_for_within_its_timeout_and_the_deadline(
    deadline: float, written: str | None, within: float
) -> None:
    engine = Asked(PolicyVerdict(version="3"))
    policy = {"path": "routing/decision"} | ({"timeout": written} if written else {})
    holder = SimpleNamespace(current=snapshot(canary(10_000, policy=policy)))
    pipeline = Pipeline(holder, SimpleNamespace(current=engine), None, make_ids(), FakeClock(), None, deadline)
    request = Request("POST", "/v1/models/fraud-detector", "h", "http", {"x-user-id": b"alice"})
    _, made_of = await pipeline.decide(request)
    assert (made_of.decision.reason, engine.within) == (Reason.POLICY_PIN, [within])


@pytest.mark.parametrize(("on_error", "status"), [("deny", 403), ("stable", None), (None, 403)])
async def test_a_verdict_that_does_not_come_in_time_ends_at_on_error(on_error: str | None, status: int | None) -> None:
    engine = Asked(PolicyVerdict(allow=False, fault=Reason.POLICY_TIMEOUT))
    rollout = canary(10_000, policy={"path": "routing/decision", "onError": on_error})
    holder = SimpleNamespace(current=snapshot(rollout))
    pipeline = Pipeline(holder, SimpleNamespace(current=engine), None, make_ids(), FakeClock())
    request = Request("POST", "/v1/models/fraud-detector", "h", "http", {"x-user-id": b"alice"})
    mutation, made_of = await pipeline.decide(request)
    assert made_of.decision.reason is Reason.POLICY_TIMEOUT
    assert (mutation.denial.http_status if mutation.denial else None) == status
