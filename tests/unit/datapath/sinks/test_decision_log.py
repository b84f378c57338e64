"""The decision log: what an event holds, what it never holds, and to whom it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from extproc.datapath.model import Buckets, Features, FeatureValue, PolicyVerdict, Unit
from extproc.datapath.pseudonym import pseudonym
from extproc.datapath.record import FEATURES_OF, RECORD_FIELDS, record_of, unit_text
from extproc.datapath.sinks.decision_event import EventEncoder
from extproc.datapath.sinks.decision_log import DecisionLog
from extproc.datapath.sinks.event_queue import EventQueue
from extproc.names import Reason
from extproc.snapshot.model import CompiledRollout, Overlay, UnitSource
from extproc.testing.sink import MemorySink
from tests.support.clock import FakeClock
from tests.support.decisions import KEY, make_decided, make_decision, make_facts, make_request, make_rollout
from tests.support.pages import code, page, table

LABELS = {"app": "dropout", "worker": "0"}
READS = ("attributes.request.http.headers.x-region", "features.risk_score")
AT = 1_800_000_000.25


def encoder() -> EventEncoder:
    return EventEncoder(LABELS, KEY, lambda path: READS)


def logged(path: Path, **changes: Any) -> dict[str, Any]:
    """The event of one decision; ``path`` has its bytes."""
    path.write_bytes(encoder().encode(AT, make_decided(**changes), 17).body)
    event: dict[str, Any] = json.loads(path.read_bytes())
    return event


def plan_of(rollout: CompiledRollout) -> dict[str, Any]:
    """The event of its plan."""
    plan = encoder().encode(AT, make_decided(rollout=rollout), 1).plan
    assert plan is not None
    event: dict[str, Any] = orjson.loads(plan)
    assert event == {"kind": "plan", "id": event["id"], "rollout": rollout.key, "plan": orjson.loads(rollout.plan)}
    return event


def with_input(**document: Any) -> Any:
    return make_facts(policy_input=document)


def http(**fields: Any) -> dict[str, Any]:
    return {"request": {"http": fields}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


def test_an_event_has_the_shape_of_an_opa_decision_log_event(path: Path) -> None:
    event = logged(path, request=make_request(attributes={"source.address": "10.0.0.1:4242"}))

    assert event["decision_id"] == "d-1"
    assert event["timestamp"] == "2027-01-15T08:00:00.250000000Z"
    assert event["labels"] == LABELS
    assert event["path"] == "routing/decision"
    assert event["bundles"] == {"policies": {"revision": "abc123"}}
    assert event["requested_by"] == "10.0.0.1:4242"
    assert event["metrics"] == {"timer_rego_query_eval_ns": 21_700, "timer_server_handler_ns": 44_000}
    assert event["req_id"] == 17
    assert event["custom"] == {"reads": list(READS)}
    assert "erased" not in event


def test_the_result_has_exactly_the_fields_of_the_record(path: Path) -> None:
    result = logged(path)["result"]

    assert tuple(result) == (*RECORD_FIELDS, "policy")
    assert result["ranges"] == {"canary": [0, 500]}
    assert result["features"] == {"risk_score": {"value": 0.2, "age": 12.5, "source": "cache"}}
    assert result["reason"] == "weight"
    assert result["fallbacks"] == []


def test_the_fields_of_an_event_are_those_of_its_page(path: Path) -> None:
    facts = make_facts(policy_input={"unit": "alice"}, verdict=PolicyVerdict())
    event = logged(path, facts=facts, request=make_request(attributes={"source.address": "10.0.0.1:1"}))
    rows = {
        code(field)[0]: meaning
        for field, meaning in table(page("reference/decision-log"), "field of an event", "what it is")
    }
    assert rows.keys() == {*event.keys(), "masked"}
    assert tuple(code(rows["result"])) == (*RECORD_FIELDS, FEATURES_OF, "features", "policy")


def test_the_input_holds_the_facts_that_replay_needs(path: Path) -> None:
    facts = make_facts(
        unit=Unit(b"r-1", Reason.UNIT_MISSING, per_request=True),
        buckets=Buckets(unit=1, holdout=2, layer=3, shadow=4),
        features=Features({}, Reason.FEATURE_STALE),
    )
    document = logged(path, facts=facts, overlay=Overlay(killed=True, tripped=frozenset({"4"})))["input"]

    assert document["buckets"] == {"unit": 1, "holdout": 2, "layer": 3, "shadow": 4}
    assert document["unit_fault"] == "unit_missing"
    assert document["per_request"] is True
    assert document["feature_fault"] == "feature_stale"
    assert document["too_large"] is False
    assert document["overlay"] == {"killed": True, "tripped": ["4"]}
    assert document["plan"] == plan_of(make_rollout())["id"]
    assert document["rollout"]["versions"] == ["3", "4"]


def test_the_unit_is_written_as_a_pseudonym_that_stays_the_same(path: Path) -> None:
    first = logged(path)["result"]["unit"]
    assert first == pseudonym(KEY, b"alice") != pseudonym(b"other" * 6, b"alice")
    assert b"alice" not in path.read_bytes()


def test_a_policy_that_reads_the_unit_leaves_no_unit_in_the_log(path: Path) -> None:
    facts = make_facts(
        policy_input={"unit": "alice"},
        verdict=PolicyVerdict(allow=False, reason="alice may not", body="sorry alice", message="alice"),
    )
    event = logged(path, facts=facts)

    assert event["erased"] == ["/input/unit"]
    assert event["result"]["policy"]["reason"] == f"{pseudonym(KEY, b'alice')} may not"
    assert b"alice" not in path.read_bytes()


def test_the_unit_header_is_withheld_even_if_the_document_lists_it(path: Path) -> None:
    rollout = make_rollout(log_headers=frozenset({"x-user-id", "x-region"}))
    headers = {"x-user-id": "alice", "x-region": "eu"}
    event = logged(path, rollout=rollout, facts=with_input(attributes=http(headers=headers)))

    assert event["input"]["attributes"]["request"]["http"]["headers"] == {"x-region": "eu"}
    assert event["erased"] == ["/input/attributes/request/http/headers/x-user-id"]


def test_a_unit_cookie_withholds_all_cookies(path: Path) -> None:
    rollout = make_rollout(log_headers=frozenset({"cookie"}), unit=UnitSource(cookie="uid"))
    event = logged(path, rollout=rollout, facts=with_input(attributes=http(headers={"cookie": "uid=alice"})))

    assert b"alice" not in path.read_bytes()
    assert event["erased"] == ["/input/attributes/request/http/headers/cookie"]


def test_headers_that_the_document_does_not_list_are_erased_and_said_to_be(path: Path) -> None:
    headers = {":method": "POST", "x-region": "eu", "authorization": "Bearer secret", "x/y~z": "odd"}
    event = logged(path, facts=with_input(attributes=http(method="POST", host="models", headers=headers)))

    kept = event["input"]["attributes"]["request"]["http"]
    assert kept == {"method": "POST", "host": "models", "headers": {":method": "POST", "x-region": "eu"}}
    assert event["erased"] == [
        "/input/attributes/request/http/headers/authorization",
        "/input/attributes/request/http/headers/x~1y~0z",
    ]


def test_a_query_is_never_written(path: Path) -> None:
    attributes = http(path="/v1?token=secret", headers={":path": "/v1?token=secret"})
    event = logged(
        path, facts=with_input(attributes=attributes, parsed_query={"token": ["secret"]}, parsed_path=["v1"])
    )

    assert b"secret" not in path.read_bytes()
    assert event["input"]["attributes"]["request"]["http"] == {"path": "/v1", "headers": {":path": "/v1"}}
    assert event["input"]["parsed_path"] == ["v1"]
    assert set(event["erased"]) == {
        "/input/parsed_query",
        "/input/attributes/request/http/path",
        "/input/attributes/request/http/headers/:path",
    }


def test_a_policy_that_reads_the_units_header_leaves_no_unit_in_its_words(path: Path) -> None:
    document = {"attributes": http(headers={"x-user-id": "alice"})}
    logged(path, facts=make_facts(policy_input=document, verdict=PolicyVerdict(reason="hello alice")))
    assert b"alice" not in path.read_bytes()


def test_a_policy_that_does_not_see_the_unit_keeps_its_words(path: Path) -> None:
    event = logged(path, facts=make_facts(verdict=PolicyVerdict(reason="alice is a common name")))
    assert event["result"]["policy"]["reason"] == "alice is a common name"


def test_envoys_attributes_that_may_hold_a_header_or_a_query_are_erased(path: Path) -> None:
    envoy = {"source.address": "10.0.0.1:1", "request.url_path": "/v1", "request.query": "token=secret"}
    event = logged(path, facts=with_input(attributes={"envoy": envoy}))
    assert event["input"]["attributes"]["envoy"] == {"source.address": "10.0.0.1:1"}
    assert event["erased"] == ["/input/attributes/envoy/request.url_path", "/input/attributes/envoy/request.query"]


def test_the_request_id_is_a_header_like_any_other(path: Path) -> None:
    attributes = http(id="r-1")
    assert logged(path, facts=with_input(attributes=attributes))["erased"] == ["/input/attributes/request/http/id"]
    path.unlink()
    allowed = make_rollout(log_headers=frozenset({"x-request-id"}))
    event = logged(path, rollout=allowed, facts=with_input(attributes=attributes))
    assert event["input"]["attributes"]["request"]["http"] == {"id": "r-1"}


def test_a_feature_that_may_not_be_written_keeps_its_age_and_source(path: Path) -> None:
    found = {"income": FeatureValue(99_999, 3.0, "store"), "risk_score": FeatureValue(0.2, 1.0, "cache")}
    facts = make_facts(features=Features(found), policy_input={"features": {"income": 99_999, "risk_score": 0.2}})
    event = logged(path, facts=facts, decision=make_decision(features=found))

    assert event["result"]["features"] == {
        "income": {"age": 3.0, "source": "store"},
        "risk_score": {"value": 0.2, "age": 1.0, "source": "cache"},
    }
    assert event["input"]["features"] == {"risk_score": 0.2}
    assert event["erased"] == ["/input/features/income"]
    assert b"99999" not in path.read_bytes()


def test_a_decision_without_a_rollout_is_logged_too(path: Path) -> None:
    nothing = make_decision(rollout=None, arm=None, unit=None, version=None, reason=Reason.NO_MATCH, ranges={})
    event = logged(path, decision=nothing, facts=None, rollout=None)

    assert event["result"]["reason"] == "no_match"
    assert event["input"] == {}
    assert "path" not in event


def test_the_verdict_is_written_with_the_reason_in_the_policys_words(path: Path) -> None:
    verdict = PolicyVerdict(allow=False, versions=frozenset({"4", "3"}), reason="risk above 0.9", http_status=451)
    written = logged(path, facts=make_facts(verdict=verdict))["result"]["policy"]

    assert written["versions"] == ["3", "4"]
    assert (written["allow"], written["http_status"], written["reason"]) == (False, 451, "risk above 0.9")


@pytest.mark.parametrize("value", [2**70, "lone \udce9 surrogate"])
def test_a_value_that_the_fast_encoder_refuses_is_written_all_the_same(path: Path, value: object) -> None:
    event = logged(path, facts=with_input(features={"risk_score": value}))
    assert event["input"]["features"]["risk_score"] == value
    assert event["result"]["ranges"] == {"canary": [0, 500]}


def test_a_raw_unit_is_shown_with_what_is_not_utf8_escaped() -> None:
    assert unit_text(b"caf\xe9") == "caf\\xe9"
    assert record_of(make_decision(), "alice")["unit"] == "alice"


async def test_an_event_goes_to_every_sink_that_has_room_for_it() -> None:
    taken: list[list[bytes]] = [[], []]
    roomy, full = (
        EventQueue("memory", MemorySink(each), max_events=room) for each, room in zip(taken, (10, 0), strict=True)
    )
    log = DecisionLog(encoder(), [roomy, full], FakeClock(AT))
    for number in range(3):
        log.record(make_decided(decision=make_decision(decision_id=f"d-{number}")))
    await log.close(5.0)
    plan, *events = map(orjson.loads, taken[0])
    assert plan == plan_of(make_rollout())
    assert [event["decision_id"] for event in events] == ["d-0", "d-1", "d-2"]
    assert (roomy.drops, taken[1], full.drops) == (0, [], 3)


async def test_a_decision_that_no_encoder_takes_is_dropped_counted_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    taken: list[bytes] = []
    queue = EventQueue("memory", MemorySink(taken))
    log = DecisionLog(encoder(), [queue], FakeClock(AT))
    for _ in range(3):
        log.record(make_decided(facts=with_input(features={"risk_score": value})))
    log.record(make_decided())
    await log.close(5.0)
    assert (queue.drops, len(taken)) == (3, 2)
    assert len(caplog.records) == 1
    while value:  # piece by piece: the interpreter would free it in one deep recursion
        value = value.pop()
