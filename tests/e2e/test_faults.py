"""What breaks, under load, on a real Envoy that fails open: no request fails, and hardly one goes undecided."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import orjson
import pytest

from tests.e2e.house import KEY, House
from tests.support.envoy import wait_until
from tests.support.load import Load, under_load

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


@pytest.fixture
def house() -> Iterator[House]:
    house = House(POLICY, {"policy": {"path": "routing/decision"}})
    try:
        house.start().set_weight(50)
        yield house
    finally:
        house.stop()


def _under_load(house: House, act: Callable[[Load], None], seconds: float = 6.0) -> Load:
    """Act a second into the load, and go on for ``seconds``."""
    with under_load(house.envoy.port, rate=RATE) as load:
        time.sleep(1)
        act(load)
        time.sleep(seconds)
    return load


def _unnoticed(house: House, load: Load) -> None:
    assert load.failed() == []
    undecided = house.envoy.failed_open()
    assert undecided < 0.01 * len(load.answered), f"{undecided} of {len(load.answered)} requests went undecided"


def _decides(house: House) -> bool:
    """Whether requests are decided, by both workers."""
    return all("x-model-version" in house.ask(x_user_id=f"user-{number}").sent for number in range(8))


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_worker_goes_unnoticed(house: House, number: int) -> None:
    victim = house.workers()[number]
    load = _under_load(house, lambda _: os.kill(victim, signal.SIGKILL), 4)
    _unnoticed(house, load)
    wait_until(lambda: len(house.workers()) == 2 and victim not in house.workers(), "a new worker")


def test_a_worker_that_hangs_is_gone_around_and_replaced(house: House) -> None:
    victim = house.workers()[0]
    load = _under_load(house, lambda _: os.kill(victim, signal.SIGSTOP))
    _unnoticed(house, load)
    wait_until(lambda: len(house.workers()) == 2 and victim not in house.workers(), "a new worker")


def test_a_policy_that_never_ends_for_one_request_stops_nobody_else(house: House) -> None:
    def spin(load: Load) -> None:
        assert house.ask(x_user_id="spinner", x_spin="1").status == 200

    load = _under_load(house, spin)
    _unnoticed(house, load)
    wait_until(lambda: bool(house.snapshot()["quarantined"]), "a policy in quarantine")
    # Quarantined means onError, which is stable, until there is another policy.
    assert house.ask(x_user_id="spinner", x_spin="1").upstream == "fraud-detector-v3"


def test_a_policy_that_never_ends_for_any_request_is_refused(house: House) -> None:
    before = house.snapshot()["policy_revision"]
    load = _under_load(house, lambda _: house.write_policy(ENDLESS))
    _unnoticed(house, load)
    assert house.snapshot()["policy_revision"] == before
    assert house.ask(x_user_id="user-1").sent["x-model-arm"] in ("canary", "control")


def test_a_killed_supervisor_is_succeeded_without_a_gap(house: House) -> None:
    def succeed(_: Load) -> None:
        house.end_dropout(signal.SIGKILL)
        house.start_dropout()

    load = _under_load(house, succeed, 6)
    _unnoticed(house, load)
    house.wait_ready()
    assert _decides(house)


def test_a_restart_after_sigterm_holds_requests_and_loses_none(house: House) -> None:
    def restart(_: Load) -> None:
        assert house.end_dropout(signal.SIGTERM) == 0
        house.start_dropout()

    load = _under_load(house, restart)
    _unnoticed(house, load)
    assert _decides(house)


def test_a_restarted_envoy_answers_without_an_error_once_it_listens(house: House) -> None:
    since = 0.0

    def restart(_: Load) -> None:
        nonlocal since
        house.envoy.stop()
        house.envoy.start()
        since = time.monotonic()

    load = _under_load(house, restart, 4)
    assert load.failed(after=since) == []
    assert len([answer for answer in load.answered if answer.sent_at >= since]) > 2 * RATE
    assert house.envoy.failed_open() < 0.01 * RATE * 4


def test_a_deleted_store_changes_nothing_for_requests(house: House) -> None:
    def delete(_: Load) -> None:
        for file in house.folder.glob("dropout.db*"):
            file.unlink()

    load = _under_load(house, delete, 4)
    _unnoticed(house, load)
    served = {orjson.loads(answer.body)["upstream"] for answer in load.answered[-200:]}
    assert served == {"fraud-detector-v3", "fraud-detector-v4"}


def test_a_bad_policy_and_a_bad_document_hold_up_no_other_change(house: House) -> None:
    def change(_: Load) -> None:
        house.write_policy("package routing\n\ndecision := {")
        house.write_rollout({"unknownField": 1})
        house.write_rollout(
            {
                "model": "other",
                "match": [{"path": {"value": "/v1/models/other"}}],
                "stable": {"version": "1"},
                "canary": {"version": "2"},
            },
            name="other",
        )

    policy_revision = house.snapshot()["policy_revision"]
    load = _under_load(house, change, 3)
    _unnoticed(house, load)
    wait_until(lambda: house.ask("/v1/models/other", x_user_id="a").status == 200, "the good change")
    answer = house.ask("/v1/models/other", x_user_id="a")
    assert (answer.upstream, answer.sent["x-model-rollout"]) == ("other-v1", "payments/other")
    assert house.snapshot()["policy_revision"] == policy_revision
    assert {answer.sent["x-model-rollout"] for answer in [house.ask(x_user_id="b")]} == {KEY}
