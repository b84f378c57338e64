"""Masks and drops in a process of their own: what they say, and what becomes of events when they cannot say it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from extproc.adapters.regorus import log_policies
from extproc.adapters.regorus.log_policies import QUARANTINE_SECONDS, LogPolicies
from extproc.datapath.sinks.masking import MaskError
from tests.support.clock import FakeClock
from tests.support.pages import blocks, page
from tests.support.policies import sources_of

LIMIT = 0.3
MASKS = """package system.log

mask contains "/input/secret"

mask contains {"op": "upsert", "path": "/input/name", "value": data.shown.name} if input.input.name

drop := input.input.drop

hidden := [1 | some _ in numbers.range(1, 4000); some _ in numbers.range(1, 4000)] if input.input.hang
mask contains sprintf("/input/%d", [count(hidden)])

twice := 1 if input.input.twice
twice := 2 if input.input.twice
mask contains sprintf("/input/%d", [twice])
"""

BOTH = {"log.rego": MASKS, "shown.rego": "package shown\n\nname := upper(input.input.name)\n"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def policies(clock: FakeClock) -> Iterator[LogPolicies]:
    made = LogPolicies(LIMIT, clock.monotonic)
    yield made
    made.close()


def event(**given: Any) -> bytes:
    return json.dumps({"input": given, "custom": {"reads": []}}).encode()


def of(judged: bytes | MaskError | None) -> Any:
    return json.loads(judged) if isinstance(judged, bytes) else str(judged) if judged else None


def test_events_are_masked_dropped_or_as_they_were_and_other_policies_hold_from_the_next_on(
    policies: LogPolicies,
) -> None:
    assert not policies.asked
    assert policies.judge([event(secret=1)]) == [event(secret=1)]
    policies.use(sources_of(BOTH))
    assert policies.asked
    events = [event(a=10**30), event(secret=1, big=10**30), event(drop=True), event(name="ü"), event(drop="yes")]
    kept, erased, dropped, masked, odd = policies.judge(events * 10)[-5:]
    assert kept == events[0]
    assert of(erased)["input"] == {"big": 10**30}
    assert of(erased)["erased"] == ["/input/secret"]
    assert dropped is None
    assert of(masked) == {"input": {"name": "Ü"}, "masked": ["/input/name"], "custom": {"reads": []}}
    assert odd == events[4]  # drop is "yes", and no true
    policies.use(sources_of({"log.rego": 'package system.log\n\nmask := "/input"\n'}))
    assert of(policies.judge([event(a=1)])[0]) == "the mask is no set and no array"
    policies.use(None)
    assert policies.judge([event(secret=1)]) == [event(secret=1)]


def test_the_masks_of_the_guide_do_what_it_says(policies: LogPolicies) -> None:
    (rego,) = (block.text for block in blocks(page("operate/decision-logs"), "rego"))
    policies.use(sources_of({"log.rego": rego}))
    income = {"features": {"income": 41_234}}
    http = {"http": {"headers": {"x-account": "4711", "x-region": "eu"}}}
    kept = {
        "input": {**income, "attributes": {"request": http}},
        "result": {
            "rollout": "payments/fraud-detector",
            "features": {"income": {"value": 41_234, "age": 1.0}},
            "policy": {"reason": "41 234 is little"},
        },
    }
    dropped = {"input": {}, "result": {"rollout": "platform/health-check"}}
    masked, nothing = policies.judge([json.dumps(each).encode() for each in (kept, dropped)])
    assert nothing is None
    assert b"4711" not in bytes(masked)
    assert b"234" not in bytes(masked)
    found = of(masked)
    assert found["input"]["features"] == {"income": 41_000}
    assert found["erased"] == ["/input/attributes/request/http/headers/x-account", "/result/features/income/value"]
    assert found["masked"] == ["/input/features/income", "/result/policy/reason"]


def test_an_event_that_cannot_be_judged_is_not_written_and_says_nothing_of_itself(policies: LogPolicies) -> None:
    policies.use(sources_of(BOTH))
    failed, well = policies.judge([event(twice="geheim", secret="geheim"), event(secret=1)])
    assert isinstance(failed, MaskError)
    assert "geheim" not in str(failed)
    assert of(well)["erased"] == ["/input/secret"]


def test_halves_of_characters_are_what_opa_makes_of_them(policies: LogPolicies) -> None:
    policies.use(sources_of(BOTH))
    odd = b'{"input":{"secret":1,"a":"\\ud800","b":"\\ud83d\\ude00"},"custom":{}}'
    assert of(policies.judge([odd])[0])["input"] == {"a": "\ufffd", "b": "\U0001f600"}


def test_an_evaluation_without_an_end_costs_its_event_and_after_some_the_policies_are_not_asked(
    policies: LogPolicies, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies.use(sources_of(BOTH))
    first, hung, last = policies.judge([event(secret=1), event(hang=True), event(secret=2)])
    assert of(hung) == f"the evaluation took more than {LIMIT} s"
    assert of(first)["erased"] == of(last)["erased"] == ["/input/secret"]
    monkeypatch.setattr(log_policies, "MOST_ENDED", 1)
    assert of(policies.judge([event(hang=True)])[0]) == f"the evaluation took more than {LIMIT} s"
    assert str(policies.judge([event(secret=1)])[0]).startswith("the policies are in quarantine")
    clock.advance(QUARANTINE_SECONDS)
    assert of(policies.judge([event(secret=1)])[0])["erased"] == ["/input/secret"]
    assert of(policies.judge([event(hang=True)])[0]) == f"the evaluation took more than {LIMIT} s"
    assert str(policies.judge([event(secret=1)])[0]).startswith("the policies are in quarantine")
    policies.use(sources_of(BOTH))
    assert of(policies.judge([event(secret=1)])[0])["erased"] == ["/input/secret"]


def test_a_process_that_cannot_be_started_is_nobodys_fault(
    policies: LogPolicies, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies.use(sources_of(BOTH))
    monkeypatch.setattr(log_policies.LimitedProcess, "start", lambda self: (_ for _ in ()).throw(EOFError))
    with pytest.raises(OSError, match="cannot be started"):
        policies.judge([event(secret=1)])
