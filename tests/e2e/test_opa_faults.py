"""Whatever becomes of an OPA, under load on a real Envoy: no request fails, and it is asked again when it is back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.e2e.environment import Environment
from tests.support.load import Load, under_load
from tests.support.pretender import Pretender
from tests.support.process import wait_for
from tests.systems.opa import BundledOpa

pytestmark = pytest.mark.e2e

RATE = 100.0
PRETENDERS = ((500, b"<html>it broke</html>"), (200, b"\xff\xfe{]"), (200, b'{"status": "ok"}'))


@pytest.fixture
def opa(start: Callable[[AbstractContextManager[BundledOpa]], BundledOpa]) -> BundledOpa:
    return start(BundledOpa())


@pytest.fixture(params=["grpc", "http"])
def environment(opa: BundledOpa, request: pytest.FixtureRequest) -> Iterator[Environment]:
    """Two workers that ask an OPA, which pins version 4; without it stable serves, version 3."""
    policy = {"path": "routing/decision", "onError": "stable", "timeout": "100ms"}
    environment = Environment(None, {"policy": policy}, transport=request.param)
    environment.dropout.options += ("--policy-engine", f"opa+{opa.url}")
    try:
        environment.start()
        yield environment
    finally:
        environment.stop()


def left_alone(environment: Environment) -> bool:
    """By both workers."""
    workers = environment.dropout.snapshot()["workers"]
    return all(worker["policy_engine"] is not None for worker in workers)


def asked_again(environment: Environment) -> bool:
    return bool(environment.dropout.snapshot()["errors"] == [])


def bad_times(environment: Environment, load: Load, begin: Callable[[], object], end: Callable[[], object]) -> None:
    """The fault begins, requests go on until it is over and the OPA is asked again, and some more."""
    begin()
    wait_for(lambda: left_alone(environment), "workers that leave the OPA alone")
    load.go_on(50)
    assert environment.ask(x_user_id="alice").upstream == "fraud-detector-v3"
    end()
    wait_for(lambda: asked_again(environment), "an answer to a probe")
    load.go_on(50)


def test_an_opa_that_is_stopped_hung_restarted_or_another_server_fails_no_request(
    environment: Environment, opa: BundledOpa
) -> None:
    with under_load(environment.port, rate=RATE) as load:
        load.go_on(50)
        assert environment.ask(x_user_id="alice").upstream == "fraud-detector-v4"
        bad_times(environment, load, opa.stop, opa.start)
        bad_times(environment, load, opa.hang, opa.go_on)
        for status, body in PRETENDERS:
            opa.stop()
            pretender = Pretender(body, status, port=opa.port)

            def give_way(pretender: Pretender = pretender) -> None:
                pretender.__exit__(None, None, None)
                opa.start()

            bad_times(environment, load, pretender.__enter__, give_way)
        wait_for(lambda: environment.ask(x_user_id="alice").upstream == "fraud-detector-v4", "a verdict")
    assert load.failed() == []
    assert environment.failed_open() == 0
    counted = environment.dropout.metric
    of_reasons = [
        counted("dropout_decisions_total", reason=reason)
        for reason in ("policy_pin", "policy_unavailable", "policy_timeout")
    ]
    assert all(of_reasons)
    assert sum(of_reasons) == counted("dropout_decisions_total")
