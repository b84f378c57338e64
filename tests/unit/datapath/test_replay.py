"""Replay: what the server decided is decided again from its log alone, and what cannot be says why."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.datapath.attributes import AttributeReader
from extproc.datapath.embedded_policy import Embedded
from extproc.datapath.logged import overlay_of
from extproc.datapath.model import Features, FeatureValue, PolicyVerdict
from extproc.datapath.pipeline import Pipeline
from extproc.datapath.policy_input import REPEATABLE, InputPaths
from extproc.datapath.ports import DecisionRecord
from extproc.datapath.replay import Replay, Replayed
from extproc.datapath.sinks.decision_event import EventEncoder
from extproc.datapath.sinks.masking import mask, mask_rules
from extproc.datapath.verdict import check_verdict
from extproc.names import Reason
from extproc.resources.loading import parse_rollout
from extproc.snapshot.model import NO_OVERLAY, CompiledRollout, Overlay
from tests.support.clock import FakeClock
from tests.support.decisions import KEY, decisions_in
from tests.support.ids import make_ids
from tests.support.rollouts import CANARY, canary, document, experiment, snapshot

POLICY = {"path": "routing/decision"}
FEATURES = {"entity": {"header": "x-user-id"}, "view": "user_risk", "names": ["risk_score"], "onMissing": "policy"}


class FakeEngine:
    """A policy that is a Python function, reading what it says it reads."""

    def __init__(self, rule: Callable[[Mapping[str, Any]], Any], *paths: tuple[str, ...]) -> None:
        self.revision = "abc123"
        self._rule = rule
        self._reads = InputPaths(paths)

    def evaluate(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
        answer = self._rule(document)
        return answer if isinstance(answer, PolicyVerdict) else check_verdict(answer)

    def reads(self, path: str) -> InputPaths:
        return self._reads

    def can_deny(self, path: str) -> bool:
        return True

    def has(self, path: str) -> bool:
        return True


class FakeFeatures:
    """Every entity has this risk."""

    def __init__(self, risk: float | None) -> None:
        self._risk = risk

    def cached(self, need: Any, entity: tuple[str | int, ...]) -> Features:
        if self._risk is None:
            return Features(fault=Reason.FEATURE_TIMEOUT)
        of = {version: {"risk_score": FeatureValue(self._risk / 2, 2.5, "store")} for version, _ in need.of_versions}
        return Features({"risk_score": FeatureValue(self._risk, 1.5, "cache")}, of=of)

    async def fetch(self, need: Any, entity: tuple[str | int, ...]) -> Features:
        return self.cached(need, entity)


def allow(document: Mapping[str, Any]) -> dict[str, Any]:
    return {"allow": True}


ALLOW = FakeEngine(allow)


def log_of(
    rollout: CompiledRollout,
    engine: Any = ALLOW,
    *,
    overlay: Overlay | None = None,
    risk: float | None = 0.2,
    headers: Mapping[str, bytes] | None = None,
    path: str = "/v1/models/fraud-detector",
    units: int = 40,
    may_expose: bool = True,
) -> list[bytes]:
    """The log of ``units`` users' requests through the real pipeline."""
    encoder = EventEncoder({}, KEY, lambda path: engine.reads(path).paths)
    lines: list[bytes] = []

    def record(decided: DecisionRecord) -> None:
        event = encoder.encode(0.0, decided, len(lines) + 1)
        if not lines and event.plan is not None:
            lines.append(event.plan + b"\n")
        lines.append(event.body + b"\n")

    log = SimpleNamespace(record=record)
    holder = SimpleNamespace(current=snapshot(rollout, overlay={rollout.key: overlay} if overlay else None))
    room = SimpleNamespace(may_expose=AsyncMock(return_value=may_expose))
    policies = SimpleNamespace(current=Embedded(engine))
    pipeline = Pipeline(holder, policies, FakeFeatures(risk), make_ids(), FakeClock(), log, room=room)

    async def send() -> None:
        for number in range(units):
            pairs = [(":method", b"POST"), (":path", path.encode()), (":authority", b"models")]
            pairs += list((headers or {"x-user-id": b"person-%d" % number}).items())
            await pipeline.process(AttributeReader().request(pairs))

    asyncio.run(send())
    assert b"person-" not in b"".join(lines)
    return lines


def replayed(lines: list[bytes], engine: Any = ALLOW, rollouts: Any = None) -> list[Replayed]:
    return list(Replay(engine, rollouts).lines(lines))


def assert_reproduced(lines: list[bytes], engine: Any = ALLOW, rollouts: Any = None) -> None:
    results = replayed(lines, engine, rollouts)
    assert len(results) == len(decisions_in(b"".join(lines))) > 0
    for result in results:
        assert (result.fault, result.not_replayable, result.differences) == (None, None, ())


def by_risk(document: Mapping[str, Any]) -> dict[str, Any]:
    score = document["features"].get("risk_score", 1.0)
    return {"allow": True, "versions": ["3"] if score > 0.9 else ["3", "4"], "reason": f"risk {score}"}


PARTS = [
    *(b"null", b"[]", b"{}", b'""', b"-1", b"1e999", b"9" * 30, b"true"),
    *(b'"\\ud800"', b"[" * 1100, b'{"a":' * 1100, b"\xff"),
]


@pytest.fixture(scope="module")
def logged() -> list[bytes]:
    rollout = canary(2500, holdout={"name": "global", "percent": 20}, policy=POLICY, features=FEATURES)
    return log_of(rollout, RISK, units=4)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_a_log_says_each_line_has_one_answer(logged: list[bytes], data: st.DataObject) -> None:
    """Values in the place of others at any depth, and bytes in the place of others anywhere."""
    lines = []
    for line in logged:
        values = [match.span(1) for match in re.finditer(rb':("[^"]*"|[-0-9.]+|true|false|null|\[[^][]*\])', line)]
        for begin, end in sorted(data.draw(st.lists(st.sampled_from(values), max_size=2, unique=True)), reverse=True):
            line = line[:begin] + data.draw(st.sampled_from(PARTS)) + line[end:]
        lines.append(line)
    answered = [answer.line for answer in replayed(lines, RISK)]
    assert answered[-4:] == [2, 3, 4, 5]
    assert answered[:-4] in ([], [1])  # what is no plan any more is told, too


RISK = FakeEngine(by_risk, ("features", "risk_score"))


@pytest.mark.parametrize(
    ("rollout", "options"),
    [
        (canary(2500), {}),
        (canary(2500, holdout={"name": "global", "percent": 20}), {}),
        (canary(5000, layer={"name": "checkout", "range": [0, 5000]}), {}),
        (canary(5000, shadow={"version": "5", "percent": 50}), {}),
        (canary(0, aborted=("4",), drawn=5000), {}),
        (canary(5000), {"overlay": Overlay(killed=True)}),
        (canary(5000), {"overlay": Overlay(tripped=frozenset({"4"}))}),
        (experiment(), {"overlay": Overlay(tripped=frozenset({"4"}), probing=frozenset({"4"}))}),
        (experiment(coverage=40), {}),
        (canary(5000), {"headers": {"x-other": b"1"}}),
        (canary(5000, unit={"header": "x-user-id", "missing": "request"}), {"headers": {"x-other": b"1"}}),
        (canary(5000), {"headers": {"x-user-id": b"alice", "x-fill": b"x" * 40_000}}),
        (canary(5000), {"path": "/elsewhere"}),
    ],
    ids=["weight", "holdout", "layer", "shadow", "abort", "kill", "trip", "probe", "coverage", "no unit", "per request",
         "too large", "no match"],
)  # fmt: skip
def test_every_logged_decision_is_reproduced(rollout: CompiledRollout, options: Any) -> None:
    assert_reproduced(log_of(rollout, **options))


@pytest.mark.parametrize(
    ("pointers", "lacks"),
    [
        (["/result/policy/reason", "/result/stage_us", "/result/decision_id", "/input/rollout"], None),
        (["/result/unit"], "/result/unit"),
        (["/input/overlay/killed", "/input/buckets"], "/input/buckets, /input/overlay/killed"),
        (["/input"], "/input"),
        (["/result"], "/result"),
        (["/result/policy"], "/result/policy"),
        (["/result/policy/fault"], "/result/policy/fault"),
        (["/input/features/risk_score"], "the policy reads what was left out of the log: /input/features/risk_score"),
        (["/input/features"], "the policy reads what was left out of the log: /input/features (a mask took it out)"),
    ],
)
@pytest.mark.parametrize("op", ["remove", "upsert"])
def test_what_a_mask_took_out_is_named_where_the_decision_is_made_from_it(
    op: str, pointers: list[str], lacks: str | None
) -> None:
    rollout = canary(5000, policy=POLICY, features=FEATURES, log={"features": ["risk_score"]})
    plan, *decided = log_of(rollout, RISK, units=2)
    masked = []
    for line in decided:
        event = json.loads(line)
        assert mask(event, mask_rules([{"op": op, "path": pointer, "value": "***"} for pointer in pointers]))
        masked.append(json.dumps(event).encode() + b"\n")
    for answer in replayed([plan, *masked], RISK):
        assert answer.fault is None
        if lacks is None:
            assert (answer.not_replayable, answer.differences) == (None, ())
        else:
            assert lacks in str(answer.not_replayable)


def test_a_decision_that_one_of_two_sinks_had_no_room_for_is_reproduced_from_the_other() -> None:
    lines = log_of(canary(10_000), may_expose=False, units=2)
    assert {event["result"]["reason"] for event in decisions_in(b"".join(lines))} == {"log_full"}
    assert_reproduced(lines)


def test_a_log_of_before_is_read_with_what_its_rule_read_and_said_beside_the_result() -> None:
    plan, *decided = log_of(canary(5000, policy=POLICY, features=FEATURES), by_method := FakeEngine(allow, ("time",)))
    before = []
    for line in decided:
        event = json.loads(line)
        event |= {"reads": event.pop("custom")["reads"], "policy": event["result"].pop("policy")}
        before.append(json.dumps(event).encode() + b"\n")
    assert_reproduced([plan, *before], by_method)
    assert_reproduced([plan, *before], None)


@pytest.mark.parametrize("risk", [0.2, 0.95, None], ids=["low", "high", "late"])
@pytest.mark.parametrize("on_missing", ["stable", "policy"])
def test_a_decision_with_features_is_reproduced_from_the_logged_values(risk: float | None, on_missing: str) -> None:
    features = {**FEATURES, "onMissing": on_missing}
    rollout = canary(5000, policy=POLICY, features=features, log={"features": ["risk_score"]})
    assert_reproduced(log_of(rollout, RISK, risk=risk), RISK)


OF_VERSIONS = {**FEATURES, "views": {"4": "user_risk_v2"}}


def by_risk_of_canary(document: Mapping[str, Any]) -> dict[str, Any]:
    return {"allow": True, "versions": ["3", "4"] if document["features_of"]["4"]["risk_score"] == 0.1 else []}


def test_a_decision_by_views_of_versions_is_reproduced_from_what_was_read_of_each() -> None:
    rollout = canary(5000, policy=POLICY, features=OF_VERSIONS, log={"features": ["risk_score"]})
    engine = FakeEngine(by_risk_of_canary, ("features_of", "4", "risk_score"))
    lines = log_of(rollout, engine)
    for event in decisions_in(b"".join(lines)):
        assert event["result"]["features_of"] == {"4": {"risk_score": {"value": 0.1, "age": 2.5, "source": "store"}}}
        assert event["input"]["features_of"] == {"4": {"risk_score": 0.1}}
    assert_reproduced(lines, engine)
    assert_reproduced(lines, None)


def test_features_of_a_version_are_withheld_as_those_of_stable_are() -> None:
    engine = FakeEngine(by_risk_of_canary, ("features_of", "4", "risk_score"))
    lines = log_of(canary(5000, policy=POLICY, features=OF_VERSIONS), engine)
    (event, *_) = decisions_in(b"".join(lines))
    assert event["result"]["features_of"] == {"4": {"risk_score": {"age": 2.5, "source": "store"}}}
    way = "/input/features_of/4/risk_score (add risk_score to spec.log.features)"
    assert {each.not_replayable for each in replayed(lines, engine)} == {
        f"the policy reads what was left out of the log: {way}"
    }
    assert_reproduced(lines, None)


@pytest.mark.parametrize(
    "answer",
    [
        {"allow": False, "reason": "no"},
        {"allow": True, "version": "4"},
        {"allow": True, "version": "9"},
        {"allow": True, "versions": []},
        {"allow": True, "shadow": False},
        {"nonsense": 1},
        PolicyVerdict(fault=Reason.POLICY_UNDEFINED),
        PolicyVerdict(allow=False, fault=Reason.POLICY_ERROR),
        PolicyVerdict(allow=False, fault=Reason.POLICY_QUARANTINED),
    ],
)
@pytest.mark.parametrize("on_error", ["stable", "deny", None])
def test_whatever_the_policy_answers_is_reproduced(answer: Any, on_error: str | None) -> None:
    engine = FakeEngine(lambda document: answer)
    rollout = canary(5000, policy={**POLICY, "onError": on_error}, shadow={"version": "5"})
    assert_reproduced(log_of(rollout, engine), engine)


def test_a_quarantined_policy_is_not_asked_again() -> None:
    lines = log_of(
        canary(5000, policy=POLICY),
        FakeEngine(lambda document: PolicyVerdict(fault=Reason.POLICY_QUARANTINED), ("time",)),
    )

    def endless(document: Mapping[str, Any]) -> Any:
        pytest.fail("the policy was asked")

    assert_reproduced(lines, FakeEngine(endless, ("time",)))


def test_another_policy_gives_the_differences_field_by_field() -> None:
    rollout = canary(10_000, policy=POLICY, features=FEATURES, log={"features": ["risk_score"]})
    lines = log_of(rollout, RISK, risk=0.5, units=1)

    def stricter(document: Mapping[str, Any]) -> dict[str, Any]:
        return {"allow": True, "versions": ["3"] if document["features"]["risk_score"] > 0.4 else ["4"]}

    (result,) = replayed(lines, FakeEngine(stricter, ("features", "risk_score")))
    assert result.decision_id == decisions_in(b"".join(lines))[0]["decision_id"]
    assert {difference.field: difference[1:] for difference in result.differences} == {
        "arm": ("canary", "excluded"),
        "version": ("4", "3"),
        "upstream": ("fraud-detector-v4", "fraud-detector-v3"),
        "reason": ("weight", "policy_ineligible"),
    }


@pytest.mark.parametrize("name", [field.name for field in fields(Overlay)])
def test_each_part_of_what_was_taken_away_is_in_the_log_and_read_back(name: str) -> None:
    """So that a part that is new is not left out by those who write it and those who read it."""
    overlay = replace(NO_OVERLAY, **{name: True if getattr(NO_OVERLAY, name) is False else frozenset({"4"})})
    _, line = log_of(canary(5000), overlay=overlay, units=1)
    assert overlay_of(json.loads(line)) == overlay


def test_ages_and_durations_are_no_differences() -> None:
    rollout = canary(10_000, policy=POLICY, features=FEATURES, log={"features": ["risk_score"]})
    plan, line = log_of(rollout, RISK, units=1)
    event = json.loads(line)
    event["result"]["stage_us"] = {"total": 1.0}
    event["result"]["decision_id"] = "other"
    assert_reproduced([plan, json.dumps(event).encode() + b"\n"], RISK)


def test_a_feature_that_was_withheld_makes_a_decision_that_read_it_not_replayable() -> None:
    rollout = canary(5000, policy=POLICY, features=FEATURES)
    (result,) = replayed(log_of(rollout, RISK, units=1), RISK)
    way = "/input/features/risk_score (add risk_score to spec.log.features)"
    assert result.not_replayable == f"the policy reads what was left out of the log: {way}"


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), st.binary(max_size=40))
@settings(max_examples=40, deadline=None)
def test_a_policy_on_the_draw_is_reproduced_whoever_the_unit_is(seed: str, unit: bytes) -> None:
    def tenth(document: Mapping[str, Any]) -> dict[str, Any]:
        drawn = document.get("draw", 10_000) < 1000
        return {"allow": True, "versions": ["3", "4"] if drawn else ["3"], "reason": str(document.get("draw"))}

    engine = FakeEngine(tenth, ("draw",))
    assert_reproduced(log_of(canary(5000, policy=POLICY, seed=seed), engine, headers={"x-user-id": unit}), engine)


def test_each_part_that_is_missing_in_the_log_is_named_with_the_way_into_it() -> None:
    http = ("attributes", "request", "http")
    engine = FakeEngine(allow, (*http, "headers"), (*http, "id"), ("unit",))
    headers = {"x-user-id": b"someone", "x-region": b"eu", "x-request-id": b"r-1"}
    (result,) = replayed(log_of(canary(5000, policy=POLICY), engine, headers=headers, units=1), engine)
    headers_at = "/input/attributes/request/http/headers"
    assert result.not_replayable is not None
    assert set(result.not_replayable.partition(": ")[2].split(", ")) == {
        f"{headers_at}/x-region (add x-region to spec.log.headers)",
        f"{headers_at}/x-request-id (add x-request-id to spec.log.headers)",
        f"{headers_at}/x-user-id (no log ever holds it)",
        "/input/attributes/request/http/id (add x-request-id to spec.log.headers)",
        "/input/unit (no log ever holds it)",
    }


def test_a_withheld_part_that_the_policy_no_longer_reads_does_no_harm() -> None:
    lines = log_of(canary(5000, policy=POLICY), FakeEngine(allow, ("unit",)))
    assert {result.not_replayable for result in replayed(lines, FakeEngine(allow, ("unit",)))} != {None}
    assert_reproduced(lines, FakeEngine(allow))


def test_a_policy_that_reads_more_than_was_logged_is_not_replayable() -> None:
    lines = log_of(canary(5000, policy=POLICY), units=1)
    (result,) = replayed(lines, FakeEngine(allow, ("attributes", "request", "http", "method")))
    assert result.not_replayable is not None
    assert "attributes.request.http.method" in result.not_replayable


def test_the_rollout_may_be_read_by_any_policy_because_the_plan_is_there() -> None:
    lines = log_of(canary(10_000, policy=POLICY), units=1)
    engine = FakeEngine(lambda document: {"allow": True, "version": document["rollout"]["canary"]}, ("rollout",))
    (result,) = replayed(lines, engine)
    assert ("reason", "weight", "policy_pin") in result.differences


def test_other_documents_decide_with_the_logged_status() -> None:
    lines = log_of(canary(5000))
    pinned = {**CANARY, "holdout": {"name": "global", "percent": 100}}
    same = parse_rollout(document(CANARY))
    assert_reproduced(lines, rollouts={same.key: same})
    (first, *_) = replayed(lines, rollouts={same.key: parse_rollout(document(pinned))})
    assert first.not_replayable == "the document changed holdout, so other facts would be gathered"
    moved = parse_rollout(document({**CANARY, "upstream": "{model}-{version}"}))
    (first, *_) = replayed(lines, rollouts={same.key: moved})
    assert [difference.field for difference in first.differences] == ["upstream"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"seed": "other"}, "unit or seed"),
        ({"layer": {"name": "checkout", "range": [0, 5000]}}, "layer"),
        ({"shadow": {"version": "5"}}, "shadow"),
        ({"features": FEATURES}, "features"),
    ],
)
def test_a_document_that_asks_for_other_facts_is_not_replayable(change: Any, why: str) -> None:
    lines = log_of(canary(5000), units=1)
    (result,) = replayed(lines, rollouts={"payments/fraud-detector": parse_rollout(document({**CANARY, **change}))})
    assert result.not_replayable == f"the document changed {why}, so other facts would be gathered"


def test_a_rollout_without_a_document_is_not_replayable() -> None:
    (result,) = replayed(log_of(canary(5000), units=1), rollouts={})
    assert result.not_replayable == "there is no document of payments/fraud-detector"


def test_a_policy_that_the_document_adds_has_no_input_in_the_log() -> None:
    lines = log_of(canary(5000), units=1)
    with_policy = parse_rollout(document({**CANARY, "policy": POLICY}))
    (result,) = replayed(lines, rollouts={with_policy.key: with_policy})
    assert result.not_replayable == "no policy was asked, so its input is not in the log"


@pytest.mark.parametrize(
    "line",
    [b"not json\n", b"[]\n", b"{}\n", b'{"decision_id": "d", "result": {}}\n', b"\xff\xfe\n", b"[" * 100_000],
)
def test_a_line_that_is_no_event_is_skipped_and_named_by_its_number(line: bytes) -> None:
    good = log_of(canary(5000), units=1)
    first, bad, last = replayed([*good, b"\n", line, *good])[0:3]
    assert (first.fault, last.fault) == (None, None)
    assert (bad.line, bad.fault is not None) == (4, True)


def test_an_event_without_its_facts_is_a_fault_not_a_crash() -> None:
    plan, line = log_of(canary(5000), units=1)
    event = json.loads(line)
    del event["input"]["buckets"]
    (result,) = replayed([plan, json.dumps(event).encode()])
    assert result.fault is not None


def test_the_log_is_read_as_a_stream() -> None:
    lines = log_of(canary(5000), units=1)
    taken = iter(Replay(ALLOW).lines(line for _ in range(10**9) for line in lines))
    assert [next(taken).line for _ in range(3)] == [2, 4, 6]


def test_a_decision_whose_plan_is_in_no_line_before_it_says_so() -> None:
    plan, *decided = log_of(canary(2500), units=2)
    (found, _) = replayed(decided)
    assert (
        found.not_replayable
        == f"its plan, {json.loads(plan)['id']}, is in no line before it; keep the plans with the decisions"
    )
    assert_reproduced([plan, *decided])


def test_a_log_of_before_that_has_the_plan_in_each_line_is_replayed() -> None:
    plan, *decided = log_of(canary(2500), units=5)
    told = json.loads(plan)
    assert_reproduced(
        [line.replace(b'"%s"' % told["id"].encode(), json.dumps(told["plan"]).encode()) for line in decided]
    )


def test_without_policies_what_they_said_is_a_fact() -> None:
    rollout = canary(5000, policy={**POLICY, "onError": "deny"}, features=FEATURES)
    deny = {"allow": False, "reason": "no", "http_status": 451}
    for said in (by_risk, lambda _: deny, lambda _: PolicyVerdict(allow=False, fault=Reason.POLICY_UNAVAILABLE)):
        lines = log_of(rollout, FakeEngine(said, ()), risk=0.95)
        assert_reproduced(lines, None)


def test_without_policies_a_document_that_asks_another_question_has_no_answer() -> None:
    rollout = canary(5000, policy=POLICY)
    lines = log_of(rollout, FakeEngine(allow, ()), units=1)
    for asked in ({"path": "other/decision"}, {**POLICY, "reads": ["unit"]}):
        rollouts = {rollout.key: parse_rollout(document({**CANARY, "policy": asked}))}
        (result,) = replayed(lines, None, rollouts)
        assert (
            result.not_replayable == "the document asks its policy otherwise than it did, and no --policies are asked"
        )


def test_a_rule_is_told_what_its_document_says_and_so_it_is_again() -> None:
    told: list[Mapping[str, Any]] = []

    def note(given: Mapping[str, Any]) -> dict[str, Any]:
        told.append(given)
        return {"allow": True}

    reads = ["attributes.request.http.headers.x-region", "rollout.name", "features.risk_score"]
    rollout = canary(5000, policy={**POLICY, "reads": reads}, features=FEATURES, log={"headers": ["x-region"]})
    headers = {"x-user-id": b"person-1", "x-region": b"eu", "x-other": b"1"}
    lines = log_of(rollout, FakeEngine(note, ()), units=1, headers=headers)
    expected = {
        "attributes": {"request": {"http": {"headers": {"x-region": "eu"}}}},
        "rollout": {"name": "fraud-detector"},
        "features": {"risk_score": 0.2},
    }
    assert told == [expected]
    assert decisions_in(b"".join(lines))[0]["custom"]["reads"] == reads
    no_features = FakeEngine(note, ("attributes", "request", "http"), ("rollout",))
    assert_reproduced(lines, no_features)
    assert told[1:] == [{**expected, "features": {}}]
    (result,) = replayed(lines, FakeEngine(note, ()))
    assert "/input/features/risk_score (add risk_score to spec.log.features)" in (result.not_replayable or "")


def test_a_decision_of_an_engine_elsewhere_is_asked_again_of_policies_as_far_as_it_was_told() -> None:
    told = FakeEngine(by_risk, ())
    told.reads = lambda path: REPEATABLE  # type: ignore[method-assign]
    rollout = canary(5000, policy=POLICY, features=FEATURES, log={"features": ["risk_score"]})
    lines = log_of(rollout, told, units=1)
    assert_reproduced(lines, RISK)
    (result,) = replayed(lines, FakeEngine(allow, ("time",)))
    assert result.not_replayable is not None
    assert result.not_replayable.startswith("the policy reads input time, which it did not when this was logged: ")
