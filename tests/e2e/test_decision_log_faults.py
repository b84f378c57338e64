"""Whatever becomes of a log service, under load on a real Envoy: no request fails, and no decision is missing after."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.environment import Environment
from tests.support.collector import Collector, Upload
from tests.support.load import under_load
from tests.support.process import wait_for

pytestmark = pytest.mark.e2e

RATE = 100.0


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def environment(collector: Collector) -> Iterator[Environment]:
    """Two workers that log to a service."""
    environment = Environment(transport="http")
    query = "min-delay-seconds=0&max-delay-seconds=0.2&upload-size-limit-bytes=4096"
    environment.dropout.options += ("--sink", f"opa+http://{collector.address}?{query}")
    try:
        environment.start()
        yield environment
    finally:
        environment.stop()


def test_a_service_that_is_down_slow_broken_or_refuses_costs_no_request_and_no_event(
    environment: Environment, collector: Collector
) -> None:
    free = threading.Event()
    taken = collector.answer
    faults: list[Callable[[Upload], Any]] = [
        lambda upload: None,
        lambda upload: 500,
        lambda upload: 401,
        lambda upload: (503, {"Retry-After": "1"}),
        lambda upload: 413 if len(upload.body) > 1000 else 500,
        lambda upload: (200, {"content-length": "nonsense"}),
        lambda upload: free.wait() and 200,
    ]
    with under_load(environment.port, rate=RATE) as load:
        load.go_on(50)
        for fault in faults:
            met = len(collector.asked)
            collector.answer = fault
            load.go_on(30)
            wait_for(lambda met=met: len(collector.asked) > met, "an upload that meets it")
            collector.answer = taken
            load.go_on(30)
        free.set()
    assert load.failed() == []
    assert environment.failed_open() == 0
    environment.dropout.stop()
    lives: dict[str, list[int]] = {}
    for event in collector.events:
        lives.setdefault(event["labels"]["id"], []).append(event["req_id"])
    assert len(lives) == 2
    for numbers in lives.values():
        first_seen = list(dict.fromkeys(numbers))
        assert first_seen == list(range(1, len(first_seen) + 1))  # in order, none missing; some twice
    assert sum(len(set(numbers)) for numbers in lives.values()) == len(load.answered)
