"""A real OPA's decision log and ours, sent to one log service: one schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.support.collector import Collector, Upload
from tests.support.dropout import DropoutServer
from tests.support.http import ask
from tests.support.process import wait_for
from tests.systems.opa import BundledOpa

Start = Callable[[AbstractContextManager[Any]], Any]

RULES = """package routing

decision := {"allow": true, "reason": input.attributes.request.http.headers["x-region"]}
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

    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self.collector = collector

    def prepare(self) -> None:
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
    opa = start(LoggingOpa(collector))
    parameters = "partition-name=eu&min-delay-seconds=0&max-delay-seconds=0"
    server = DropoutServer("--sink", f"opa+http://{collector.address}/ours?{parameters}", workers=1)
    server.write_policy(RULES)
    server.write_rollout(policy={"path": "routing/decision"}, log={"headers": ["x-region"]})
    headers = {"x-region": "eu"}
    with server:
        server.ask({"x-region": "eu"})
        wait_for(lambda: of(collector, "ours"), "an upload of ours")
    asked = {"attributes": {"request": {"http": {"headers": headers}}}}
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
    assert read == their_event["input"]["attributes"]["request"]["http"]["headers"] == headers
    assert our_event["result"]["policy"]["reason"] == their_event["result"]["reason"] == "eu"
