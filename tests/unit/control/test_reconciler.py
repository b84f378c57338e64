"""The reconcile loop on the real store: it moves rollouts, leads alone, and loses nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from extproc.control.actions import Abort, Kill, Promote, SetWeight, Trip, act
from extproc.control.following import Followed
from extproc.control.holding import PolicyHold
from extproc.control.intent import Transition
from extproc.control.policy import Verdict
from extproc.control.rollout import Observations
from extproc.errors import Refused, Unreachable
from extproc.snapshot.store import Write
from tests.support.damage import damage
from tests.support.reconciling import KEY, LEASE_SECONDS, NAME, House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.store.close()


def test_a_rollout_goes_through_its_steps_and_is_promoted(house: House) -> None:
    house.apply()
    controller = house.controller()
    weights = []
    for _ in range(40):
        house.run(controller, 1)
        weights.append(house.weight())
    assert sorted(set(weights)) == [0, 500, 5000]
    assert house.row().status.phase == "Healthy"
    assert house.row().status.stable == "4"
    assert len(controller._under_way) == 0


def test_every_step_stands_in_the_history_with_who_and_why(house: House) -> None:
    house.apply()
    house.run(house.controller("box"), 40)
    entries = house.history()
    assert entries[0].action == "apply"
    assert {entry.actor for entry in entries[1:]} == {"controller@box"}
    assert [entry.action for entry in entries[1:]] == [
        "advance",
        "pause",
        "advance",
        "advance",
        "pause",
        "advance",
        "promote",
    ]
    assert all(entry.message for entry in entries)
    assert [line for line in house.said if line.startswith("rollout")] == [
        f"rollout {KEY}: {entry.message}" for entry in entries[1:]
    ]


def test_a_damaged_row_holds_up_no_other_rollout(house: House) -> None:
    house.apply()
    house.apply("other")
    damage(house.folder / "dropout.db", "other")
    house.run(house.controller(), 40)
    assert house.row().status.phase == "Healthy"


@pytest.mark.parametrize("seen", [True, False], ids=["as-a-change", "unseen"])
def test_a_row_that_is_damaged_in_mid_ramp_holds_up_no_other_rollout_and_is_told_once(
    house: House, caplog: pytest.LogCaptureFixture, seen: bool
) -> None:
    house.apply()
    house.apply("other")
    controller = house.controller()
    house.run(controller, 5)
    damage(house.folder / "dropout.db", "other", seen=seen)
    house.run(controller, 40)
    assert house.row().status.phase == "Healthy"
    told = [record.message for record in caplog.records if "payments/other is left as it is" in record.message]
    assert len(told) == 1


def test_a_rollout_without_steps_is_left_alone(house: House) -> None:
    house.apply(steps=[])
    before = house.row()
    house.run(house.controller(), 5)
    assert house.row() == before


def test_a_trip_aborts_a_rollout_that_is_under_way(house: House) -> None:
    house.apply()
    controller = house.controller()
    house.run(controller, 3)
    act(house.store, "breaker@box", Trip(*NAME, "4", 1, "10 failures in a row"), house.clock)
    house.run(controller, 1)
    status = house.row().status
    assert (status.phase, status.weight, status.aborted) == ("Degraded", 0, ("4",))
    assert house.history()[-1].action == "abort"


def test_a_trip_that_the_store_hears_of_late_stands_in_the_history_at_its_own_time(house: House) -> None:
    house.apply()
    house.run(house.controller(), 3)
    tripped_at = house.clock.now()
    house.clock.advance(40)
    act(house.store, "breaker@box", Trip(*NAME, "4", 1, "10 failures in a row", tripped_at), house.clock)
    entry = house.history()[-1]
    assert (entry.action, entry.at) == ("trip", tripped_at)


PAUSES = [{"setWeight": 5}, {"pause": {"duration": "90s"}}, {"setWeight": 50}, {"pause": {"duration": "90s"}}]


def in_mid_ramp_without_a_controller(house: House) -> None:
    """At weight 50, ten seconds into its pause, the controller is gone for a minute."""
    house.apply(steps=PAUSES)
    controller = house.controller()
    house.run(controller, 103)
    assert (house.weight(), house.row().status.step) == (5000, 3)


def test_while_no_controller_is_there_traffic_stays_and_the_next_one_goes_on_without_a_step_too_many(
    house: House,
) -> None:
    in_mid_ramp_without_a_controller(house)
    before, paused_at = house.row(), house.row().status.step_at
    house.clock.advance(60)
    assert house.row() == before
    assert house.weight() == 5000
    successor = house.controller("b")
    for _ in range(60):
        house.run(successor, 1)
        assert house.weight() == (5000 if house.row().status.phase == "Paused" else 0)
    promoted = house.history()[-1]
    assert (promoted.action, promoted.actor) == ("promote", "controller@b")
    assert 90 <= promoted.at - paused_at < 92


def test_a_trip_while_no_controller_is_there_holds_and_the_next_one_aborts_once(house: House) -> None:
    in_mid_ramp_without_a_controller(house)
    house.clock.advance(30)
    act(house.store, "breaker@box", Trip(*NAME, "4", 1, "10 failures in a row"), house.clock)
    assert house.row().status.tripped == ("4",)  # which every worker goes by
    house.clock.advance(30)
    house.run(house.controller("b"), 5)
    status = house.row().status
    assert (status.phase, status.weight, status.aborted) == ("Degraded", 0, ("4",))
    assert [entry.action for entry in house.history()[-2:]] == ["trip", "abort"]


def test_what_others_do_meanwhile_is_taken_up(house: House) -> None:
    house.apply()
    controller = house.controller()
    house.run(controller, 3)
    act(house.store, "bob", SetWeight(*NAME, 2500), house.clock)
    house.run(controller, 30)
    assert (house.weight(), house.row().status.reason) == (2500, "manual_weight")
    act(house.store, "bob", Promote(*NAME, full=True), house.clock)
    house.run(controller, 2)
    assert controller.under_way == 0
    house.apply(canary={"version": "5"})
    house.run(controller, 2)
    assert (house.row().status.canary, house.weight()) == ("5", 500)


def test_nothing_goes_up_while_an_upstream_is_not_ready_and_the_reason_is_said_once(house: House) -> None:
    house.apply()
    controller = house.controller()
    house.seen.observations = Observations(unready="cluster fraud-detector-v4 is not known")
    house.run(controller, 20)
    status = house.row().status
    assert (status.weight, status.reason) == (0, "upstream_not_ready")
    assert [entry.message for entry in house.history()[1:]] == ["waits: cluster fraud-detector-v4 is not known"]
    house.seen.observations = Observations()
    house.run(controller, 2)
    assert house.weight() == 500


class Answers:
    def __init__(self) -> None:
        self.verdict = Verdict(True)
        self.asked: list[str] = []

    def decide(self, question: Any) -> Verdict:
        self.asked.append(question["action"])
        return self.verdict


def test_a_policy_that_says_no_makes_the_controller_wait_too_and_never_with_an_abort(house: House) -> None:
    house.apply()
    policy = Answers()
    hold = PolicyHold(house.store, policy, "controller@a", house.clock.monotonic)
    controller = house.controller(hold=hold)
    house.run(controller, 3)
    policy.verdict = Verdict(False, "frozen")
    house.run(controller, 30)
    status = house.row().status
    assert (house.weight(), status.reason) == (500, "control_denied")
    assert "controller@a may not advance payments/fraud-detector: frozen" in status.message
    assert len(policy.asked) < 8  # not at every tick
    act(house.store, "breaker@box", Trip(*NAME, "4", 1, "10 failures in a row"), house.clock)
    house.run(controller, 1)
    assert house.row().status.phase == "Degraded"
    assert set(policy.asked) == {"advance"}


def test_what_takes_away_is_written_before_anybody_is_asked_about_a_rise(house: House) -> None:
    house.apply("a")
    house.apply("b")
    seen: list[str] = []

    def hold(followed: Followed, transition: Transition, now: float) -> str:
        seen.append(house.row("b").status.phase)
        return ""

    act(house.store, "breaker@box", Trip("payments", "b", "4", 1, "10 failures in a row"), house.clock)
    house.run(house.controller(hold=hold), 1)
    assert seen == ["Degraded"]
    assert house.row("a").status.weight == 500


def test_of_two_controllers_one_acts_and_the_other_takes_over(house: House) -> None:
    house.apply(steps=[{"pause": {"duration": "5s"}}, {"setWeight": 5}, {"pause": {}}])
    first, second = house.controller("a"), house.controller("b")
    for _ in range(3):
        first.tick()
        second.tick()
        house.clock.advance(1)
    assert (first.leading, second.leading) == (True, False)
    house.run(second, 12)  # the first one is dead; its lease runs out
    assert second.leading
    assert house.weight() == 500
    assert house.history()[-1].actor == "controller@b"


def test_a_controller_that_releases_is_succeeded_at_once(house: House) -> None:
    first, second = house.controller("a"), house.controller("b")
    first.tick()
    first.release()
    second.tick()
    assert (first.leading, second.leading) == (False, True)


def test_a_controller_that_still_thinks_it_leads_writes_nothing(house: House) -> None:
    house.apply()
    first, second = house.controller("a"), house.controller("b")
    first.tick()
    before = house.row()
    house.clock.advance(LEASE_SECONDS + 1)
    second._lease = second._store.acquire("b", LEASE_SECONDS)
    # The first one's lease, as it knows it, was never renewed nor lost: it writes, and the store refuses.
    first._renew_at = house.clock.monotonic() + 5
    assert first._lease is not None
    with pytest.raises(Refused) as refused:
        first._store.write([Write(*NAME, before.resource_version, status=before.status)], lease=first._lease)
    assert refused.value.code == "lease_lost"
    first.tick()
    assert house.row() == before
    assert not first.leading
    house.run(second, 1)
    assert house.row() != before


def test_a_row_that_another_wrote_first_holds_up_no_other_row(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        house.apply(name)
    controller = house.controller()
    write = controller._store.write
    raced = []

    def racing(writes: Sequence[Write], **options: Any) -> Any:
        if not raced:
            raced.append(act(house.store, "bob", Kill("payments", "b"), house.clock))
        return write(writes, **options)

    monkeypatch.setattr(controller._store, "write", racing)
    controller.tick()
    steps = {name: house.row(name).status.step for name in ("a", "b", "c")}
    assert steps == {"a": 1, "b": 0, "c": 1}
    assert [entry.actor for entry in house.history("b")] == ["alice", "bob"]
    house.run(controller, 2)
    assert house.row("b").status.killed


@pytest.mark.parametrize("code", ["store_full", "store_locked", "store_unreachable"])
def test_a_store_that_fails_is_waited_for_and_nothing_is_lost(
    house: House, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.apply()
    controller = house.controller()
    house.run(controller, 1)

    def fails(*_: Any, **__: Any) -> Any:
        raise Unreachable.of(code, "the store is away")

    with monkeypatch.context() as broken:
        for method in ("write", "changes", "acquire"):
            broken.setattr(controller._store, method, fails)
        house.run(controller, 30)
        assert controller.fault is not None
        assert controller.fault.code == code
        assert not controller.leading
    before = house.history()
    house.run(controller, 30)
    assert controller.fault is None
    assert house.row().status.stable == "4"
    assert house.history()[: len(before)] == before
    assert [line for line in house.said if line.startswith("waits: ")] == [f"waits: the store is away ({code})"]


def test_a_store_that_is_really_locked_is_waited_for(house: House) -> None:
    house.apply()
    controller = house.controller()
    other = sqlite3.connect(house.folder / "dropout.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    controller.tick()
    assert controller.fault is not None
    assert controller.fault.code == "store_locked"
    other.execute("ROLLBACK")
    other.close()
    controller.tick()
    assert house.row().status.step == 1


def test_a_store_that_went_away_and_came_back_is_followed(house: House) -> None:
    house.apply()
    controller = house.controller()
    house.run(controller, 2)
    (house.folder / "dropout.db").rename(house.folder / "away.db")
    house.run(controller, 2)
    assert controller.fault is not None
    assert controller.fault.code == "store_unreachable"
    (house.folder / "away.db").rename(house.folder / "dropout.db")
    house.run(controller, 30)
    assert house.row().status.stable == "4"


def test_a_clock_that_is_set_back_an_hour_moves_nothing_and_the_ramp_goes_on(house: House) -> None:
    house.apply()
    controller = house.controller()
    house.run(controller, 3)
    before = house.row().status
    house.clock.set_back(3600)
    house.run(controller, 2)
    after = house.row().status
    assert (after.weight, after.step, after.phase) == (before.weight, before.step, before.phase)
    assert house.weight() == 500
    house.run(controller, 12)
    assert house.weight() == 5000
    assert controller.leading


def test_a_rollout_that_cannot_be_looked_at_holds_up_no_other(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.apply("a")
    house.apply("b")
    controller = house.controller()

    def observe(followed: Followed, now: float) -> Observations:
        if followed.key == "payments/a":
            raise RecursionError("deep")
        return Observations()

    house.seen.observe = observe  # type: ignore[method-assign]
    house.run(controller, 3)
    assert (house.row("a").status.step, house.row("b").status.step) == (0, 1)
    assert caplog.text.count("payments/a is left as it is") == 1
    assert controller.failures >= 3


def test_a_bug_in_a_tick_is_told_and_the_next_one_comes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.apply()
    controller = house.controller()
    monkeypatch.setattr(house.seen, "begin", lambda _now: 1 / 0)
    house.run(controller, 3)
    assert controller.fault is not None
    assert (controller.fault.code, controller.failures, controller.leading) == ("tick_failed", 3, True)
    monkeypatch.undo()
    house.run(controller, 40)
    assert (controller.fault, house.row().status.phase) == (None, "Healthy")


def test_a_bug_in_one_rollout_holds_up_no_other(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.apply("a")
    house.apply("b")
    controller = house.controller()

    class Unknown:
        def __bool__(self) -> bool:
            raise ArithmeticError

    bad = Observations(unready=Unknown())  # type: ignore[arg-type]

    def observe(followed: Followed, now: float) -> Observations:
        return bad if followed.key == "payments/a" else Observations()

    house.seen.observe = observe  # type: ignore[method-assign]
    house.run(controller, 3)
    assert (house.row("a").status.step, house.row("b").status.step) == (0, 1)
    assert caplog.text.count("payments/a is left as it is") == 1


def test_a_document_that_this_version_does_not_take_is_left_as_it_is(house: House) -> None:
    house.apply()
    body = {"spec": {"unknown": 1}, "metadata": {"namespace": "payments", "name": "old"}}
    house.store.write([Write("payments", "old", None, body, house.row().status)])
    controller = house.controller()
    house.run(controller, 2)
    assert house.row().status.step > 0
    assert house.row("old").status.step == 0


def test_an_abort_ends_it(house: House) -> None:
    house.apply()
    controller = house.controller()
    house.run(controller, 2)
    act(house.store, "bob", Abort(*NAME), house.clock)
    before = house.row()
    house.run(controller, 20)
    assert house.row() == before


def test_a_thousand_rollouts_that_wait_cost_a_tick_little(house: House) -> None:
    """Counted, not timed: a tick at which nothing is due parses nothing and writes nothing."""
    for number in range(30):
        house.apply(f"r{number}")
    controller = house.controller()
    house.run(controller, 2)
    plans = [followed.plan for followed in controller._under_way]
    revision = house.store.documents().revision
    before = house.row("r0").resource_version
    house.run(controller, 2)
    assert [followed.plan for followed in controller._under_way] == plans
    assert all(one is other for one, other in zip(plans, (f.plan for f in controller._under_way), strict=True))
    assert (house.row("r0").resource_version, house.store.documents().revision) == (before, revision)


def test_a_jump_of_the_wall_clock_ends_no_timed_pause_of_who_leads_again(house: House) -> None:
    house.apply(steps=[{"setWeight": 50}, {"pause": {"duration": "10m"}}])
    controller = house.controller()
    house.run(controller, 5)
    house.clock.set_back(-3600)
    lock = sqlite3.connect(house.folder / "dropout.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    house.run(controller, LEASE_SECONDS + 5)
    assert not controller.leading
    lock.execute("ROLLBACK")
    lock.close()
    house.run(controller, 60)
    assert controller.leading
    assert house.row().status.reason == "pause_step"


def test_a_jump_of_the_wall_clock_ends_no_timed_pause(house: House) -> None:
    house.apply(steps=[{"setWeight": 5}, {"pause": {"duration": "1m"}}, {"setWeight": 50}, {"pause": {}}])
    controller = house.controller()
    house.run(controller, 5)
    house.clock.set_back(-3600)
    house.run(controller, 50)
    assert house.weight() == 500
    house.run(controller, 10)
    assert house.weight() == 5000


def test_a_promotion_that_a_clock_put_into_the_future_is_planned_anew(house: House) -> None:
    house.apply(steps=[{"setWeight": 50}])
    controller = house.controller()
    house.run(controller, 5)
    assert house.row().status.stable_at(house.clock.now()) == "4"
    house.clock.set_back(3600)
    assert house.row().status.stable_at(house.clock.now()) == "3"
    house.run(controller, 2)
    assert house.row().status.stable_at(house.clock.now()) == "4"
    assert house.history()[-1].message == "the clock was set back: what was to come is planned anew"
    house.clock.set_back(3600)
    house.run(house.controller("another"), 12)
    assert house.row().status.stable_at(house.clock.now()) == "4"
