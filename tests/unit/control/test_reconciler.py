"""The reconcile loop on the real store: it moves rollouts, leads alone, and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from extproc.control.acting import act
from extproc.control.actions import Abort, Kill, Promote, SetWeight, Trip
from extproc.control.active_rollouts import ActiveRollout
from extproc.control.intent import Transition
from extproc.control.policy import ActionVerdict
from extproc.control.policy_veto import PolicyVeto
from extproc.control.rollout import Evidence
from extproc.errors import Refused, Unreachable
from extproc.store.records import Write
from tests.support.damage import damage
from tests.support.reconciling import KEY, LEASE_SECONDS, NAME, Environment


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    environment = Environment(tmp_path)
    yield environment
    environment.store.close()


def test_a_rollout_goes_through_its_steps_and_is_promoted(environment: Environment) -> None:
    environment.apply()
    controller = environment.controller()
    weights = []
    for _ in range(40):
        environment.run(controller, 1)
        weights.append(environment.weight())
    assert sorted(set(weights)) == [0, 500, 5000]
    assert environment.row().status.phase == "Healthy"
    assert environment.row().status.stable == "4"
    assert len(controller._under_way) == 0


def test_every_step_stands_in_the_history_with_who_and_why(environment: Environment) -> None:
    environment.apply()
    environment.run(environment.controller("box"), 40)
    entries = environment.history()
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
    assert [line for line in environment.said if line.startswith("rollout")] == [
        f"rollout {KEY}: {entry.message}" for entry in entries[1:]
    ]


def test_a_damaged_row_holds_up_no_other_rollout(environment: Environment) -> None:
    environment.apply()
    environment.apply("other")
    damage(environment.place, "other")
    environment.run(environment.controller(), 40)
    assert environment.row().status.phase == "Healthy"


@pytest.mark.parametrize("seen", [True, False], ids=["as-a-change", "unseen"])
def test_a_row_that_is_damaged_in_mid_ramp_holds_up_no_other_rollout_and_is_told_once(
    environment: Environment, caplog: pytest.LogCaptureFixture, seen: bool
) -> None:
    environment.apply()
    environment.apply("other")
    controller = environment.controller()
    environment.run(controller, 5)
    damage(environment.place, "other", seen=seen)
    environment.run(controller, 40)
    assert environment.row().status.phase == "Healthy"
    told = [record.message for record in caplog.records if "payments/other: it is left as it is" in record.message]
    assert len(told) == 1


def test_a_rollout_without_steps_is_left_alone(environment: Environment) -> None:
    environment.apply(steps=[])
    before = environment.row()
    environment.run(environment.controller(), 5)
    assert environment.row() == before


def test_a_trip_aborts_a_rollout_that_is_under_way(environment: Environment) -> None:
    environment.apply()
    controller = environment.controller()
    environment.run(controller, 3)
    act(environment.store, "breaker@box", Trip(*NAME, "4", 1, "10 failures in a row"), environment.clock)
    environment.run(controller, 1)
    status = environment.row().status
    assert (status.phase, status.weight, status.aborted) == ("Degraded", 0, ("4",))
    assert environment.history()[-1].action == "abort"


def test_a_trip_that_the_store_hears_of_late_stands_in_the_history_at_its_own_time(environment: Environment) -> None:
    environment.apply()
    environment.run(environment.controller(), 3)
    tripped_at = environment.clock.now()
    environment.clock.advance(40)
    act(environment.store, "breaker@box", Trip(*NAME, "4", 1, "10 failures in a row", tripped_at), environment.clock)
    entry = environment.history()[-1]
    assert (entry.action, entry.at) == ("trip", tripped_at)


PAUSES = [{"setWeight": 5}, {"pause": {"duration": "90s"}}, {"setWeight": 50}, {"pause": {"duration": "90s"}}]


def in_mid_ramp_without_a_controller(environment: Environment) -> None:
    """At weight 50, ten seconds into its pause, the controller is gone for a minute."""
    environment.apply(steps=PAUSES)
    controller = environment.controller()
    environment.run(controller, 103)
    assert (environment.weight(), environment.row().status.step) == (5000, 3)


def test_while_no_controller_is_there_traffic_stays_and_the_next_one_goes_on_without_a_step_too_many(
    environment: Environment,
) -> None:
    in_mid_ramp_without_a_controller(environment)
    before, paused_at = environment.row(), environment.row().status.step_at
    environment.clock.advance(60)
    assert environment.row() == before
    assert environment.weight() == 5000
    successor = environment.controller("b")
    for _ in range(60):
        environment.run(successor, 1)
        assert environment.weight() == (5000 if environment.row().status.phase == "Paused" else 0)
    promoted = environment.history()[-1]
    assert (promoted.action, promoted.actor) == ("promote", "controller@b")
    assert 90 <= promoted.at - paused_at < 92


def test_a_trip_while_no_controller_is_there_holds_and_the_next_one_aborts_once(environment: Environment) -> None:
    in_mid_ramp_without_a_controller(environment)
    environment.clock.advance(30)
    act(environment.store, "breaker@box", Trip(*NAME, "4", 1, "10 failures in a row"), environment.clock)
    assert environment.row().status.tripped == ("4",)  # which every worker goes by
    environment.clock.advance(30)
    environment.run(environment.controller("b"), 5)
    status = environment.row().status
    assert (status.phase, status.weight, status.aborted) == ("Degraded", 0, ("4",))
    assert [entry.action for entry in environment.history()[-2:]] == ["trip", "abort"]


def test_what_others_do_meanwhile_is_taken_up(environment: Environment) -> None:
    environment.apply()
    controller = environment.controller()
    environment.run(controller, 3)
    act(environment.store, "bob", SetWeight(*NAME, 2500), environment.clock)
    environment.run(controller, 30)
    assert (environment.weight(), environment.row().status.reason) == (2500, "manual_weight")
    act(environment.store, "bob", Promote(*NAME, full=True), environment.clock)
    environment.run(controller, 2)
    assert controller.under_way == 0
    environment.apply(canary={"version": "5"})
    environment.run(controller, 2)
    assert (environment.row().status.canary, environment.weight()) == ("5", 500)


def test_nothing_goes_up_while_an_upstream_is_not_ready_and_the_reason_is_said_once(environment: Environment) -> None:
    environment.apply()
    controller = environment.controller()
    environment.seen.evidence = Evidence(unready="cluster fraud-detector-v4 is not known")
    environment.run(controller, 20)
    status = environment.row().status
    assert (status.weight, status.reason) == (0, "upstream_not_ready")
    assert [entry.message for entry in environment.history()[1:]] == ["waits: cluster fraud-detector-v4 is not known"]
    environment.seen.evidence = Evidence()
    environment.run(controller, 2)
    assert environment.weight() == 500


class Answers:
    def __init__(self) -> None:
        self.verdict = ActionVerdict(True)
        self.asked: list[str] = []

    def decide(self, question: Any) -> ActionVerdict:
        self.asked.append(question["action"])
        return self.verdict


def test_a_policy_that_says_no_makes_the_controller_wait_too_and_never_with_an_abort(environment: Environment) -> None:
    environment.apply()
    policy = Answers()
    veto = PolicyVeto(environment.store, policy, "controller@a", environment.clock.monotonic)
    controller = environment.controller(veto=veto)
    environment.run(controller, 3)
    policy.verdict = ActionVerdict(False, "frozen")
    environment.run(controller, 30)
    status = environment.row().status
    assert (environment.weight(), status.reason) == (500, "control_denied")
    assert "controller@a may not advance payments/fraud-detector: frozen" in status.message
    assert len(policy.asked) < 8  # not at every tick
    act(environment.store, "breaker@box", Trip(*NAME, "4", 1, "10 failures in a row"), environment.clock)
    environment.run(controller, 1)
    assert environment.row().status.phase == "Degraded"
    assert set(policy.asked) == {"advance"}


def test_what_takes_away_is_written_before_anybody_is_asked_about_a_rise(environment: Environment) -> None:
    environment.apply("a")
    environment.apply("b")
    seen: list[str] = []

    def veto(followed: ActiveRollout, transition: Transition, now: float) -> str:
        seen.append(environment.row("b").status.phase)
        return ""

    act(environment.store, "breaker@box", Trip("payments", "b", "4", 1, "10 failures in a row"), environment.clock)
    environment.run(environment.controller(veto=veto), 1)
    assert seen == ["Degraded"]
    assert environment.row("a").status.weight == 500


def test_of_two_controllers_one_acts_and_the_other_takes_over(environment: Environment) -> None:
    environment.apply(steps=[{"pause": {"duration": "5s"}}, {"setWeight": 5}, {"pause": {}}])
    first, second = environment.controller("a"), environment.controller("b")
    for _ in range(3):
        first.tick()
        second.tick()
        environment.clock.advance(1)
    assert (first.leading, second.leading) == (True, False)
    environment.run(second, 12)  # the first one is dead; its lease runs out
    assert second.leading
    assert environment.weight() == 500
    assert environment.history()[-1].actor == "controller@b"


def test_a_controller_that_releases_is_succeeded_at_once(environment: Environment) -> None:
    first, second = environment.controller("a"), environment.controller("b")
    first.tick()
    first.release()
    second.tick()
    assert (first.leading, second.leading) == (False, True)


def test_a_controller_that_still_thinks_it_leads_writes_nothing(environment: Environment) -> None:
    environment.apply()
    first, second = environment.controller("a"), environment.controller("b")
    first.tick()
    before = environment.row()
    environment.clock.advance(LEASE_SECONDS + 1)
    second._lease = second._store.acquire("b", LEASE_SECONDS)
    # The first one's lease, as it knows it, was never renewed nor lost: it writes, and the store refuses.
    first._renew_at = environment.clock.monotonic() + 5
    assert first._lease is not None
    with pytest.raises(Refused) as refused:
        first._store.write([Write(*NAME, before.resource_version, status=before.status)], lease=first._lease)
    assert refused.value.code == "lease_lost"
    first.tick()
    assert environment.row() == before
    assert not first.leading
    environment.run(second, 1)
    assert environment.row() != before


def test_a_row_that_another_wrote_first_holds_up_no_other_row(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        environment.apply(name)
    controller = environment.controller()
    write = controller._store.write
    raced = []

    def racing(writes: Sequence[Write], **options: Any) -> Any:
        if not raced:
            raced.append(act(environment.store, "bob", Kill("payments", "b"), environment.clock))
        return write(writes, **options)

    monkeypatch.setattr(controller._store, "write", racing)
    controller.tick()
    steps = {name: environment.row(name).status.step for name in ("a", "b", "c")}
    assert steps == {"a": 1, "b": 0, "c": 1}
    assert [entry.actor for entry in environment.history("b")] == ["alice", "bob"]
    environment.run(controller, 2)
    assert environment.row("b").status.killed


@pytest.mark.parametrize("code", ["store_full", "store_locked", "store_unreachable"])
def test_a_store_that_fails_is_waited_for_and_nothing_is_lost(
    environment: Environment, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.apply()
    controller = environment.controller()
    environment.run(controller, 1)

    def fails(*_: Any, **__: Any) -> Any:
        raise Unreachable.of(code, "the store is away")

    with monkeypatch.context() as broken:
        for method in ("write", "changes", "acquire"):
            broken.setattr(controller._store, method, fails)
        environment.run(controller, 30)
        assert controller.fault is not None
        assert controller.fault.code == code
        assert not controller.leading
    before = environment.history()
    environment.run(controller, 30)
    assert controller.fault is None
    assert environment.row().status.stable == "4"
    assert environment.history()[: len(before)] == before
    assert [line for line in environment.said if line.startswith("rollouts: ")] == [
        f"rollouts: they wait: the store is away ({code})",
        "rollouts: well again after 30.0 s",
    ]


def test_a_store_that_is_locked_is_waited_for(environment: Environment) -> None:
    environment.apply()
    controller = environment.controller()
    with environment.place.locked():
        controller.tick()
        assert controller.fault is not None
        assert controller.fault.code == "store_locked"
    controller.tick()
    assert environment.row().status.step == 1


def test_a_store_that_went_away_and_came_back_is_followed(environment: Environment) -> None:
    environment.apply()
    controller = environment.controller()
    environment.run(controller, 2)
    environment.place.fault = "store_unreachable"
    environment.run(controller, 2)
    assert controller.fault is not None
    assert controller.fault.code == "store_unreachable"
    environment.place.fault = ""
    environment.run(controller, 30)
    assert environment.row().status.stable == "4"


def test_a_clock_that_is_set_back_an_hour_moves_nothing_and_the_ramp_goes_on(environment: Environment) -> None:
    environment.apply()
    controller = environment.controller()
    environment.run(controller, 3)
    before = environment.row().status
    environment.clock.set_back(3600)
    environment.run(controller, 2)
    after = environment.row().status
    assert (after.weight, after.step, after.phase) == (before.weight, before.step, before.phase)
    assert environment.weight() == 500
    environment.run(controller, 12)
    assert environment.weight() == 5000
    assert controller.leading


def test_a_rollout_that_cannot_be_looked_at_holds_up_no_other(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    environment.apply("a")
    environment.apply("b")
    controller = environment.controller()

    def evidence(followed: ActiveRollout, now: float) -> Evidence:
        if followed.key == "payments/a":
            raise RecursionError("deep")
        return Evidence()

    environment.seen.evidence_of = evidence  # type: ignore[method-assign]
    environment.run(controller, 3)
    assert (environment.row("a").status.step, environment.row("b").status.step) == (0, 1)
    assert caplog.text.count("payments/a is left as it is") == 1
    assert controller.failures >= 3


def test_a_bug_in_a_tick_is_told_and_the_next_one_comes(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.apply()
    controller = environment.controller()
    monkeypatch.setattr(environment.seen, "begin", lambda _now: 1 / 0)
    environment.run(controller, 3)
    assert controller.fault is not None
    assert (controller.fault.code, controller.failures, controller.leading) == ("tick_failed", 3, True)
    monkeypatch.undo()
    environment.run(controller, 40)
    assert (controller.fault, environment.row().status.phase) == (None, "Healthy")


def test_a_bug_in_one_rollout_holds_up_no_other(environment: Environment, caplog: pytest.LogCaptureFixture) -> None:
    environment.apply("a")
    environment.apply("b")
    controller = environment.controller()

    class Unknown:
        def __bool__(self) -> bool:
            raise ArithmeticError

    bad = Evidence(unready=Unknown())  # type: ignore[arg-type]

    def evidence(followed: ActiveRollout, now: float) -> Evidence:
        return bad if followed.key == "payments/a" else Evidence()

    environment.seen.evidence_of = evidence  # type: ignore[method-assign]
    environment.run(controller, 3)
    assert (environment.row("a").status.step, environment.row("b").status.step) == (0, 1)
    assert caplog.text.count("payments/a is left as it is") == 1


def test_a_document_that_this_version_does_not_take_is_left_as_it_is(environment: Environment) -> None:
    environment.apply()
    body = {"spec": {"unknown": 1}, "metadata": {"namespace": "payments", "name": "old"}}
    environment.store.write([Write("payments", "old", None, body, environment.row().status)])
    controller = environment.controller()
    environment.run(controller, 2)
    assert environment.row().status.step > 0
    assert environment.row("old").status.step == 0


def test_an_abort_ends_it(environment: Environment) -> None:
    environment.apply()
    controller = environment.controller()
    environment.run(controller, 2)
    act(environment.store, "bob", Abort(*NAME), environment.clock)
    before = environment.row()
    environment.run(controller, 20)
    assert environment.row() == before


def test_a_thousand_rollouts_that_wait_cost_a_tick_little(environment: Environment) -> None:
    """Counted, not timed: a tick at which nothing is due parses nothing and writes nothing."""
    for number in range(30):
        environment.apply(f"r{number}")
    controller = environment.controller()
    environment.run(controller, 2)
    plans = [followed.plan for followed in controller._under_way]
    revision = environment.store.documents().revision
    before = environment.row("r0").resource_version
    environment.run(controller, 2)
    assert [followed.plan for followed in controller._under_way] == plans
    assert all(one is other for one, other in zip(plans, (f.plan for f in controller._under_way), strict=True))
    assert (environment.row("r0").resource_version, environment.store.documents().revision) == (before, revision)


def test_a_jump_of_the_wall_clock_ends_no_timed_pause_of_who_leads_again(environment: Environment) -> None:
    environment.apply(steps=[{"setWeight": 50}, {"pause": {"duration": "10m"}}])
    controller = environment.controller()
    environment.run(controller, 5)
    environment.clock.set_back(-3600)
    with environment.place.locked():
        environment.run(controller, LEASE_SECONDS + 5)
        assert not controller.leading
    environment.run(controller, 60)
    assert controller.leading
    assert environment.row().status.reason == "pause_step"


def test_a_jump_of_the_wall_clock_ends_no_timed_pause(environment: Environment) -> None:
    environment.apply(steps=[{"setWeight": 5}, {"pause": {"duration": "1m"}}, {"setWeight": 50}, {"pause": {}}])
    controller = environment.controller()
    environment.run(controller, 5)
    environment.clock.set_back(-3600)
    environment.run(controller, 50)
    assert environment.weight() == 500
    environment.run(controller, 10)
    assert environment.weight() == 5000


def test_a_promotion_that_a_clock_put_into_the_future_is_planned_anew(environment: Environment) -> None:
    environment.apply(steps=[{"setWeight": 50}])
    controller = environment.controller()
    environment.run(controller, 5)
    assert environment.row().status.stable_at(environment.clock.now()) == "4"
    environment.clock.set_back(3600)
    assert environment.row().status.stable_at(environment.clock.now()) == "3"
    environment.run(controller, 2)
    assert environment.row().status.stable_at(environment.clock.now()) == "4"
    assert environment.history()[-1].message == "the clock was set back: what was to come is planned anew"
    environment.clock.set_back(3600)
    environment.run(environment.controller("another"), 12)
    assert environment.row().status.stable_at(environment.clock.now()) == "4"
