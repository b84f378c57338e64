"""A promotion that was wrong: undone by hand or by a late trip, and what is too late for that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from extproc.control import transitions
from extproc.control.intent import Intent, Transition
from extproc.control.undo import LATE_SECONDS, UNDO_SECONDS, trip_of_stable, undo
from extproc.errors import Refused
from extproc.resources.loading import parse_rollout
from extproc.snapshot.compile import compile_rollout
from extproc.store.records import Tombstone
from extproc.store.status import Status
from tests.support.rollouts import CANARY, document

NOW = 1_800_000_000.0
INTENT = Intent("payments/fraud", stable="3", canary="4", experiment=False, assignment="[]", steps="two steps")
MOVED = replace(INTENT, canary="5")
FRESH = transitions.create(INTENT, Tombstone(), NOW).status


def done(transition: Transition | None) -> Status:
    assert transition is not None
    return transition.status


@pytest.fixture
def promoted() -> Status:
    at_half = done(transitions.set_weight(INTENT, FRESH, 5000, NOW - 60))
    return done(transitions.promote_fully(INTENT, at_half, 2, NOW))


def conditions(status: Status) -> list[str]:
    return [condition["type"] for condition in status.conditions]


def test_a_promotion_keeps_what_it_replaced_and_when(promoted: Status) -> None:
    assert promoted.previous == {"stable": "3", "at": NOW, "attempt": 1}


def test_an_abort_that_comes_too_late_is_told_of_the_way_back(promoted: Status) -> None:
    with pytest.raises(Refused, match="dropout rollout undo payments/fraud"):
        transitions.abort(INTENT, promoted, NOW)
    with pytest.raises(Refused, match=r"is stable already \("):
        transitions.abort(INTENT, replace(promoted, previous={}), NOW)


def test_a_status_that_was_written_before_there_was_one_has_nothing_to_go_back_to(promoted: Status) -> None:
    body = {name: value for name, value in promoted.as_dict().items() if name not in ("previous", "without")}
    with pytest.raises(Refused) as refused:
        undo(INTENT, Status.from_dict(body), NOW)
    assert refused.value.code == "nothing_to_undo"


@pytest.mark.parametrize("damaged", [{"stable": 3}, {"stable": "3"}, {"stable": "3", "at": "x", "attempt": 1}])
def test_a_damaged_one_is_no_status(promoted: Status, damaged: object) -> None:
    with pytest.raises((KeyError, TypeError)):
        Status.from_dict({**promoted.as_dict(), "previous": damaged})


@pytest.mark.parametrize("later", [0.05, 3600.0])
def test_an_undone_promotion_leaves_what_it_replaced_at_once_and_a_tombstone(promoted: Status, later: float) -> None:
    transition = undo(INTENT, promoted, NOW + later)
    status = transition.status
    assert (status.stable, status.canary, status.weight, status.aborted) == ("3", "4", 0, ("4",))
    assert (status.phase, status.reason, status.previous) == ("Degraded", "undone", {})
    assert transition.message == "version 3 is stable again in place of 4: by hand"
    assert status.epoch > promoted.epoch
    rollout = parse_rollout(document({**CANARY, "steps": []}))
    compiled = compile_rollout(rollout, status, NOW + later)
    assert (compiled.stable, compiled.ranges) == ("3", {"canary": (0, 0)})
    with pytest.raises(Refused):
        undo(INTENT, status, NOW + later)


def test_what_was_undone_may_be_tried_again(promoted: Status) -> None:
    status = done(transitions.retry(INTENT, undo(INTENT, promoted, NOW + 60).status, NOW + 70))
    assert (status.stable, status.phase, status.attempt, status.aborted) == ("3", "Progressing", 2, ())


def test_another_canary_that_is_under_way_goes_on_against_the_other_stable(promoted: Status) -> None:
    moved = done(transitions.configure(MOVED, promoted, NOW + 60))
    at_20 = done(transitions.set_weight(MOVED, moved, 2000, NOW + 70))
    status = undo(MOVED, at_20, NOW + 80).status
    assert (status.stable, status.canary, status.weight_at(NOW + 80), status.phase) == ("3", "5", 2000, "Paused")
    assert (status.aborted, status.epoch) == (("4",), at_20.epoch + 1)


def test_a_canary_that_is_what_was_replaced_is_stable_again_and_done_with(promoted: Status) -> None:
    back = replace(INTENT, canary="3")
    moved = done(transitions.configure(back, promoted, NOW + 60))
    for under_way in (moved, done(transitions.set_weight(back, moved, 2000, NOW + 70))):
        status = undo(back, under_way, NOW + 80).status
        assert (status.stable, status.canary, status.weight_at(NOW + 80)) == ("3", "3", 0)
        assert (status.phase, status.reason, status.aborted) == ("Healthy", "canary_is_stable", ("4",))


def test_a_document_that_names_what_was_promoted_is_a_drift(promoted: Status) -> None:
    asks = replace(INTENT, stable="4")
    status = undo(asks, done(transitions.configure(asks, promoted, NOW + 60)), NOW + 70).status
    assert (status.stable, conditions(status)) == ("3", ["StableDrift"])
    assert done(transitions.configure(replace(asks, steps="other"), status, NOW + 80)).stable == "3"


def test_what_somebody_adopted_since_is_not_undone(promoted: Status) -> None:
    adopted = done(transitions.adopt(replace(INTENT, stable="7"), promoted, NOW + 60))
    with pytest.raises(Refused):
        undo(INTENT, adopted, NOW + 70)


# -- trips of what is stable


def late_trip(status: Status, at: float, heard: float, *, attempt: int = 1, hindrance: str = "") -> Transition | None:
    return trip_of_stable(INTENT, status, attempt, "10 requests in a row failed", at, heard, hindrance=hindrance)


@pytest.mark.parametrize(
    ("happened", "heard"), [(-5, 1), (-3000, 30), (UNDO_SECONDS, UNDO_SECONDS + 5), (-5, LATE_SECONDS)]
)
def test_a_trip_from_before_a_promotion_or_soon_after_it_undoes_it(
    promoted: Status, happened: float, heard: float
) -> None:
    transition = late_trip(promoted, NOW + happened, NOW + heard)
    status = done(transition)
    assert (status.stable, status.aborted, status.reason) == ("3", ("4",), "breaker_open")
    assert "version 4 was tripped: 10 requests in a row failed" in status.message


@pytest.mark.parametrize(
    ("happened", "heard"), [(UNDO_SECONDS + 1, UNDO_SECONDS + 2), (-5, LATE_SECONDS + 1), (-5, 3 * 86400)]
)
def test_any_other_trip_of_stable_is_a_condition_once_and_takes_nothing_away(
    promoted: Status, happened: float, heard: float
) -> None:
    transition = late_trip(promoted, NOW + happened, NOW + heard)
    status = done(transition)
    assert (status.stable, conditions(status)) == ("4", ["StableTripped", "SpecBehind"])
    assert replace(status, conditions=promoted.conditions) == promoted
    assert transition is not None
    assert transition.message.startswith("stable version 4 was tripped: 10 requests")
    assert late_trip(status, NOW + happened, NOW + heard) is None


def test_where_what_was_replaced_cannot_take_over_it_is_a_condition_until_it_can(promoted: Status) -> None:
    status = done(late_trip(promoted, NOW, NOW + 1, hindrance="cluster fraud-v3 is not known"))
    assert (status.stable, conditions(status)) == ("4", ["StableTripped", "SpecBehind"])
    assert "version 3 stays away: cluster fraud-v3 is not known" in status.conditions[0]["message"]
    undone = done(late_trip(status, NOW, NOW + 2))
    assert (undone.stable, conditions(undone)) == ("3", [])


def test_where_the_document_names_no_canary_any_more_it_is_a_condition_that_says_so(promoted: Status) -> None:
    served = replace(INTENT, stable="4", canary=None, steps="")
    status = transitions.configure(served, promoted, NOW + 5).status
    after = done(trip_of_stable(served, status, 1, "9 of 10 requests failed", NOW - 1, NOW + 10))
    assert (after.stable, after.phase, conditions(after)) == ("4", "Healthy", ["StableTripped"])
    assert after.conditions[0]["message"].endswith(
        "version 3 stays away: the document names no canary any more, so it alone says what is stable"
    )


def test_a_stable_that_was_promoted_from_nothing_known_is_not_undone_by_a_trip(promoted: Status) -> None:
    status = done(late_trip(replace(promoted, previous={}), NOW, NOW + 1))
    assert (status.stable, conditions(status)) == ("4", ["StableTripped", "SpecBehind"])


def test_what_was_said_of_an_attempt_before_the_promoted_one_is_void(promoted: Status) -> None:
    assert late_trip(promoted, NOW, NOW + 1, attempt=0) is None


def test_a_trip_of_what_was_promoted_counts_when_another_canary_is_under_way(promoted: Status) -> None:
    moved = done(transitions.configure(MOVED, promoted, NOW + 60))
    status = done(trip_of_stable(MOVED, moved, 1, "it failed", NOW, NOW + 61))
    assert (status.stable, status.canary, status.aborted) == ("3", "5", ("4",))


def test_another_stable_ends_the_condition(promoted: Status) -> None:
    tripped = done(late_trip(promoted, NOW + UNDO_SECONDS + 1, NOW + UNDO_SECONDS + 2))
    assert conditions(done(transitions.adopt(replace(INTENT, stable="7"), tripped, NOW + 2000))) == []
    moved = done(transitions.configure(MOVED, tripped, NOW + 2000))
    assert conditions(moved) == ["StableTripped", "SpecBehind"]
    assert conditions(done(transitions.promote_fully(MOVED, moved, 2, NOW + 3000))) == ["SpecBehind"]
