"""What breaks, under load, on a real Envoy that fails open: no request fails, and hardly one goes undecided."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import orjson
import pytest

from tests.e2e.environment import KEY, Environment
from tests.support.envoy import TEMPLATES, wait_until
from tests.support.load import Load, under_load
from tests.support.process import PATIENCE

pytestmark = pytest.mark.e2e

RATE = 200.0

POLICY = """
package routing

import rego.v1

default decision := {"allow": true}

decision := {"allow": true} if {
	input.attributes.request.http.headers["x-spin"]
	some i in numbers.range(1, 3000)
	some j in numbers.range(1, 3000)
	some k in numbers.range(1, 3000)
	i + j + k < 0
}
"""

ENDLESS = """
package routing

import rego.v1

default decision := {"allow": true}

decision := {"allow": false} if {
	some i in numbers.range(1, 3000)
	some j in numbers.range(1, 3000)
	some k in numbers.range(1, 3000)
	i + j + k < 0
}
"""


@pytest.fixture(params=TEMPLATES)
def environment(request: pytest.FixtureRequest) -> Iterator[Environment]:
    """Over either transport: what breaks is noticed by different means, and by no request."""
    # A successor comes when the machine lets it; how soon it must come is no matter here.
    grace = str(PATIENCE)
    environment = Environment(
        POLICY, {"policy": {"path": "routing/decision"}}, transport=request.param, DROPOUT_ORPHAN_GRACE=grace
    )
    try:
        environment.start().set_weight(50)
        yield environment
    finally:
        environment.stop()


def _under_load(
    environment: Environment, act: Callable[[Load], None], until: Callable[[], bool] = lambda: True, then: int = 400
) -> Load:
    """Act under load, and go on for ``then`` requests after ``until`` holds."""
    with under_load(environment.port, rate=RATE) as load:
        load.go_on(200)
        act(load)
        wait_until(until, "the end of the fault")
        load.go_on(then)
    return load


def _unnoticed(environment: Environment, load: Load) -> None:
    assert load.failed() == []
    undecided = environment.failed_open()
    assert undecided < 0.01 * len(load.answered), f"{undecided} of {len(load.answered)} requests went undecided"


def _quarantined(environment: Environment) -> bool:
    return bool(environment.dropout.snapshot()["quarantined"])


def _all_serve(environment: Environment) -> bool:
    return [worker["state"] for worker in environment.dropout.snapshot()["workers"]] == ["serving"] * 2


def _replaced(environment: Environment, victim: int) -> bool:
    return victim not in environment.dropout.worker_pids() and _all_serve(environment)


def _decides(environment: Environment) -> bool:
    """Whether requests are decided, by both workers."""
    return all("x-model-version" in environment.ask(x_user_id=f"user-{number}").sent for number in range(8))


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_worker_goes_unnoticed(environment: Environment, number: int) -> None:
    victim = environment.dropout.worker_pids()[number]
    load = _under_load(environment, lambda _: os.kill(victim, signal.SIGKILL), lambda: _replaced(environment, victim))
    _unnoticed(environment, load)


def test_a_worker_that_hangs_is_gone_around_and_replaced(environment: Environment) -> None:
    victim = environment.dropout.worker_pids()[0]
    load = _under_load(environment, lambda _: os.kill(victim, signal.SIGSTOP), lambda: _replaced(environment, victim))
    _unnoticed(environment, load)


def test_a_policy_that_never_ends_for_one_request_stops_nobody_else(environment: Environment) -> None:
    def spin(load: Load) -> None:
        assert environment.ask(x_user_id="spinner", x_spin="1").status == 200

    load = _under_load(environment, spin, lambda: _quarantined(environment) and _all_serve(environment))
    _unnoticed(environment, load)
    # Quarantined means onError, which is stable, until there is another policy.
    assert environment.ask(x_user_id="spinner", x_spin="1").upstream == "fraud-detector-v3"


def test_a_policy_that_never_ends_for_any_request_is_refused(environment: Environment) -> None:
    before = environment.dropout.snapshot()["policy_revision"]

    def refused() -> bool:
        return any(error["code"] == "policy_too_slow" for error in environment.dropout.snapshot()["errors"])

    load = _under_load(environment, lambda _: environment.dropout.write_policy(ENDLESS), refused)
    _unnoticed(environment, load)
    assert environment.dropout.snapshot()["policy_revision"] == before
    assert environment.ask(x_user_id="user-1").sent["x-model-arm"] in ("canary", "control")


def test_a_killed_supervisor_is_succeeded_without_a_gap(environment: Environment) -> None:
    def succeed(_: Load) -> None:
        environment.dropout.stop(signal.SIGKILL)
        environment.dropout.start()

    load = _under_load(environment, succeed, then=1200)
    _unnoticed(environment, load)
    assert _decides(environment)


def test_a_restart_after_sigterm_holds_requests_and_loses_none(environment: Environment) -> None:
    def restart(_: Load) -> None:
        assert environment.dropout.stop() == 0
        environment.dropout.start()

    load = _under_load(environment, restart, then=1200)
    _unnoticed(environment, load)
    assert _decides(environment)


@pytest.mark.parametrize("transport", TEMPLATES)
def test_a_drain_that_takes_long_costs_no_decision(transport: str) -> None:
    environment = Environment(
        POLICY, {"policy": {"path": "routing/decision"}}, transport=transport, DROPOUT_LAME_DUCK="8"
    )

    def restart(_: Load) -> None:
        assert environment.dropout.stop() == 0
        environment.dropout.start()

    try:
        environment.start()
        load = _under_load(environment, restart)
        _unnoticed(environment, load)
    finally:
        environment.stop()


def test_a_restarted_envoy_answers_without_an_error_once_it_listens(environment: Environment) -> None:
    since = 0.0

    def restart(_: Load) -> None:
        nonlocal since
        assert environment.envoy is not None
        environment.envoy.stop()
        environment.envoy.start()
        since = time.monotonic()

    load = _under_load(environment, restart, then=800)
    assert load.failed(after=since) == []
    sent = [answer for answer in load.answered if answer.sent_at >= since]
    assert environment.failed_open() < 0.01 * len(sent)


def test_sockets_that_are_removed_go_unnoticed(environment: Environment) -> None:
    def remove(_: Load) -> None:
        for socket in environment.sockets:
            socket.unlink()

    load = _under_load(environment, remove, lambda: all(socket.exists() for socket in environment.sockets))
    _unnoticed(environment, load)


def test_a_deleted_store_changes_nothing_for_requests(environment: Environment) -> None:
    def delete(_: Load) -> None:
        for file in environment.folder.glob("dropout.db*"):
            if file.is_file():
                file.unlink()

    load = _under_load(environment, delete, then=800)
    _unnoticed(environment, load)
    served = {orjson.loads(answer.body)["upstream"] for answer in load.answered[-200:]}
    assert served == {"fraud-detector-v3", "fraud-detector-v4"}


def test_a_bad_policy_and_a_bad_document_hold_up_no_other_change(environment: Environment) -> None:
    def change(_: Load) -> None:
        environment.dropout.write_policy("package routing\n\ndecision := {")
        environment.dropout.write_rollout(unknownField=1)
        elsewhere = [{"path": {"value": "/v1/models/other"}}]
        versions = {"stable": {"version": "1"}, "canary": {"version": "2"}}
        environment.dropout.write_rollout("other", model="other", match=elsewhere, **versions)

    policy_revision = environment.dropout.snapshot()["policy_revision"]
    load = _under_load(environment, change, lambda: environment.ask("/v1/models/other", x_user_id="a").status == 200)
    _unnoticed(environment, load)
    answer = environment.ask("/v1/models/other", x_user_id="a")
    assert (answer.upstream, answer.sent["x-model-rollout"]) == ("other-v1", "payments/other")
    assert environment.dropout.snapshot()["policy_revision"] == policy_revision
    assert {answer.sent["x-model-rollout"] for answer in [environment.ask(x_user_id="b")]} == {KEY}
