"""A real OPA's decision log and ours, sent to one log service: one schema."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.opa.log_policies import NONE_SECONDS, OpaLogPolicies
from extproc.adapters.regorus import log_policies
from extproc.adapters.regorus.policy import RegorusEngine
from extproc.datapath.sinks.masking import MaskError
from extproc.urls import read_url
from tests.conformance.test_opa import Waiting
from tests.support.clock import FakeClock
from tests.support.collector import Collector, Upload
from tests.support.decisions import decisions_in
from tests.support.dropout import DropoutServer
from tests.support.http import ask
from tests.support.policies import sources_of
from tests.support.pretender import Pretender
from tests.support.process import wait_for
from tests.systems.opa import BundledOpa, Opa

Start = Callable[[AbstractContextManager[Any]], Any]

RULES = """package routing

decision := {"allow": true, "reason": concat(" ", said)}

said := [
	input.attributes.request.http.headers["x-region"],
	input.attributes.request.http.headers["x-token"],
]
"""

MASKS = """package system.log

mask contains "/input/attributes/request/http/headers/x-token"

mask contains {"op": "upsert", "path": "/result/reason", "value": "***"} if input.result.allow

mask contains {"op": "upsert", "path": "/result/policy/reason", "value": "***"} if input.result.policy

drop if input.input.attributes.request.http.headers["x-token"] == "nobody's"
"""

REVISION = {"revision": str}
FIELDS: dict[str, Any] = {
    "labels": {str: str},
    "decision_id": str,
    "bundles": {str: REVISION},
    "path": str,
    "input": object,
    "result": object,
    "erased": [str],
    "masked": [str],
    "requested_by": str,
    "timestamp": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z"),
    "metrics": {str: int},
    "req_id": int,
    "custom": {str: object},
}
"""What OPA has a field for, as far as we write it, and what it holds: ``EventV1`` in its source."""


def fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, dict):
        (name, inner), *_ = shape.items()
        keyed = isinstance(name, type)
        return isinstance(value, dict) and all(
            (isinstance(key, name) if keyed else key == name) and fits(each, inner) for key, each in value.items()
        )
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(each, shape[0]) for each in value)
    if isinstance(shape, re.Pattern):
        return isinstance(value, str) and shape.fullmatch(value) is not None
    return isinstance(value, shape) and not (shape is int and isinstance(value, bool))


class LoggingOpa(BundledOpa):
    """An OPA that tells ``collector`` of its decisions each second."""

    rules = RULES

    def __init__(self, collector: Collector, masks: str = "package system.log\n") -> None:
        super().__init__()
        self.collector = collector
        self.masks = masks

    def prepare(self) -> None:
        (self.folder / "source").mkdir(exist_ok=True)
        (self.folder / "source" / "log.rego").write_text(self.masks)
        super().prepare()
        reporting = {"min_delay_seconds": 1, "max_delay_seconds": 1}
        config = {
            "services": {"logs": {"url": f"http://{self.collector.address}/opa"}},
            "decision_logs": {"service": "logs", "partition_name": "eu", "reporting": reporting},
        }
        (self.folder / "opa.json").write_text(json.dumps(config))

    def command(self) -> Sequence[str | Path]:
        return [*super().command(), "-c", self.folder / "opa.json"]


def of(collector: Collector, who: str) -> list[Upload]:
    return [upload for upload in collector.uploads if upload.path.startswith(f"/{who}/")]


@pytest.fixture
def collector(start: Start) -> Collector:
    collected: Collector = start(Collector())
    return collected


def test_ours_and_a_real_opas_have_one_schema_at_one_service(collector: Collector, start: Start) -> None:
    opa = start(LoggingOpa(collector, MASKS))
    parameters = "partition-name=eu&min-delay-seconds=0&max-delay-seconds=0"
    server = DropoutServer("--sink", f"opa+http://{collector.address}/ours?{parameters}", workers=1)
    log = server.folder / "log.jsonl"
    server.options += ("--decision-log", str(log))
    server.write_policy(RULES)
    server.write_policy(MASKS, "log.rego")
    server.write_rollout(policy={"path": "routing/decision"}, log={"headers": ["x-region", "x-token"]})
    headers = {"x-region": "eu", "x-token": "geheim"}
    with server:
        for token in ("nobody's", "geheim"):
            server.ask({**headers, "x-token": token})
        wait_for(lambda: of(collector, "ours"), "an upload of ours")
        wait_for(lambda: log.exists() and b"decision_id" in log.read_bytes(), "a line of ours")
        (line,) = decisions_in(log.read_bytes())
    for token in ("nobody's", "geheim"):
        asked = {"attributes": {"request": {"http": {"headers": {**headers, "x-token": token}}}}}
        ask(f"{opa.url}/v1/data/routing/decision", {"input": asked})
    wait_for(lambda: of(collector, "opa"), "an upload of the OPA")

    theirs, ours = of(collector, "opa")[0], of(collector, "ours")[0]
    assert ours.path.removeprefix("/ours") == theirs.path.removeprefix("/opa") == "/logs/eu"
    for header in ("content-type", "content-encoding"):
        assert ours.headers[header] == theirs.headers[header]
    (their_event,), (our_event,) = theirs.events, ours.events
    for event in (their_event, our_event):
        wrong = {name: value for name, value in event.items() if not fits(value, FIELDS.get(name, ()))}
        assert wrong == {}
    assert their_event.keys() - our_event.keys() == {"requested_by"}  # where Envoy is asked for it
    assert our_event.keys() - their_event.keys() == {"custom"}
    assert {"id", "version"} <= their_event["labels"].keys() & our_event["labels"].keys()
    assert their_event["path"] == our_event["path"]
    assert our_event["metrics"].keys() <= their_event["metrics"].keys()
    read = our_event["input"]["attributes"]["request"]["http"]["headers"]
    assert read == their_event["input"]["attributes"]["request"]["http"]["headers"] == {"x-region": "eu"}
    assert our_event["result"]["policy"]["reason"] == their_event["result"]["reason"] == "***"
    assert our_event["erased"] == their_event["erased"]
    assert (our_event["masked"], their_event["masked"]) == (["/result/policy/reason"], ["/result/reason"])
    assert our_event["custom"].pop("plan")["kind"] == "plan"
    assert line == our_event  # every sink gets the same
    assert (line["req_id"], line["custom"]["left_out"]) == (2, 1)


MASKS_OF_THE_INPUT = """package system.log

mask := input.input.rules if not input.input.as_set

mask := {rule | some rule in input.input.rules} if input.input.as_set

drop := input.input.drop

echo := input.document
"""

KEYS = [
    "a",
    "b",
    "a b",
    "ü",
    "x:y",
    "a/b",
    "~",
    "~0",
    "a~1b",
    "0",
    "1",
    "",
    "a%20b",
    "%41",
    "a+b",
    "a(b)",
    "*",
    "\U0001f600",
]
PARTS = [*KEYS, "+1", "-0", "-1", "007", "9", "%zz", "99999999999999999999", "1_0", "٣", " 1"]


def a_value(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.randrange(4 if depth < 4 else 2)
    if kind == 3:
        return {key: a_value(draw, depth + 1) for key in draw.sample(KEYS, draw.randrange(4))}
    if kind == 2:
        return [a_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    return draw.choice([None, True, False, 0, -1, 1.5, 2**53 + 1, "", "text", "\ud83d\ude00", "ü\u2028"])


def a_pointer(draw: random.Random, event: Any) -> str:
    """Mostly one that leads somewhere in ``event``, or nearly."""
    root = draw.choice(["input", "input", "result"])
    parts, node = [root], event[root]
    while draw.random() < 0.85:
        if draw.random() < 0.15:
            parts.append(draw.choice(PARTS))
            node = None
        elif isinstance(node, dict) and node:
            parts.append(draw.choice(list(node)))
            node = node[parts[-1]]
        elif isinstance(node, list) and node:
            parts.append(str(draw.randrange(len(node))))
            node = node[int(parts[-1])]
        else:
            break
    return "/" + "/".join(parts)


def a_rule(draw: random.Random, event: Any) -> Any:
    pointer = a_pointer(draw, event)
    kind = draw.randrange(20)
    if kind < 7:
        return pointer
    if kind == 7:
        return draw.choice(["", "input", "/", "/labels/id", 3, None, ["/input"], {"op": "upsert"}, {"path": pointer}])
    if kind == 8:
        return {"op": draw.choice(["move", "", 1]), "path": pointer, "value": 1}
    op = draw.choice(["remove", "upsert", "upsert"])
    return {"op": op, "path": pointer, **({"value": a_value(draw)} if draw.random() < 0.9 else {})}


def test_what_a_mask_takes_out_is_what_the_real_opa_takes_out_of_the_same_event(
    collector: Collector, start: Start
) -> None:
    """Of random events by random rules, bad ones among them, in an order of their own or in that of a set."""
    draw = random.Random(23)
    opa = start(LoggingOpa(collector, MASKS_OF_THE_INPUT))
    engine = RegorusEngine(sources_of({"log.rego": MASKS_OF_THE_INPUT}))
    ours: dict[str, Any] = {}
    for number in range(400):
        document = a_value(draw)
        given = {"document": document, "as_set": number % 2 == 1, "drop": draw.choice([False] * 9 + [True, "x", None])}
        event = {"input": given, "result": document}
        given["rules"] = [a_rule(draw, event) for _ in range(draw.randrange(4))]
        answer = ask(f"{opa.url}/v1/data/system/log/echo", {"input": given})
        ours[answer["decision_id"]] = judged(engine, json.dumps({**event, "custom": {}}))
    last = ask(f"{opa.url}/v1/data/system/log/echo", {"input": {"document": 1, "rules": [], "as_set": False}})[
        "decision_id"
    ]
    wait_for(lambda: last in {event["decision_id"] for event in collector.events}, "the last event of the OPA")

    theirs = {event["decision_id"]: event for event in collector.events}
    written = {decision: event for decision, event in ours.items() if event is not None}
    assert written.keys() == theirs.keys() - {last}
    for decision, event in written.items():
        for field in ("input", "result", "erased", "masked"):
            assert (field in event) == (field in theirs[decision]), (decision, field)
            assert event.get(field) == theirs[decision].get(field), event
    assert 100 < len(written) < 390
    assert sum("erased" in event for event in written.values()) > 50
    assert sum("masked" in event for event in written.values()) > 50


def judged(engine: RegorusEngine, event: str) -> Any:
    """What is written of an event, None if nothing is."""
    said = log_policies.judged(engine, event)
    if said is True:
        return json.loads(event)
    return json.loads(said) if isinstance(said, str) else None


def test_serve_masks_its_log_by_the_opa_that_decides(collector: Collector, start: Start) -> None:
    opa = start(LoggingOpa(collector, MASKS))
    server = DropoutServer("--policy-engine", f"opa+{opa.url}", workers=1)
    log = server.folder / "log.jsonl"
    server.options += ("--decision-log", str(log))
    reads = [f"attributes.request.http.headers.{name}" for name in ("x-region", "x-token")]
    policy = {"path": "routing/decision", "reads": reads, "timeout": "3s"}
    server.write_rollout(policy=policy, log={"headers": ["x-region", "x-token"]})
    with server:
        for token in ("nobody's", "geheim"):
            server.ask({"x-region": "eu", "x-token": token})
        wait_for(lambda: log.exists() and b"decision_id" in log.read_bytes(), "a line")
        assert server.stop() == 0
        (line,) = decisions_in(log.read_bytes())
        said = server.log()
    assert line["result"]["policy"]["reason"] == "***"
    assert line["erased"] == ["/input/attributes/request/http/headers/x-token"]
    assert line["custom"]["left_out"] == 1
    assert "nclosed" not in said
    assert "rror" not in said


def test_an_opa_that_decides_is_asked_for_the_masks_of_its_own_log(collector: Collector, start: Start) -> None:
    opa = start(LoggingOpa(collector, MASKS_OF_THE_INPUT))
    clock = FakeClock()
    policies = OpaLogPolicies(read_url(f"opa+{opa.url}", "--policy-engine"), "--policy-engine", clock.monotonic)
    try:
        events = [asked_for(rules=["/input/secret"]), asked_for(drop=True), asked_for(rules=[]), asked_for(rules=["x"])]
        masked, dropped, as_it_was, bad = policies.judge(events * 10)[:4]
        assert json.loads(bytes(masked))["input"] == {"rules": ["/input/secret"], "as_set": False}
        assert json.loads(bytes(masked))["erased"] == ["/input/secret"]
        assert (dropped, as_it_was) == (None, events[2])
        assert isinstance(bad, MaskError)
        assert policies.asked
        opa.stop()
        with pytest.raises(OSError, match="the masks cannot be asked"):
            policies.judge(events)
        opa.start()
        assert json.loads(bytes(policies.judge(events[:1])[0]))["erased"] == ["/input/secret"]
    finally:
        policies.close()


def test_an_opa_without_masks_is_asked_again_after_a_while_and_one_that_fails_spoils_the_event(
    start: Start,
) -> None:
    opa = start(Opa())
    clock = FakeClock()
    policies = OpaLogPolicies(read_url(f"opa+{opa.url}", "--policy-engine"), "--policy-engine", clock.monotonic)
    try:
        events = [asked_for(rules=[])]
        assert policies.judge(events) == events
        assert not policies.asked
        clock.advance(NONE_SECONDS)
        assert policies.asked
        opa.stop()
        assert policies.judge(events) == events  # it had none when it was last asked
        unasked = OpaLogPolicies(read_url(f"opa+{opa.url}", "--policy-engine"), "--policy-engine", clock.monotonic)
        with pytest.raises(OSError, match="cannot be told"):
            unasked.judge(events)
        unasked.close()
        opa.start()
        conflict = "package system.log\n\nhelper := 1 if input.input.secret\n\nhelper := 2 if input.input.secret\n"
        opa.put_policy("log", conflict)
        assert policies.judge(events) == events  # another rule of the package fails, and no mask
        opa.put_policy("log", conflict.replace("helper", "mask"))
        (failed,) = policies.judge(events)
        assert isinstance(failed, MaskError)
        assert "geheim" not in str(failed)
    finally:
        policies.close()


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"{}"), (200, b"no"), (404, b"{}"), (500, b"<html>"), (401, b'{"code":"unauthorized"}')]
)
def test_who_is_no_opa_or_does_not_answer_as_one_has_no_say_about_masks(status: int, body: bytes, start: Start) -> None:
    server = start(Pretender(body, status))
    policies = OpaLogPolicies(read_url(f"opa+http://{server.address}", "--policy-engine"), "--policy-engine")
    with pytest.raises(OSError, match="the masks cannot be asked"):
        policies.judge([asked_for(rules=[])])
    policies.close()


def test_an_opa_that_waits_for_its_bundles_is_not_believed_to_have_no_masks(start: Start) -> None:
    opa = start(Waiting())
    policies = OpaLogPolicies(read_url(f"opa+{opa.url}", "--policy-engine"), "--policy-engine")
    with pytest.raises(OSError, match="has not activated all of its bundles"):
        policies.judge([asked_for(rules=[])])
    policies.close()


def asked_for(**given: Any) -> bytes:
    document = {"input": {"secret": "geheim", "as_set": False, **given}, "custom": {"reads": []}}
    return json.dumps(document, separators=(",", ":")).encode()
