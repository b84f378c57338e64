"""The id of a decision comes back to the client through a real Envoy, and nothing else that is called so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.decision_id import KeyFile, Opened, arm_codes
from extproc.names import HEADER_DECISION_ID
from tests.e2e.environment import KEY, Environment
from tests.support.envoy import wait_until

pytestmark = pytest.mark.e2e

POLICY = """
package routing

default decision := {"allow": true}

decision := {"allow": false} if input.attributes.request.http.headers["x-role"] == "blocked"
"""


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    environment = Environment(POLICY, {"policy": {"path": "routing/decision"}})
    try:
        yield environment.start()
    finally:
        environment.stop()


def opened(environment: Environment, text: str) -> Opened:
    found = KeyFile(environment.folder / "dropout.db.ids", SystemClock()).open(text)
    assert isinstance(found, Opened), found
    return found


@pytest.mark.parametrize(("percent", "arm"), [(0, "control"), (100, "canary")])
def test_a_client_gets_the_id_that_its_version_got(environment: Environment, percent: int, arm: str) -> None:
    environment.set_weight(percent)
    seen = set()
    for number in range(20):
        answer = environment.ask(x_user_id=f"user-{number}", x_decision_id="mine")
        assert answer.headers[HEADER_DECISION_ID] == answer.sent[HEADER_DECISION_ID]
        said = opened(environment, answer.headers[HEADER_DECISION_ID])
        assert said.arm == arm_codes([])[arm]
        assert said.number in {
            epoch.number for epoch in open_store(environment.dropout.store).epochs_of(*KEY.split("/"))
        }
        seen.add(answer.headers[HEADER_DECISION_ID])
    assert len(seen) == 20


def test_a_denied_client_gets_an_id_too(environment: Environment) -> None:
    answer = environment.ask(x_user_id="alice", x_role="blocked")
    assert answer.status == 403
    assert answer.headers[HEADER_DECISION_ID] == answer.body["decision_id"]
    assert opened(environment, answer.headers[HEADER_DECISION_ID]).arm == 0


def test_who_is_not_decided_gets_none_and_a_client_not_its_own(environment: Environment) -> None:
    assert HEADER_DECISION_ID not in environment.ask("/nobody", x_decision_id="mine").headers
    with environment.without_dropout():
        for headers in ({}, {"x_decision_id": "mine"}):
            answer = environment.ask(x_user_id="alice", **headers)
            assert answer.status == 200
            assert HEADER_DECISION_ID not in answer.headers
            assert HEADER_DECISION_ID not in answer.sent
    assert environment.failed_open() > 0
    wait_until(lambda: HEADER_DECISION_ID in environment.ask(x_user_id="alice").headers, "decisions again")


def test_an_id_of_a_versions_own_making_does_not_reach_the_client(environment: Environment) -> None:
    environment.upstreams.said[HEADER_DECISION_ID] = "made-up"
    try:
        answer = environment.ask(x_user_id="alice")
        assert answer.headers[HEADER_DECISION_ID] == answer.sent[HEADER_DECISION_ID]
        with environment.without_dropout():
            answer = environment.ask(x_user_id="alice")
            assert (answer.status, HEADER_DECISION_ID in answer.headers) == (200, False)
    finally:
        environment.upstreams.said.clear()
