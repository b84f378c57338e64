"""No answer is no way around a policy: where it denies what is undecided, whoever makes Dropout slow gets nowhere."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from extproc.envoy.bootstrap import connection_manager
from tests.e2e.environment import Environment
from tests.support.dropout import children_of
from tests.support.envoy import TEMPLATES, EnvoyProcess

pytestmark = pytest.mark.e2e

REQUESTS = 1000
AT_ONCE = 50

POLICY = """
package routing

import rego.v1

default decision := {"allow": false, "http_status": 403, "reason": "no tenant"}

decision := {"allow": true} if input.attributes.request.http.headers["x-tenant"] == "acme"
"""


@pytest.fixture(scope="module", params=TEMPLATES)
def environment(request: pytest.FixtureRequest) -> Iterator[Environment]:
    environment = Environment(
        POLICY, {"policy": {"path": "routing/decision", "onError": "deny"}}, transport=request.param
    )
    open_to_all = [{"path": {"value": "/v1/open"}}]
    environment.dropout.write_rollout("open", match=open_to_all, policy={"noAnswer": "stable"})
    try:
        yield environment.start()
    finally:
        environment.stop()


def hasty(seconds: float) -> Any:
    """A change of Envoy's configuration: it waits no longer for a decision."""

    def change(config: dict[str, Any]) -> None:
        connection_manager(config)["http_filters"][0]["typed_config"]["message_timeout"] = f"{seconds}s"

    return change


@contextmanager
def envoy_of(environment: Environment, directory: Path, wait_seconds: float) -> Iterator[EnvoyProcess]:
    envoy = environment.new_envoy(directory, hasty(wait_seconds))
    try:
        yield envoy
    finally:
        envoy.stop()


def denied_without_a_word(environment: Environment, envoy: EnvoyProcess) -> Counter[int]:
    """Ask much at once as somebody whom the policy denies; how often each status came. No version hears of it."""
    before = environment.upstreams.seen["fraud-detector-v3"], environment.upstreams.seen["fraud-detector-v4"]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda number: environment.ask(through=envoy, x_user_id=f"u{number}"), range(REQUESTS)))
    assert (environment.upstreams.seen["fraud-detector-v3"], environment.upstreams.seen["fraud-detector-v4"]) == before
    for answer in answers:
        if answer.status == 503:
            assert answer.body["code"] == "undecided"
            assert answer.headers["content-type"] == "application/json"
    return Counter(answer.status for answer in answers)


@contextmanager
def stopped(environment: Environment) -> Iterator[None]:
    """Neither the workers nor the supervisor, which would replace them, get any further."""
    assert environment.dropout.process is not None
    pids = [environment.dropout.process.pid, *children_of(environment.dropout.process.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("path", ["/v1/models/fraud-detector", "/v1/open"])
def test_a_request_too_full_for_an_answer_is_refused_only_where_no_answer_is_a_denial(
    environment: Environment, path: str
) -> None:
    answer = environment.ask(path, x_tenant="acme", x_long="a" * 60_600)
    assert answer.status == (200 if path == "/v1/open" else 431)


def test_hung_workers_let_nobody_through(environment: Environment, tmp_path: Path) -> None:
    with envoy_of(environment, tmp_path, 0.1) as envoy, stopped(environment):
        assert denied_without_a_word(environment, envoy) == {503: REQUESTS}
        assert environment.ask("/v1/open", through=envoy).status == 200


def test_overloaded_workers_let_nobody_through(environment: Environment, tmp_path: Path) -> None:
    with envoy_of(environment, tmp_path, 0.01) as envoy:
        statuses = denied_without_a_word(environment, envoy)
        assert envoy.failed_open() == statuses[503] > 0
    assert set(statuses) <= {403, 503}


def test_a_dropout_that_is_gone_lets_nobody_through(environment: Environment, tmp_path: Path) -> None:
    assert environment.ask(x_tenant="acme").status == 200
    assert environment.ask().status == 403
    with envoy_of(environment, tmp_path, 0.1) as envoy, environment.without_dropout():
        assert denied_without_a_word(environment, envoy) == {503: REQUESTS}
        assert environment.ask("/v1/open", through=envoy).upstream == "fraud-detector-v3"
