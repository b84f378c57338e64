"""Tests read what real monitoring was told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.dropout import DropoutServer
from tests.support.http import ask
from tests.systems.otlp import Otlp
from tests.systems.prometheus import Alertmanager, Prometheus
from tests.systems.webhook import Webhook

DECISIONS = "sum by (reason) (dropout_decisions_total)"
SPAN = {
    "traceId": "5b8efff798038103d269b633813fc60c",
    "spanId": "eee19b7ec3c1b174",
    "name": "decide",
    "kind": 2,
    "startTimeUnixNano": "1544712660000000000",
    "endTimeUnixNano": "1544712661000000000",
}


@pytest.fixture
def dropout() -> Iterator[DropoutServer]:
    server = DropoutServer(workers=1)
    server.write_rollout()
    with server:
        yield server


def test_prometheus_scrapes_dropout_and_its_alert_comes_to_the_webhook(
    start: Callable[[Any], Any], dropout: DropoutServer
) -> None:
    webhook = start(Webhook())
    alertmanager = start(Alertmanager(webhook.url))
    rule = {"alert": "Decides", "expr": f"{DECISIONS} > 1", "labels": {"severity": "page"}}
    prometheus = start(Prometheus(f"127.0.0.1:{dropout.admin_port}", rules=[rule], alertmanager=alertmanager))
    for _ in range(2):
        dropout.ask()
    alert = webhook.posted.get(timeout=30)["alerts"][0]
    assert (alert["status"], alert["labels"]["severity"]) == ("firing", "page")
    assert prometheus.query(DECISIONS) == [({"reason": alert["labels"]["reason"]}, 2.0)]


def test_a_span_that_is_sent_is_received(otlp: Otlp) -> None:
    assert otlp.spans() == []
    ask(f"{otlp.http}/v1/traces", {"resourceSpans": [{"scopeSpans": [{"spans": [SPAN]}]}]})
    assert otlp.spans() == [SPAN]
