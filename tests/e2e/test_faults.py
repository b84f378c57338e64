"""What breaks, under load, on a real Envoy that fails open: no request fails, and hardly one goes undecided."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import orjson
import pytest

from tests.e2e.house import KEY, House
from tests.support.envoy import TEMPLATES, wait_until
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


@pytest.fixture(params=TEMPLATES)
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    """Over either transport: what breaks is noticed by different means, and by no request."""
    house = House(POLICY, {"policy": {"path": "routing/decision"}}, transport=request.param)
    try:
        house.start().set_weight(50)
        yield house
    finally:
        house.stop()


def _under_load(
    house: House, act: Callable[[Load], None], until: Callable[[], bool] = lambda: True, seconds: float = 2.0
) -> Load:
    """Act a second into the load, and go on for ``seconds`` after ``until`` holds."""
    with under_load(house.port, rate=RATE) as load:
        time.sleep(1)
        act(load)
        wait_until(until, "the end of the fault")
        time.sleep(seconds)
    return load


def _unnoticed(house: House, load: Load) -> None:
    assert load.failed() == []
    undecided = house.failed_open()
    assert undecided < 0.01 * len(load.answered), f"{undecided} of {len(load.answered)} requests went undecided"


def _quarantined(house: House) -> bool:
    return bool(house.dropout.snapshot()["quarantined"])


def _all_serve(house: House) -> bool:
    return [worker["state"] for worker in house.dropout.snapshot()["workers"]] == ["serving"] * 2


def _replaced(house: House, victim: int) -> bool:
    return victim not in house.dropout.worker_pids() and _all_serve(house)


def _decides(house: House) -> bool:
    """Whether requests are decided, by both workers."""
    return all("x-model-version" in house.ask(x_user_id=f"user-{number}").sent for number in range(8))


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_worker_goes_unnoticed(house: House, number: int) -> None:
    victim = house.dropout.worker_pids()[number]
    load = _under_load(house, lambda _: os.kill(victim, signal.SIGKILL), lambda: _replaced(house, victim))
    _unnoticed(house, load)


def test_a_worker_that_hangs_is_gone_around_and_replaced(house: House) -> None:
    victim = house.dropout.worker_pids()[0]
    load = _under_load(house, lambda _: os.kill(victim, signal.SIGSTOP), lambda: _replaced(house, victim))
    _unnoticed(house, load)


def test_a_policy_that_never_ends_for_one_request_stops_nobody_else(house: House) -> None:
    def spin(load: Load) -> None:
        assert house.ask(x_user_id="spinner", x_spin="1").status == 200

    load = _under_load(house, spin, lambda: _quarantined(house) and _all_serve(house))
    _unnoticed(house, load)
    # Quarantined means onError, which is stable, until there is another policy.
    assert house.ask(x_user_id="spinner", x_spin="1").upstream == "fraud-detector-v3"


def test_a_policy_that_never_ends_for_any_request_is_refused(house: House) -> None:
    before = house.dropout.snapshot()["policy_revision"]

    def refused() -> bool:
        return any(error["code"] == "policy_too_slow" for error in house.dropout.snapshot()["errors"])

    load = _under_load(house, lambda _: house.dropout.write_policy(ENDLESS), refused)
    _unnoticed(house, load)
    assert house.dropout.snapshot()["policy_revision"] == before
    assert house.ask(x_user_id="user-1").sent["x-model-arm"] in ("canary", "control")


def test_a_killed_supervisor_is_succeeded_without_a_gap(house: House) -> None:
    def succeed(_: Load) -> None:
        house.dropout.stop(signal.SIGKILL)
        house.dropout.start()

    load = _under_load(house, succeed, seconds=6)
    _unnoticed(house, load)
    assert _decides(house)


def test_a_restart_after_sigterm_holds_requests_and_loses_none(house: House) -> None:
    def restart(_: Load) -> None:
        assert house.dropout.stop() == 0
        house.dropout.start()

    load = _under_load(house, restart, seconds=6)
    _unnoticed(house, load)
    assert _decides(house)


@pytest.mark.parametrize("transport", TEMPLATES)
def test_a_drain_that_takes_long_costs_no_decision(transport: str) -> None:
    house = House(POLICY, {"policy": {"path": "routing/decision"}}, transport=transport, DROPOUT_LAME_DUCK="8")

    def restart(_: Load) -> None:
        assert house.dropout.stop() == 0
        house.dropout.start()

    try:
        house.start()
        load = _under_load(house, restart)
        _unnoticed(house, load)
    finally:
        house.stop()


def test_a_restarted_envoy_answers_without_an_error_once_it_listens(house: House) -> None:
    since = 0.0

    def restart(_: Load) -> None:
        nonlocal since
        assert house.envoy is not None
        house.envoy.stop()
        house.envoy.start()
        since = time.monotonic()

    load = _under_load(house, restart, seconds=4)
    assert load.failed(after=since) == []
    assert len([answer for answer in load.answered if answer.sent_at >= since]) > 2 * RATE
    assert house.failed_open() < 0.01 * RATE * 4


def test_sockets_that_are_removed_go_unnoticed(house: House) -> None:
    before = house.dropout.worker_pids()

    def remove(_: Load) -> None:
        for socket in house.sockets:
            socket.unlink()

    def renewed() -> bool:
        return all(_replaced(house, pid) for pid in before) and all(socket.exists() for socket in house.sockets)

    load = _under_load(house, remove, renewed)
    _unnoticed(house, load)


def test_a_deleted_store_changes_nothing_for_requests(house: House) -> None:
    def delete(_: Load) -> None:
        for file in house.folder.glob("dropout.db*"):
            if file.is_file():
                file.unlink()

    load = _under_load(house, delete, seconds=4)
    _unnoticed(house, load)
    served = {orjson.loads(answer.body)["upstream"] for answer in load.answered[-200:]}
    assert served == {"fraud-detector-v3", "fraud-detector-v4"}


def test_a_bad_policy_and_a_bad_document_hold_up_no_other_change(house: House) -> None:
    def change(_: Load) -> None:
        house.dropout.write_policy("package routing\n\ndecision := {")
        house.dropout.write_rollout(unknownField=1)
        elsewhere = [{"path": {"value": "/v1/models/other"}}]
        versions = {"stable": {"version": "1"}, "canary": {"version": "2"}}
        house.dropout.write_rollout("other", model="other", match=elsewhere, **versions)

    policy_revision = house.dropout.snapshot()["policy_revision"]
    load = _under_load(house, change, lambda: house.ask("/v1/models/other", x_user_id="a").status == 200)
    _unnoticed(house, load)
    answer = house.ask("/v1/models/other", x_user_id="a")
    assert (answer.upstream, answer.sent["x-model-rollout"]) == ("other-v1", "payments/other")
    assert house.dropout.snapshot()["policy_revision"] == policy_revision
    assert {answer.sent["x-model-rollout"] for answer in [house.ask(x_user_id="b")]} == {KEY}
