"""What promote, pause, resume and a trip do to a status, and what a clock that was set back does not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from extproc.control import transitions
from extproc.control.intent import Intent, Transition
from extproc.control.status_changes import arrived
from extproc.control.transitions import ACCEPTED_EPOCH
from extproc.errors import Refused
from extproc.resources.loading import parse_rollout
from extproc.snapshot.compile import compile_rollout
from extproc.store.ports import RAISE_DELAY_SECONDS
from extproc.store.records import Tombstone
from extproc.store.status import Status
from tests.support.rollouts import CANARY, document

NOW = 1000.0
INTENT = Intent("payments/fraud", stable="3", canary="4", experiment=False, assignment="[]", steps="two steps")
FRESH = transitions.create(INTENT, Tombstone(), NOW).status
EXPERIMENT = Intent("payments/test", stable="7", canary=None, experiment=True, assignment="[]")


def done(transition: Transition | None) -> Status:
    assert transition is not None
    return transition.status


def code_of(refused: pytest.ExceptionInfo[Refused]) -> str:
    return refused.value.code


def test_a_weight_by_hand_pauses_a_rollout_that_has_steps() -> None:
    status = done(transitions.set_weight(INTENT, FRESH, 500, NOW))
    assert (status.weight, status.phase, status.reason) == (500, "Paused", "manual_weight")
    bare = done(transitions.set_weight(replace(INTENT, steps=""), FRESH, 500, NOW))
    assert (bare.phase, bare.reason) == ("Progressing", "weight_set")


def test_a_full_promotion_makes_the_canary_stable_in_an_epoch_of_its_own() -> None:
    at_half = done(transitions.set_weight(INTENT, FRESH, 5000, NOW - 60))
    status = done(transitions.promote_fully(INTENT, at_half, 2, NOW))
    assert (status.stable, status.canary, status.weight, status.step) == ("4", "4", 0, 2)
    assert (status.phase, status.reason) == ("Healthy", "promoted")
    assert status.epoch > at_half.epoch


def test_a_promotion_is_taken_over_by_all_workers_together_as_a_rise_is() -> None:
    at_half = done(transitions.set_weight(INTENT, FRESH, 5000, NOW - 60))
    status = done(transitions.promote_fully(INTENT, at_half, 2, NOW))
    due = NOW + RAISE_DELAY_SECONDS
    assert [status.stable_at(now) for now in (NOW, due - 0.01, due)] == ["3", "3", "4"]
    assert [status.weight_at(now) for now in (NOW, due - 0.01, due)] == [5000, 5000, 0]
    assert (status.epoch_at(NOW), status.epoch_at(due)) == (at_half.epoch, at_half.epoch + 1)
    rollout = parse_rollout(document({**CANARY, "steps": []}))
    before, after = (compile_rollout(rollout, status, now) for now in (NOW, due))
    assert (before.stable, before.canary, before.ranges) == ("3", "4", {"canary": (0, 5000)})
    assert (after.stable, after.canary, after.ranges) == ("4", None, {})


def test_another_stable_that_is_adopted_is_taken_over_by_all_workers_together() -> None:
    status = done(transitions.adopt(replace(INTENT, stable="2"), FRESH, NOW))
    due = NOW + RAISE_DELAY_SECONDS
    assert [status.stable_at(now) for now in (NOW, due)] == ["3", "2"]
    risen = done(transitions.set_weight(replace(INTENT, stable="2"), status, 500, due + 1))
    assert [risen.stable_at(due + at) for at in (1, 2)] == ["2", "2"]


def test_a_document_that_names_what_was_replaced_is_behind_and_one_that_names_another_is_a_drift() -> None:
    promotion = transitions.promote_fully(INTENT, FRESH, 2, NOW)
    assert promotion is not None
    promoted = promotion.status
    behind = (
        "the document still names version 3 as stable; "
        "`dropout get rollout payments/fraud --as-served` prints it with version 4"
    )
    assert promoted.conditions == ({"type": "SpecBehind", "status": "True", "message": behind},)
    assert promotion.message == f"version 4 is stable in place of 3: promoted by hand; {behind}"
    assert promoted.message == "version 4 is stable in place of 3: promoted by hand", "the condition says the rest"
    assert transitions.configure(INTENT, promoted, NOW).status.conditions == promoted.conditions
    followed = transitions.configure(replace(INTENT, stable="4"), promoted, NOW).status
    assert (followed.conditions, followed.stable) == ((), "4")
    other = transitions.configure(replace(INTENT, stable="2"), promoted, NOW).status
    assert [condition["type"] for condition in other.conditions] == ["StableDrift"]
    assert other.stable == "4"


def test_what_was_promoted_and_is_no_longer_wanted_starts_from_the_first_step() -> None:
    promoted = done(transitions.promote_fully(INTENT, FRESH, 2, NOW))
    back = done(transitions.adopt(INTENT, promoted, NOW))
    assert (back.stable, back.canary, back.weight, back.step, back.phase) == ("3", "4", 0, 0, "Progressing")
    assert back.attempt > promoted.attempt


def test_what_was_taken_away_is_not_promoted() -> None:
    for taken in (replace(FRESH, aborted=("4",)), replace(FRESH, tripped=("4",))):
        with pytest.raises(Refused) as refused:
            transitions.promote_fully(INTENT, taken, 2, NOW)
        assert code_of(refused) == "version_aborted"


def test_what_is_killed_is_not_promoted_to_everybody() -> None:
    with pytest.raises(Refused) as refused:
        transitions.promote_fully(INTENT, done(transitions.kill(FRESH, NOW)), 2, NOW)
    assert code_of(refused) == "rollout_killed"


@pytest.mark.parametrize("reason", ["pause_step", "analysis_inconclusive", "analysis_error"])
def test_to_promote_ends_a_step_that_paused(reason: str) -> None:
    paused = replace(FRESH, phase="Paused", reason=reason, step=1, analysis={"step": {"a": 1}})
    status = done(transitions.promote(INTENT, paused, NOW + 5))
    assert (status.step, status.phase, status.step_at) == (2, "Progressing", NOW + 5)
    assert status.analysis == {}


@pytest.mark.parametrize("reason", ["background_inconclusive", "background_error", "paused"])
def test_to_promote_past_what_no_step_paused_goes_on_with_the_same_step(reason: str) -> None:
    paused = replace(FRESH, phase="Paused", reason=reason, step=1)
    promoted = transitions.promote(INTENT, paused, NOW)
    assert promoted.status.step == 1
    assert promoted.message == f"the pause at step 1 was ended by hand ({reason})"


def test_a_sample_ratio_that_was_accepted_stays_so_for_its_epoch() -> None:
    paused = replace(FRESH, phase="Paused", reason="sample_ratio_mismatch", epoch=7)
    accepted = transitions.promote(INTENT, paused, NOW).status
    assert accepted.analysis == {ACCEPTED_EPOCH: 7}
    again = replace(accepted, phase="Paused", reason="pause_step")
    assert transitions.promote(INTENT, again, NOW).status.analysis == {ACCEPTED_EPOCH: 7}


def test_resume_undoes_a_pause_by_hand_and_no_other() -> None:
    paused = done(transitions.pause(INTENT, FRESH))
    assert (paused.phase, paused.reason) == ("Paused", "paused")
    assert transitions.pause(INTENT, paused) is None
    resumed = transitions.resume(INTENT, paused, NOW + 9).status
    assert (resumed.phase, resumed.step, resumed.step_at) == ("Progressing", 0, NOW + 9)
    refusals = {
        "is not paused, so there is nothing to resume": resumed,
        "but waits (analysis_error); `dropout rollout promote` ends that": replace(
            FRESH, phase="Paused", reason="analysis_error"
        ),
    }
    for said, status in refusals.items():
        with pytest.raises(Refused, match=re.escape(said)) as refused:
            transitions.resume(INTENT, status, NOW)
        assert code_of(refused) == "not_paused"


def test_what_is_over_is_neither_paused_nor_promoted() -> None:
    aborted = done(transitions.abort(INTENT, FRESH, NOW))
    for refuse in (
        lambda: transitions.pause(INTENT, aborted),
        lambda: transitions.resume(INTENT, aborted, NOW),
        lambda: transitions.promote(INTENT, aborted, NOW),
    ):
        with pytest.raises(Refused, match="retry it first") as refused:
            refuse()
        assert code_of(refused) == "version_aborted"
    with pytest.raises(Refused) as refused:
        transitions.pause(EXPERIMENT, transitions.create(EXPERIMENT, Tombstone(), NOW).status)
    assert code_of(refused) == "not_a_canary_rollout"


def test_a_trip_names_the_canary_of_this_attempt_and_a_retry_lifts_it() -> None:
    tripped = done(transitions.trip(INTENT, FRESH, "4", FRESH.attempt, "9 of 10 requests failed", NOW))
    assert (tripped.tripped, tripped.reason, tripped.weight) == (("4",), "breaker_open", FRESH.weight)
    assert transitions.trip(INTENT, tripped, "4", FRESH.attempt, "again", NOW) is None
    retried = transitions.retry(INTENT, tripped, NOW).status
    assert (retried.tripped, retried.attempt) == ((), FRESH.attempt + 1)
    assert transitions.trip(INTENT, retried, "4", FRESH.attempt, "late news of the attempt before", NOW) is None


def test_stable_and_an_experiments_variants_are_never_tripped_for_good() -> None:
    assert transitions.trip(INTENT, FRESH, "3", FRESH.attempt, "", NOW) is None
    live = transitions.create(EXPERIMENT, Tombstone(), NOW).status
    assert transitions.trip(EXPERIMENT, live, "7", live.attempt, "", NOW) is None


def test_a_canary_that_moves_is_another_attempt() -> None:
    moved = transitions.configure(replace(INTENT, canary="5"), replace(FRESH, step=2, weight=500), NOW).status
    assert (moved.attempt, moved.step, moved.weight) == (FRESH.attempt + 1, 0, 0)


def test_other_steps_begin_with_the_first_at_the_weight_that_there_is() -> None:
    midway = replace(FRESH, step=3, weight=500, previous_weight=500, analysis={"step": {}})
    midway = replace(midway, phase="Paused", reason="pause_step")
    changed = transitions.configure(replace(INTENT, steps="others"), midway, NOW + 1)
    status = changed.status
    assert (status.step, status.weight, status.phase, status.analysis) == (0, 500, "Progressing", {})
    assert status.step_at == NOW + 1
    assert "the steps changed" in changed.message


def test_other_steps_of_a_rollout_that_is_over_change_nothing_but_the_document() -> None:
    promoted = done(transitions.promote_fully(INTENT, FRESH, 2, NOW))
    status = transitions.configure(replace(INTENT, steps="others"), promoted, NOW).status
    assert (status.step, status.phase) == (2, "Healthy")


def test_another_control_is_measured_anew_and_a_pause_goes_on_being_what_it_is() -> None:
    drifted = transitions.configure(replace(INTENT, stable="2"), replace(FRESH, step=1), NOW).status
    for reason in ("pause_step", "paused", "analysis_inconclusive"):
        paused = replace(drifted, phase="Paused", reason=reason, message="why", analysis={"step": {"a": 1}})
        after = done(transitions.adopt(replace(INTENT, stable="2"), paused, NOW + 9))
        assert (after.stable, after.phase, after.reason, after.message) == ("2", "Paused", reason, "why")
        assert (after.step, after.step_at, after.analysis) == (1, NOW + 9 + RAISE_DELAY_SECONDS, {})


def test_a_step_that_was_killed_begins_anew_when_it_is_restored() -> None:
    paused = replace(FRESH, phase="Paused", reason="pause_step", step=1, weight=500, previous_weight=500)
    restored = done(transitions.restore(done(transitions.kill(paused, NOW)), NOW + 3600))
    assert (restored.phase, restored.reason) == ("Paused", "pause_step")
    assert restored.step_at == restored.effective_at == NOW + 3600 + RAISE_DELAY_SECONDS
    assert done(transitions.restore(done(transitions.kill(FRESH, NOW)), NOW + 3600)).step_at == NOW + 3600


@pytest.mark.parametrize("reason", ["background_inconclusive", "background_error", "sample_ratio_mismatch"])
def test_a_pause_by_hand_and_its_end_do_not_end_a_pause_for_doubt(reason: str) -> None:
    doubtful = replace(FRESH, phase="Paused", reason=reason, step=1)
    assert transitions.pause(INTENT, doubtful) is None


@pytest.mark.parametrize("reason", ["paused", "manual_weight", "background_inconclusive", "sample_ratio_mismatch"])
def test_other_steps_end_no_pause_that_no_step_made(reason: str) -> None:
    paused = replace(FRESH, step=3, phase="Paused", reason=reason, message="why")
    status = transitions.configure(replace(INTENT, steps="others"), paused, NOW + 1).status
    assert (status.step, status.step_at, status.phase, status.reason) == (0, NOW + 1, "Paused", reason)
    assert status.message == "why"


def test_other_steps_do_not_take_back_that_a_sample_ratio_was_accepted() -> None:
    accepted = replace(FRESH, analysis={ACCEPTED_EPOCH: FRESH.epoch, "step": {}, "background": {"seen": 1}})
    status = transitions.configure(replace(INTENT, steps="others"), accepted, NOW).status
    assert status.analysis == {ACCEPTED_EPOCH: FRESH.epoch, "background": {"seen": 1}}


def test_to_promote_past_a_gate_forgets_nothing_of_what_was_seen_in_the_background() -> None:
    at_gate = replace(FRESH, phase="Paused", reason="pause_step", analysis={"background": {"failed": 2}})
    assert transitions.promote(INTENT, at_gate, NOW).status.analysis == {"background": {"failed": 2}}


def test_what_a_breaker_took_away_is_neither_paused_nor_promoted_before_a_retry() -> None:
    tripped = done(transitions.trip(INTENT, replace(FRESH, phase="Paused", reason="paused"), "4", 1, "it fails", NOW))
    for refuse in (
        lambda: transitions.pause(INTENT, tripped),
        lambda: transitions.resume(INTENT, tripped, NOW),
        lambda: transitions.promote(INTENT, tripped, NOW),
    ):
        with pytest.raises(Refused) as refused:
            refuse()
        assert code_of(refused) == "version_aborted"


def test_a_weight_by_hand_ends_the_pause_of_a_rollout_that_has_no_steps() -> None:
    bare = replace(INTENT, steps="")
    paused = done(transitions.pause(bare, FRESH))
    status = done(transitions.set_weight(bare, paused, 500, NOW))
    assert (status.phase, status.reason) == ("Progressing", "weight_set")


def test_a_rise_that_lies_too_far_ahead_stays_pending_until_it_is_planned_anew() -> None:
    status = replace(done(transitions.set_weight(INTENT, FRESH, 500, NOW)), phase="Progressing")
    assert status.weight_at(NOW + RAISE_DELAY_SECONDS) == 500
    early = NOW - 3600
    assert status.is_out_of_time(early)
    assert (status.weight_at(early), status.weight_at(early + 3599)) == (0, 0)
    anew = done(transitions.set_weight(INTENT, status, 500, early))
    assert not anew.is_out_of_time(early)
    assert (anew.weight_at(early), anew.weight_at(early + RAISE_DELAY_SECONDS)) == (0, 500)
    assert (anew.epoch, anew.previous_epoch) == (status.epoch, status.previous_epoch)


def test_what_has_come_into_force_is_not_undone_by_a_clock_that_is_set_back() -> None:
    status = arrived(done(transitions.set_weight(INTENT, FRESH, 500, NOW)), NOW + RAISE_DELAY_SECONDS)
    assert not status.is_pending(NOW - 3600)
    assert (status.weight_at(NOW - 3600), status.epoch_at(NOW - 3600)) == (500, status.epoch)
    assert arrived(status, NOW) == status
