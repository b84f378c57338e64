"""What each action does to a status."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from extproc.control import transitions
from extproc.control.intent import Intent, Transition, intent_of
from extproc.errors import Refused
from extproc.resources.loading import parse_rollout
from extproc.snapshot.held import MOST_KILLS
from extproc.store.ports import RAISE_DELAY_SECONDS
from extproc.store.records import Tombstone
from extproc.store.status import Status, kept_away
from tests.support.rollouts import CANARY, EXPERIMENT, document

NOW = 1000.0
INTENT = Intent("payments/fraud", stable="3", canary="4", experiment=False, assignment="[]")
FRESH = transitions.create(INTENT, Tombstone(), NOW).status


def done(transition: Transition | None) -> Status:
    assert transition is not None
    return transition.status


def at_weight(weight: int, now: float = NOW) -> Status:
    return done(transitions.set_weight(INTENT, FRESH, weight, now - 60))


def drift_of(status: Status) -> list[str]:
    return [condition["message"] for condition in status.conditions if condition["type"] == "StableDrift"]


def test_the_first_apply_adopts_at_weight_zero() -> None:
    assert (FRESH.stable, FRESH.canary, FRESH.weight, FRESH.step, FRESH.phase) == ("3", "4", 0, 0, "Progressing")
    assert (FRESH.spec_stable, FRESH.epoch, FRESH.reason) == ("3", 1, "adopted")


@pytest.mark.parametrize("taken", [{"killed": True}, {"tripped": ("4",)}, {"aborted": ("4",)}])
@pytest.mark.parametrize("experiment", [False, True])
def test_no_edit_of_a_document_makes_stable_what_was_taken_away(taken: dict[str, Any], experiment: bool) -> None:
    without_canary = replace(INTENT, canary=None, stable="4", experiment=experiment)
    away = replace(at_weight(5000), **taken)
    mirrors = transitions.configure(replace(INTENT, canary=None), away, NOW).status
    for before in (away, mirrors):
        after = transitions.configure(without_canary, before, NOW).status
        assert after.stable == "3"
        assert len(drift_of(after)) == 1


@pytest.mark.parametrize("takes_away", ["kill", "trip"])
def test_what_was_no_stable_when_it_was_asked_for_is_none_when_it_is_given_back(takes_away: str) -> None:
    intent = Intent(
        "payments/fraud", "3", None, experiment=True, assignment="[]", variants=(("new", "4"), ("control", "3"))
    )
    edited = replace(intent, stable="4", variants=(("new", "3"), ("control", "4")))
    live = transitions.create(intent, Tombstone(), NOW).status
    if takes_away == "kill":
        drifted = transitions.configure(edited, done(transitions.kill(live, NOW)), NOW).status
        back = done(transitions.restore(drifted, NOW))
    else:
        tripped = done(transitions.trip(intent, live, "4", 1, "it fails", NOW, NOW))
        drifted = transitions.configure(edited, tripped, NOW).status
        back = transitions.retry(edited, drifted, NOW).status
    assert transitions.configure(edited, back, NOW).status == back, "nothing that was asked for before becomes true"
    other_assignment = transitions.configure(replace(edited, assignment="[1]"), back, NOW).status
    gone = transitions.create(edited, Tombstone(epoch=back.epoch, last=back), NOW).status
    for status in (back, other_assignment, gone):
        assert (status.stable, len(drift_of(status))) == ("3", 1)
    adopted = done(transitions.adopt(edited, other_assignment, NOW))
    assert (adopted.stable, drift_of(adopted)) == ("4", [])
    assert transitions.configure(replace(edited, stable="2"), adopted, NOW).status.stable == "2"
    agreed = transitions.configure(intent, back, NOW).status
    assert (agreed.stable, drift_of(agreed)) == ("3", [])


def test_an_experiment_that_was_killed_after_a_promotion_says_that_its_control_is_not_served() -> None:
    promoted = replace(transitions.promote_fully(INTENT, at_weight(5000), 0, NOW).status, killed=True)
    experiment = Intent(INTENT.key, "3", None, experiment=True, assignment="[]")
    status = transitions.configure(experiment, promoted, NOW).status
    assert (status.stable, len(drift_of(status))) == ("4", 1)
    back = done(transitions.restore(status, NOW))
    assert transitions.configure(experiment, back, NOW).status == back


def test_a_rise_waits_until_every_worker_has_it() -> None:
    status = done(transitions.set_weight(INTENT, FRESH, 1000, NOW))
    due = NOW + RAISE_DELAY_SECONDS
    assert (status.weight_at(NOW), status.weight_at(due - 0.001), status.weight_at(due)) == (0, 0, 1000)
    assert (status.epoch_at(NOW), status.epoch_at(due)) == (1, 2)
    assert status.phase == "Progressing"


def test_a_fall_is_at_once() -> None:
    status = done(transitions.set_weight(INTENT, at_weight(5000), 100, NOW))
    assert (status.weight_at(NOW), status.previous_weight) == (100, 100)
    assert status.epoch_at(NOW) == 3


def test_a_rise_during_a_rise_starts_from_what_is_in_force() -> None:
    first = done(transitions.set_weight(INTENT, at_weight(1000), 5000, NOW))
    second = done(transitions.set_weight(INTENT, first, 2000, NOW + 0.05))
    assert (second.weight_at(NOW + 0.1), second.effective_at) == (1000, NOW + 0.05 + RAISE_DELAY_SECONDS)
    assert (second.epoch_at(NOW + 0.1), second.epoch) == (2, 4)


def test_a_fall_during_a_rise_cancels_it() -> None:
    rising = done(transitions.set_weight(INTENT, at_weight(1000), 5000, NOW))
    status = done(transitions.set_weight(INTENT, rising, 1000, NOW))
    assert [status.weight_at(NOW + t) for t in (0, 1)] == [1000, 1000]


def test_the_weight_it_has_is_nothing_to_do() -> None:
    assert transitions.set_weight(INTENT, at_weight(1000), 1000, NOW) is None


def test_an_abort_is_at_once_and_leaves_the_arms_as_drawn() -> None:
    status = done(transitions.abort(INTENT, at_weight(2500), NOW))
    assert (status.weight, status.weight_at(NOW), status.drawn, status.aborted) == (0, 0, 2500, ("4",))
    assert (status.phase, status.reason, status.epoch) == ("Degraded", "aborted", 3)


def test_an_abort_during_a_rise_draws_what_was_in_force() -> None:
    rising = done(transitions.set_weight(INTENT, at_weight(1000), 5000, NOW))
    status = done(transitions.abort(INTENT, rising, NOW + 0.1))
    assert (status.drawn, status.weight_at(NOW + 1)) == (1000, 0)
    assert status.epoch_at(NOW + 0.1) > rising.epoch, "a worker may have raised it before the abort was there"


def test_an_abort_of_what_is_aborted_is_nothing_to_do() -> None:
    assert transitions.abort(INTENT, done(transitions.abort(INTENT, FRESH, NOW)), NOW) is None


def test_an_aborted_version_gets_no_weight_until_a_retry() -> None:
    aborted = done(transitions.abort(INTENT, at_weight(2500), NOW))
    with pytest.raises(Refused) as refused:
        transitions.set_weight(INTENT, aborted, 100, NOW)
    assert refused.value.code == "version_aborted"
    status = transitions.retry(INTENT, aborted, NOW).status
    assert (status.aborted, status.weight, status.drawn, status.phase) == ((), 0, 0, "Progressing")
    assert status.epoch > aborted.epoch
    assert done(transitions.set_weight(INTENT, status, 100, NOW)).weight == 100


def test_a_retry_of_what_was_not_aborted_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        transitions.retry(INTENT, FRESH, NOW)
    assert refused.value.code == "not_aborted"


def test_a_retry_says_which_versions_are_away_that_the_document_does_not_name() -> None:
    with pytest.raises(Refused, match="; version 2 is aborted, but not in the document"):
        transitions.retry(INTENT, replace(FRESH, aborted=("2",)), NOW)


def test_an_edit_after_an_abort_that_leaves_the_ranges_leaves_the_epoch() -> None:
    aborted = done(transitions.abort(INTENT, at_weight(2500), NOW))
    assert transitions.configure(INTENT, aborted, NOW).status == aborted


def test_a_tombstone_survives_delete_and_apply() -> None:
    status = transitions.create(INTENT, Tombstone(("4",), epoch=7), NOW).status
    assert (status.aborted, status.weight, status.phase, status.epoch) == (("4",), 0, "Degraded", 8)
    other = transitions.create(replace(INTENT, canary="5"), Tombstone(("4",), epoch=7), NOW).status
    assert (other.aborted, other.phase) == (("4",), "Progressing")


def test_a_trip_survives_delete_and_apply_and_what_is_retried_is_another_attempt() -> None:
    status = transitions.create(INTENT, Tombstone(last=replace(FRESH, tripped=("4",), attempt=3)), NOW).status
    assert (status.tripped, status.attempt) == (("4",), 4)
    assert transitions.retry(INTENT, status, NOW).status.attempt == 5


def test_a_kill_survives_delete_and_apply() -> None:
    assert transitions.create(INTENT, Tombstone(last=replace(FRESH, killed=True)), NOW).status.killed


def test_a_promotion_survives_delete_and_apply() -> None:
    promoted = transitions.promote_fully(INTENT, at_weight(5000), 0, NOW).status
    again = transitions.create(INTENT, Tombstone(epoch=promoted.epoch, last=promoted), NOW).status
    assert (again.stable, again.phase, again.conditions) == ("4", "Healthy", promoted.conditions)
    moved = transitions.create(replace(INTENT, stable="2"), Tombstone(epoch=promoted.epoch, last=promoted), NOW).status
    assert (moved.stable, len(drift_of(moved))) == ("4", 1)
    adopted = done(transitions.adopt(replace(INTENT, stable="2"), moved, NOW))
    assert (adopted.stable, drift_of(adopted)) == ("2", [])


def test_a_canary_that_moved_starts_over_in_one_write() -> None:
    before = at_weight(5000)
    status = transitions.configure(replace(INTENT, canary="5"), replace(before, step=3), NOW).status
    assert (status.canary, status.weight, status.weight_at(NOW), status.step) == ("5", 0, 0, 0)
    assert (status.epoch, status.epoch_at(NOW)) == (before.epoch + 1, before.epoch + 1)
    assert status.reason == "canary_moved"


def test_a_canary_that_moves_back_to_an_aborted_version_stays_aborted() -> None:
    aborted = done(transitions.abort(INTENT, at_weight(2500), NOW))
    moved = transitions.configure(replace(INTENT, canary="5"), aborted, NOW).status
    assert moved.phase == "Progressing"
    back = transitions.configure(INTENT, moved, NOW).status
    assert (back.phase, back.weight, back.drawn) == ("Degraded", 0, 0)


def test_a_stable_that_moved_is_reported_and_not_routed() -> None:
    before = at_weight(5000)
    moved = replace(INTENT, stable="2")
    status = transitions.configure(moved, before, NOW).status
    assert (status.stable, status.epoch, status.weight) == ("3", before.epoch, 5000)
    (message,) = drift_of(status)
    assert "version 2" in message
    assert "version 3" in message
    back = transitions.configure(INTENT, status, NOW).status
    assert back == before


def test_adopt_takes_the_stable_that_moved() -> None:
    moved = replace(INTENT, stable="2")
    drifted = transitions.configure(moved, at_weight(5000), NOW).status
    status = done(transitions.adopt(moved, drifted, NOW))
    assert (status.stable, status.spec_stable, status.weight, drift_of(status)) == ("2", "2", 5000, [])
    assert status.epoch > drifted.epoch
    assert transitions.adopt(moved, status, NOW) is None


@pytest.mark.parametrize(
    ("taken_away", "code"),
    [
        ({"aborted": ("4",)}, "version_aborted"),
        ({"tripped": ("4",)}, "version_aborted"),
        ({"killed": True}, "rollout_killed"),
    ],
)
def test_a_canary_that_was_taken_away_is_not_adopted_as_stable(taken_away: dict[str, Any], code: str) -> None:
    asks = replace(INTENT, stable="4")
    drifted = replace(transitions.configure(asks, FRESH, NOW).status, **taken_away)
    with pytest.raises(Refused) as refused:
        transitions.adopt(asks, drifted, NOW)
    assert refused.value.code == code
    other = replace(INTENT, stable="2")
    assert done(transitions.adopt(other, transitions.configure(other, drifted, NOW).status, NOW)).stable == "2"


def test_a_stable_that_was_promoted_agrees_once_the_document_names_it() -> None:
    promoted = replace(at_weight(10000), stable="4")
    assert drift_of(transitions.configure(INTENT, promoted, NOW).status) == []
    agreed = transitions.configure(replace(INTENT, stable="4"), promoted, NOW).status
    assert (agreed.stable, agreed.spec_stable, drift_of(agreed)) == ("4", "4", [])


def test_a_canary_that_is_stable_already_is_healthy() -> None:
    intent = replace(INTENT, canary="3")
    status = transitions.create(intent, Tombstone(), NOW).status
    assert (status.phase, status.weight) == ("Healthy", 0)
    for act in (lambda: transitions.set_weight(intent, status, 1, NOW), lambda: transitions.abort(intent, status, NOW)):
        with pytest.raises(Refused) as refused:
            act()
        assert refused.value.code == "no_canary"


def test_experiments_are_live_on_apply_and_take_edits() -> None:
    intent = intent_of(parse_rollout(document(EXPERIMENT)))
    status = transitions.create(intent, Tombstone(), NOW).status
    assert (status.stable, status.canary, status.phase, status.reason) == ("3", None, "Healthy", "live")
    edited = {**EXPERIMENT, "variants": [{**EXPERIMENT["variants"][0]}, {**EXPERIMENT["variants"][1], "version": "2"}]}
    after = transitions.configure(intent_of(parse_rollout(document(edited))), status, NOW).status
    assert (after.stable, after.epoch, drift_of(after)) == ("2", 2, [])


@pytest.mark.parametrize(
    ("change", "epochs"),
    [({"coverage": 50}, 1), ({"seed": "other"}, 1), ({"unit": {"cookie": "u"}}, 1), ({"log": {"headers": ["x-a"]}}, 0)],
)
def test_only_what_moves_the_ranges_begins_an_epoch(change: dict[str, object], epochs: int) -> None:
    status = transitions.create(intent_of(parse_rollout(document(EXPERIMENT))), Tombstone(), NOW).status
    after = transitions.configure(intent_of(parse_rollout(document({**EXPERIMENT, **change}))), status, NOW).status
    assert after.epoch == status.epoch + epochs


def test_what_only_mirrors_is_live_and_takes_edits() -> None:
    spec = {name: value for name, value in CANARY.items() if name != "canary"} | {"shadow": {"version": "5"}}
    status = transitions.create(intent_of(parse_rollout(document(spec))), Tombstone(), NOW).status
    edited = intent_of(parse_rollout(document({**spec, "stable": {"version": "2"}})))
    assert transitions.configure(edited, status, NOW).status.stable == "2"


@pytest.mark.parametrize("spec", [EXPERIMENT, {**CANARY, "canary": None, "shadow": {"version": "5"}}])
def test_only_a_canary_has_a_weight_and_can_be_aborted(spec: dict[str, object]) -> None:
    intent = intent_of(parse_rollout(document({name: value for name, value in spec.items() if value is not None})))
    status = transitions.create(intent, Tombstone(), NOW).status
    for act in (lambda: transitions.set_weight(intent, status, 1, NOW), lambda: transitions.abort(intent, status, NOW)):
        with pytest.raises(Refused) as refused:
            act()
        assert refused.value.code == "not_a_canary_rollout"
        ways_out = ["weights or coverage", "dropout kill", "rollout retry"] if intent.experiment else ["apply it"]
        assert [way for way in ways_out if way not in str(refused.value)] == []


def test_taking_the_canary_out_does_not_take_stable_with_it() -> None:
    promoted = replace(FRESH, stable="4", canary="5")
    mirrors = replace(INTENT, canary=None)
    status = transitions.configure(mirrors, promoted, NOW).status
    assert (status.stable, status.canary) == ("4", None)
    moved = transitions.configure(replace(mirrors, stable="2"), promoted, NOW).status
    assert (moved.stable, len(drift_of(moved))) == ("4", 1)
    assert transitions.configure(replace(mirrors, stable="2"), moved, NOW).status.stable == "4"


def test_a_variants_trip_is_stored_lifted_by_a_probe_and_void_if_it_was_before_that() -> None:
    intent = intent_of(parse_rollout(document(EXPERIMENT)))
    live = transitions.create(intent, Tombstone(), NOW).status
    tripped = done(transitions.trip(intent, live, "4", 1, "10 in a row failed", NOW, NOW))
    assert (tripped.tripped, tripped.phase, tripped.reason) == (("4",), "Degraded", "breaker_open")
    assert transitions.trip(intent, live, "3", 1, "stable stays", NOW, NOW) is None
    lifted = done(transitions.lift(intent, tripped, "4", 1, NOW + 30, NOW + 30))
    assert (lifted.tripped, lifted.reason, lifted.epoch) == ((), "live", live.epoch + 2)
    assert transitions.lift(intent, lifted, "4", 1, NOW + 31, NOW + 31) is None
    assert transitions.trip(intent, lifted, "4", 1, "old news", NOW + 31, NOW + 30) is None
    again = done(transitions.trip(intent, lifted, "4", 1, "news", NOW + 31, NOW + 31))
    retried = transitions.retry(intent, again, NOW + 32).status
    assert (retried.tripped, retried.attempt, retried.epoch) == ((), 2, live.epoch + 4)
    assert transitions.trip(intent, retried, "4", 1, "of the attempt before", NOW + 33, NOW + 33) is None


def test_a_rise_that_is_to_come_is_called_off_at_once_by_the_weight_that_is_in_force() -> None:
    pending = done(transitions.set_weight(INTENT, at_weight(500), 5000, NOW))
    after = done(transitions.set_weight(INTENT, pending, 500, NOW))
    assert (pending.is_pending(NOW), after.is_pending(NOW), after.weight_at(NOW)) == (True, False, 500)
    assert after.epoch > pending.epoch


def test_what_was_planned_before_the_clock_was_set_back_comes_with_its_step() -> None:
    pending = done(transitions.set_weight(INTENT, at_weight(500), 5000, NOW))
    for step_at, begins in ((pending.effective_at, NOW - 3600 + RAISE_DELAY_SECONDS), (NOW - 60, NOW - 60)):
        after = transitions.planned_anew(replace(pending, step_at=step_at), NOW - 3600).status
        assert (after.effective_at, after.step_at) == (NOW - 3600 + RAISE_DELAY_SECONDS, begins)


def test_an_edited_stable_of_a_rollout_without_a_canary_is_said_to_be_stable() -> None:
    alone = replace(INTENT, canary=None)
    status = transitions.create(alone, Tombstone(), NOW).status
    after = transitions.configure(replace(alone, stable="9"), status, NOW).status
    assert (after.stable, after.phase, after.message) == ("9", "Healthy", "version 9 is stable")


def test_kills_that_have_no_room_kill_no_more_than_those_that_have() -> None:
    status = done(transitions.kill(FRESH, NOW, "0"))
    for number in range(1, MOST_KILLS):
        status = done(transitions.kill(status, NOW, str(number)))
    assert transitions.kill(status, NOW, "more") is None
    assert (status.killed, len(status.kills)) == (True, MOST_KILLS)


def test_a_kill_is_at_once_and_a_restore_rises_from_zero() -> None:
    before = at_weight(5000)
    killed = done(transitions.kill(before, NOW))
    assert (killed.killed, killed.weight, killed.epoch) == (True, 5000, before.epoch + 1)
    assert transitions.kill(killed, NOW) is None
    status = done(transitions.restore(killed, NOW))
    due = NOW + RAISE_DELAY_SECONDS
    assert (status.killed, status.weight_at(NOW), status.weight_at(due)) == (False, 0, 5000)
    assert (status.epoch_at(NOW), status.epoch_at(due)) == (killed.epoch + 1, killed.epoch + 2)
    assert transitions.restore(status, NOW) is None


INTENTS = st.builds(
    Intent,
    key=st.just("payments/fraud"),
    stable=st.sampled_from(["3", "4"]),
    canary=st.sampled_from(["4", "5", "6", None]),
    experiment=st.just(False),
    assignment=st.sampled_from(["a", "b"]),
) | st.builds(
    Intent,
    key=st.just("payments/fraud"),
    stable=st.sampled_from(["3", "4"]),
    canary=st.none(),
    experiment=st.just(True),
    assignment=st.sampled_from(["a", "b"]),
)


class AnyHistory(RuleBasedStateMachine):
    """Any sequence of actions at any time."""

    @initialize(intent=INTENTS)
    def begin(self, intent: Intent) -> None:
        self.now = NOW
        self.intent = intent
        self.status = transitions.create(intent, Tombstone(), self.now).status
        self.tombstones: set[str] = set()

    def take(self, status: Status) -> None:
        assert status.epoch >= self.status.epoch
        before = (self.status.weight_at(self.now), self.status.stable_at(self.now), self.status.canary)
        after = (status.weight_at(self.now), status.stable_at(self.now), status.canary)
        if before[0] < after[0]:
            raise AssertionError("a weight rose at once")
        if before[1:] != after[1:]:
            assert status.epoch_at(self.now) > self.status.epoch_at(self.now)
        if status.stable != self.status.stable:
            assert status.epoch > self.status.epoch
        if kept_away(status) != kept_away(self.status):
            assert status.epoch_at(self.now) > self.status.epoch_at(self.now), "what is counted of it goes on"
        self.status = status

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.1, 0.2, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(intent=INTENTS)
    def configure(self, intent: Intent) -> None:
        moved = intent.canary != self.status.canary
        self.intent = intent
        self.take(transitions.configure(intent, self.status, self.now).status)
        if moved:
            assert self.status.weight == 0

    @rule()
    def configure_unchanged(self) -> None:
        assert transitions.configure(self.intent, self.status, self.now).status == self.status

    @rule(weight=st.integers(0, 10000))
    def set_weight(self, weight: int) -> None:
        if self.status.canary in (None, self.status.stable, *self.status.aborted):
            with pytest.raises(Refused):
                transitions.set_weight(self.intent, self.status, weight, self.now)
            return
        transition = transitions.set_weight(self.intent, self.status, weight, self.now)
        self.take(transition.status if transition else self.status)
        assert self.status.weight == weight

    @rule()
    def abort(self) -> None:
        try:
            transition = transitions.abort(self.intent, self.status, self.now)
        except Refused:
            return
        if transition is not None:
            self.take(transition.status)
            assert self.status.canary is not None
            self.tombstones.add(self.status.canary)
        assert self.status.weight == self.status.weight_at(self.now + 10) == 0

    @rule()
    def retry(self) -> None:
        try:
            self.take(transitions.retry(self.intent, self.status, self.now).status)
        except Refused:
            return
        assert self.status.canary is not None
        self.tombstones.discard(self.status.canary)

    @rule()
    def adopt(self) -> None:
        taken_away = self.status.killed or self.status.canary in (*self.status.aborted, *self.status.tripped)
        if self.intent.stable == self.status.canary != self.status.stable and taken_away:
            with pytest.raises(Refused):
                transitions.adopt(self.intent, self.status, self.now)
            return
        transition = transitions.adopt(self.intent, self.status, self.now)
        self.take(transition.status if transition else self.status)
        assert self.status.stable == self.intent.stable
        assert not drift_of(self.status)

    @rule()
    def promote(self) -> None:
        try:
            self.take(transitions.promote_fully(self.intent, self.status, 0, self.now).status)
        except Refused:
            return
        assert self.status.stable == self.status.canary

    @rule()
    def kill(self) -> None:
        transition = transitions.kill(self.status, self.now)
        self.take(transition.status if transition else self.status)
        assert self.status.killed

    @precondition(lambda self: self.status.killed)
    @rule()
    def restore(self) -> None:
        self.take(done(transitions.restore(self.status, self.now)))
        assert self.status.weight_at(self.now) == 0 or self.status.weight == 0

    @rule(intent=INTENTS)
    def delete_and_apply(self, intent: Intent) -> None:
        self.intent = intent
        edited = transitions.configure(intent, self.status, self.now).status
        tombstone = Tombstone(self.status.aborted, self.status.epoch, self.status)
        self.take(transitions.create(intent, tombstone, self.now).status)
        for what in ("stable", "spec_stable", "conditions", "killed", "tripped", "aborted"):
            assert getattr(self.status, what) == getattr(edited, what)

    @invariant()
    def weights_are_in_range(self) -> None:
        if hasattr(self, "status"):
            for weight in (self.status.weight, self.status.previous_weight, self.status.drawn):
                assert 0 <= weight <= 10000
            assert self.status.previous_epoch <= self.status.epoch

    @invariant()
    def tombstones_survive(self) -> None:
        if hasattr(self, "status"):
            assert set(self.status.aborted) == self.tombstones
            if self.status.canary in self.tombstones and self.status.canary != self.status.stable:
                assert (self.status.weight, self.status.phase) == (0, "Degraded")


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
