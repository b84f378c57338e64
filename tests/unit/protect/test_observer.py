"""The observer: what it makes of entries, of decisions that never show up, and of everything odd."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.datapath.sinks.tally import DecisionTally
from extproc.decision_id.codec import ID_CHARACTERS
from extproc.measure import ArmTotals
from extproc.protect import observer as module
from extproc.protect import totals as totals_module
from extproc.protect.outcome import RequestOutcome
from extproc.snapshot.trips import LocalTrip, with_held
from tests.support.decisions import make_decided, make_decision
from tests.support.observing import BREAKER, LIMIT, Watching
from tests.support.rollouts import canary, experiment, snapshot

KEY = "payments/fraud-detector"
LEFT = "downstream_connection_termination"
TRIP = LocalTrip(KEY, "4", 1)


def test_a_canary_that_fails_is_tripped_at_the_request_that_proves_it() -> None:
    watching = Watching()
    watching.ended("3", times=50)
    watching.ended("4", 500, times=9)
    assert watching.told == []
    watching.ended("4", 500)
    assert watching.told == [[TRIP]]
    (trip,) = watching.observer.trips_in_force
    assert (trip.at, (trip.version, trip.why)) == (watching.clock.now(), watching.reasons[0])
    assert watching.reasons == [("4", "10 requests in a row failed; of stable's 0 of 50")]


def test_a_batch_is_held_against_the_limits_as_a_whole_and_at_once() -> None:
    watching = Watching()
    batch = [watching.entry("3") for _ in range(50)] + [watching.entry("4", 503, cluster="x") for _ in range(25)]
    watching.observer.take(batch)
    assert watching.told == [[TRIP]]


def test_a_trip_is_told_once_and_latches() -> None:
    watching = Watching()
    watching.ended("3", times=50)
    watching.ended("4", 500, times=40)
    watching.ended("4", 200, times=100)
    watching.wait(3600)
    assert watching.told == [[TRIP]]


def test_a_retry_lifts_the_trip_and_forgets_what_was_seen() -> None:
    watching = Watching()
    watching.ended("3", times=50)
    watching.ended("4", 500, times=9)
    late = [watching.entry("4", 500) for _ in range(40)]
    watching.ended("4", 500)
    again = replace(watching.rollouts[0], attempt=2, epoch=3, epoch_id=3, number=4711)
    watching.follow(again)
    assert watching.in_force == []
    watching.ended("3", times=50)
    watching.observer.take(late)
    assert watching.in_force == []
    watching.ended("4", 500, times=10)
    assert watching.in_force == [LocalTrip(KEY, "4", 2)]


def test_a_rollout_that_goes_takes_its_trips_along() -> None:
    watching = Watching()
    watching.ended("3", times=50)
    watching.ended("4", 500, times=10)
    watching.follow(canary(5000, name="another", breaker=BREAKER))
    assert watching.in_force == []


def test_stable_is_never_tripped() -> None:
    watching = Watching()
    watching.ended("4", times=50)
    watching.ended("3", 500, times=200)
    watching.ended("3", 500, arm="canary", times=200)
    assert watching.told == []


def test_an_outage_of_both_trips_nobody() -> None:
    watching = Watching()
    for _ in range(200):
        watching.ended("3", 503, "upstream_connection_failure")
        watching.ended("4", 503, "upstream_connection_failure")
        watching.clock.advance(0.02)
    assert watching.told == []


def test_without_a_breaker_nothing_is_tripped_and_everything_counted() -> None:
    watching = Watching(canary(5000))
    watching.ended("4", 500, times=100)
    assert watching.told == []
    assert watching.outcomes[("4", RequestOutcome.FAILURE)] == 100


def test_versions_without_a_route_are_held_against_nobody() -> None:
    watching = Watching()
    watching.ended("3", times=50)
    watching.ended("4", cluster="fraud-detector-v3", route=f"{KEY}@default", times=100)
    watching.ended("4", 0, LEFT, cluster="fraud-detector-v3", route=f"{KEY}@default", times=100)
    assert watching.told == []
    assert watching.outcomes[("4", RequestOutcome.UNROUTED)] == 200


def test_a_canary_that_clients_leave_while_stable_answers_them_is_tripped() -> None:
    watching = Watching()
    watching.ended("3", times=50)
    watching.ended("4", 0, LEFT, times=10)
    assert watching.reasons == [("4", "10 requests in a row were abandoned; of stable's 0 of 50")]
    assert watching.outcomes[("4", RequestOutcome.ABANDONED)] == 10


def test_ids_that_stable_answered_are_remembered() -> None:
    watching = Watching()
    entries = [watching.entry("4", cluster="fraud-detector-v3", attempts=2), watching.entry("4")]
    watching.observer.take(entries)
    assert watching.observer.take_fallbacks() == [entries[0].decision_id]
    assert watching.observer.take_fallbacks() == []


def test_more_of_them_than_there_is_room_for_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FALLBACKS", 3)
    watching = Watching()
    watching.ended("4", cluster="fraud-detector-v3", attempts=2, times=5)
    assert len(watching.observer.take_fallbacks()) == 3
    assert watching.drops == {"fallback_ids": 2}


def test_ids_that_nobody_could_be_told_of_are_told_again_the_newest_if_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FALLBACKS", 4)
    watching = Watching()
    watching.ended("4", cluster="fraud-detector-v3", attempts=2)
    watching.observer.take_back_fallbacks(["a", "b", "c", "d", "e"])
    (*again, newest) = watching.observer.take_fallbacks()
    assert again == ["c", "d", "e"]
    assert len(newest) == ID_CHARACTERS
    assert watching.drops == {"fallback_ids": 2}


# --- one event, told of more than once


def test_an_end_that_is_told_again_trips_nobody_and_hides_nobody() -> None:
    good, bad = Watching(), Watching()
    good.ended("3", times=50)
    copied = good.entry("4")
    good.observer.take([copied])
    failing = copied._replace(answer=copied.answer._replace(status=500))
    good.observer.take([failing] * 60)  # an id from a response, with another end
    good.observer.take([failing._replace(ended=False)] * 60)
    assert good.told == []
    assert (good.outcomes["4", RequestOutcome.FAILURE], good.outcomes["4", RequestOutcome.SUCCESS]) == (0, 1)
    assert (good.drops, good.surpluses) == ({"repeated": 60}, {"4": 60})
    bad.ended("3", times=50)
    once = [bad.entry("4") for _ in range(2)]
    for _ in range(10):
        bad.observer.take(once * 20)  # what went well, again and again, beside what fails
        bad.ended("4", 500)
    assert bad.in_force == [TRIP]


def test_what_an_id_says_first_wins_and_stays() -> None:
    watching = Watching()
    first = watching.entry("4", 500)
    watching.observer.take([first, first._replace(answer=first.answer._replace(status=200))])
    watching.wait(200)
    watching.observer.take([first])
    watching.wait(200)
    watching.observer.take([first])
    assert watching.outcomes == {("4", RequestOutcome.FAILURE): 1}
    assert watching.drops == {"repeated": 2, "expired": 1}


def test_what_was_decided_before_the_observer_began_does_not_count() -> None:
    watching = Watching()
    watching.clock.set_back(1)
    before = watching.entry("4", 500)
    watching.clock.advance(1.1)
    watching.observer.take([before] * 60)
    assert (watching.outcomes, watching.drops, watching.surpluses) == ({}, {"expired": 60}, {})


def test_ends_that_are_told_again_and_answers_of_what_has_ended_hide_nothing_that_is_missing() -> None:
    watching = Watching(limit=2.0)
    watching.wait(1)
    watching.decided("4", 20)
    watching.decided("3", 20)
    watching.ended("3", times=20)
    one = watching.entry("4")
    watching.observer.take([one] * 30 + [one._replace(ended=False)] * 30)
    watching.wait(5)
    assert watching.outcomes["4", RequestOutcome.MISSING] == 19


def test_an_observer_that_is_told_the_same_again_and_again_is_deaf_all_the_same() -> None:
    watching = Watching()
    watching.wait(1)
    one = watching.entry("3")
    watching.observer.take([one])
    for _ in range(int(LIMIT) + 20):
        watching.decided("4", 10)
        watching.wait(1)
        watching.observer.take([one])
    assert watching.observer.is_deaf


def test_outcomes_that_no_decision_stands_for_are_a_surplus_of_their_arm() -> None:
    watching = Watching(limit=2.0)
    watching.wait(1)
    for second in range(6):
        watching.decided("4", 10)
        watching.ended("4", times=10 + 5 * (second == 2))
        watching.wait(1)
    watching.wait(4)
    assert watching.surpluses == {"4": 5}
    counts = canary_totals(watching)
    assert (counts.decided, counts.surplus) == (60, 5)
    assert watching.told == []


# --- totals


def test_totals_count_by_arm_whatever_version_served() -> None:
    watching = Watching()
    watching.decided("4", 3)
    watching.decided("3", 1, arm="canary")
    watching.ended("4", group=1)
    watching.ended("4", 500, group=1, milliseconds=100.0)
    watching.ended("3", arm="canary", group=2)
    watching.ended("4", cluster="fraud-detector-v3", attempts=2, group=2)
    watching.ended("4", 0, LEFT, group=2, milliseconds=2000.0)
    watching.ended("4", 0, LEFT, cluster="fraud-detector-v3", route=f"{KEY}@default", group=2)
    watching.ended("3", arm="excluded")
    ((totals, units, _),) = watching.observer.totals.take_changed()
    counts = totals.arms["canary"]
    assert (counts.decided, counts.requests, counts.failures, counts.fallbacks) == (4, 4, 2, 1)
    assert counts.groups == {1: [2, 1], 2: [2, 1]}
    assert (counts.abandoned, counts.abandoned_groups) == (2, {2: 2})
    assert totals.arms["excluded"].groups == {}
    assert counts.latency.count == 6
    assert counts.latency.quantile(1) == pytest.approx(2000, rel=0.06)
    assert not units
    assert watching.observer.totals.take_changed() == []


def canary_totals(watching: Watching) -> ArmTotals:
    ((totals, *_),) = watching.observer.totals.take_changed()
    return totals.arms["canary"]


def test_what_is_missing_counts_for_its_arm_and_what_comes_too_late_not_again() -> None:
    watching = Watching(limit=2.0)
    watching.wait(1)
    watching.decided("4", 10)
    watching.decided("3", 10)
    watching.ended("3", times=10)
    watching.ended("4", times=7)
    late = [watching.entry("4", 500) for _ in range(4)]
    watching.wait(5)
    counts = canary_totals(watching)
    assert (counts.decided, counts.requests, counts.missing) == (10, 7, 3)
    assert counts.latency.quantile(0.8) == pytest.approx(2000, rel=0.06)
    watching.observer.take(late)  # one of them is more than was missing
    counts = canary_totals(watching)
    assert (counts.requests, counts.failures, counts.missing) == (8, 1, 3)


def test_what_was_decided_is_unheard_of_until_the_next_entry() -> None:
    watching = Watching()
    began = watching.clock.now()
    for second in range(5):
        watching.decided("4", 3)
        ((totals, *_),) = watching.observer.totals.take_changed()
        assert totals.unheard_since == began, second
        watching.wait(1)
    watching.ended("4", 0, LEFT)
    ((totals, *_),) = watching.observer.totals.take_changed()
    assert totals.unheard_since is None


def test_a_clock_that_is_set_back_has_nothing_unheard_of_from_the_future() -> None:
    watching = Watching()
    watching.decided("4", 3)
    watching.clock.set_back(3600)
    watching.decided("4", 3)
    ((totals, *_),) = watching.observer.totals.take_changed()
    assert totals.unheard_since == watching.clock.now()


def test_units_are_counted_once_and_told_of_when_they_are_new() -> None:
    watching = Watching()
    watching.observer.units(KEY, 1, [(17, "canary"), (18, "control")])
    watching.observer.units(KEY, 1, [(17, "canary"), (19, "control")])
    ((totals, units, _),) = watching.observer.totals.take_changed()
    assert units
    assert totals.units.counts() == {"canary": 1, "control": 2}
    watching.observer.totals.tell_again()
    assert [changed.units for changed in watching.observer.totals.take_changed()] == [True]


def test_an_epoch_that_had_to_make_room_is_counted_on_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals_module, "MAX_EPOCHS", 1)
    watching = Watching()
    watching.ended("4", times=3)
    assert [(c.totals.arms["canary"].requests, c.part) for c in watching.observer.totals.take_changed()] == [(3, 0)]
    watching.follow(replace(watching.rollouts[0], epoch=2, epoch_id=2, number=4711))
    late = watching.entry("4", number=Watching().rollouts[0].number)
    watching.ended("4")
    watching.observer.take([late])
    (changed,) = watching.observer.totals.take_changed()
    assert (changed.totals.epoch, changed.totals.arms["canary"].requests, changed.part) == (1, 1, 1)
    assert watching.observer.forgotten == 2


def test_what_belongs_to_no_rollout_is_not_counted() -> None:
    watching = Watching()
    watching.observer.units("payments/unknown", 1, [(17, "canary")])
    watching.observer.decided([module.Requests("payments/unknown", 1, "canary", "4", int(watching.clock.now()), 1)])
    assert watching.observer.totals.take_changed() == []


# --- decisions that never show up


def missed(watching: Watching, *, canary_seen: int, stable_seen: int, seconds: int = 3) -> None:
    """For some seconds 20 decisions each, of which so many come to an end."""
    for _ in range(seconds):
        watching.ended("4", times=canary_seen)
        watching.ended("3", times=stable_seen)
        watching.decided("4", 20)
        watching.decided("3", 20)
        watching.wait(1)


def test_a_canary_that_hangs_while_stable_answers_is_tripped_when_the_limit_is_over() -> None:
    watching = Watching(limit=2.0)
    watching.wait(1)
    missed(watching, canary_seen=0, stable_seen=20)
    assert watching.told == []
    watching.wait(2)
    assert watching.in_force == [TRIP]
    assert watching.outcomes[("4", RequestOutcome.MISSING)] >= 20


def test_missing_decisions_between_successes_are_in_no_row() -> None:
    watching = Watching(limit=2.0)
    watching.wait(1)
    for _ in range(8):
        watching.ended("4", times=180)
        watching.ended("3", times=20)
        watching.decided("4", 200)
        watching.decided("3", 20)
        watching.wait(1)
    watching.wait(4)
    assert watching.outcomes[("4", RequestOutcome.MISSING)] == 8 * 20
    assert watching.told == []


def test_a_canary_of_few_requests_that_hangs_is_tripped_by_their_row() -> None:
    watching = Watching(limit=2.0)
    watching.ended("4", times=3)
    watching.wait(1)
    for _ in range(10):
        watching.decided("4", 1)
        watching.decided("3", 20)
        watching.ended("3", times=20)
        watching.wait(3)
    watching.wait(3)
    assert watching.in_force == [TRIP]


@pytest.mark.parametrize("heard", [0, 8])
def test_a_log_that_is_cut_or_torn_trips_nobody(heard: int) -> None:
    watching = Watching(limit=2.0)
    watching.wait(1)
    missed(watching, canary_seen=20, stable_seen=20)
    missed(watching, canary_seen=heard, stable_seen=heard, seconds=8)
    watching.wait(10)
    assert watching.told == []


def test_what_ends_late_counts_where_it_was_not_missing() -> None:
    watching = Watching(canary(10_000, breaker=BREAKER), limit=2.0)
    watching.wait(1)
    watching.decided("4", 10)
    late = [watching.entry("4", 504, "upstream_request_timeout") for _ in range(10)]
    watching.wait(15)
    assert watching.outcomes == {}
    watching.observer.take(late)
    assert watching.in_force == [TRIP]


def test_where_nothing_of_stable_is_heard_nothing_is_missing() -> None:
    watching = Watching(limit=2.0)
    watching.wait(1)
    missed(watching, canary_seen=0, stable_seen=0, seconds=10)
    watching.wait(10)
    assert watching.told == []
    assert watching.outcomes == {}


def test_an_observer_to_which_the_log_tells_nothing_of_what_is_decided_is_deaf_until_it_does() -> None:
    watching = Watching()
    watching.wait(2)
    watching.decided("4", 19)
    watching.wait(LIMIT + 3)
    assert not watching.observer.is_deaf
    watching.decided("3", 1)
    watching.wait(LIMIT + 3)
    assert watching.observer.is_deaf
    watching.ended("3")
    assert not watching.observer.is_deaf


def test_an_observer_that_hears_of_others_is_not_deaf_whatever_is_missing() -> None:
    watching = Watching()
    for _ in range(40):
        watching.decided("4", 10)
        watching.wait(1)
        watching.ended("3")
        assert not watching.observer.is_deaf
    watching.wait(60)  # and when nothing more is decided, nothing more is to be heard
    assert not watching.observer.is_deaf


def test_a_clock_that_is_set_back_makes_nothing_missing() -> None:
    watching = Watching(limit=2.0)
    tally = DecisionTally(watching.clock)
    watching.wait(1)
    for second in range(30):
        if second == 10:
            watching.clock.set_back(3600)
        for version, arm in [("4", "canary")] * 10 + [("3", "control")] * (10 * (second % 3 < 2)):
            tally.record(make_decided(decision=make_decision(version=version, arm=arm), facts=None, rollout=None))
            watching.ended(version)
        watching.observer.decided(module.Requests(*counted) for counted in tally.take().counts)
        watching.wait(1)
    assert watching.told == []
    assert ("4", RequestOutcome.MISSING) not in watching.outcomes


# --- requests that go on


def test_streams_that_go_on_are_not_missing_and_count_when_they_end() -> None:
    watching = Watching(limit=2.0)
    watching.wait(1)
    streams = [watching.entry("4", 101, stream=True) for _ in range(40)]
    watching.decided("4", 40, stream=True)
    missed(watching, canary_seen=20, stable_seen=20, seconds=20)
    assert ("4", RequestOutcome.MISSING) not in watching.outcomes
    succeeded = watching.outcomes["4", RequestOutcome.SUCCESS]
    watching.observer.take(streams)
    assert watching.outcomes["4", RequestOutcome.SUCCESS] == succeeded + 40
    broken = [watching.entry("4", 101, "upstream_remote_reset", stream=True) for _ in range(30)]
    watching.wait(60)
    watching.ended("3", times=50)
    watching.observer.take(broken)
    assert watching.in_force == [TRIP]


def test_a_stream_that_its_client_ends_was_answered_and_one_that_never_began_is_abandoned() -> None:
    watching = Watching()
    watching.ended("3", times=50)
    watching.ended("4", 101, LEFT, stream=True, times=9)
    assert watching.outcomes == {("3", RequestOutcome.SUCCESS): 50, ("4", RequestOutcome.SUCCESS): 9}
    watching.ended("4", 0, LEFT, stream=True, times=30)
    assert watching.in_force == [TRIP]


def test_clients_that_call_their_requests_streams_hide_nobody_elses() -> None:
    watching = Watching(limit=2.0)
    watching.wait(1)
    for _ in range(3):
        watching.decided("4", 500, stream=True)
        watching.ended("4", stream=True, times=500)
        missed(watching, canary_seen=0, stable_seen=20, seconds=1)
    watching.wait(4)
    assert watching.outcomes["4", RequestOutcome.MISSING] == 60


def test_a_request_that_is_answered_and_goes_on_is_not_missing_and_counts_once_when_it_ends() -> None:
    watching = Watching(limit=2.0)
    watching.wait(1)
    going_on = [watching.entry("4", ended=False) for _ in range(20)]
    watching.decided("4", 20)
    for _ in range(10):
        watching.observer.take(going_on)
        missed(watching, canary_seen=20, stable_seen=20, seconds=1)
    assert watching.outcomes == {("3", RequestOutcome.SUCCESS): 200, ("4", RequestOutcome.SUCCESS): 200}
    watching.wait(15)
    watching.ended("3", times=50)
    watching.observer.take([one._replace(ended=True, answer=one.answer._replace(status=500)) for one in going_on])
    assert watching.outcomes["4", RequestOutcome.FAILURE] == 20
    assert watching.in_force == [TRIP]


def test_a_request_that_goes_on_without_an_answer_is_missing_however_often_it_is_logged() -> None:
    watching = Watching(limit=2.0)
    watching.wait(1)
    hanging = [watching.entry("4", 0, ended=False) for _ in range(20)]
    watching.decided("4", 20)
    for _ in range(6):
        watching.observer.take(hanging)
        missed(watching, canary_seen=20, stable_seen=20, seconds=1)
    assert watching.outcomes["4", RequestOutcome.MISSING] == 20


def test_what_goes_on_is_heard_of() -> None:
    watching = Watching()
    watching.decided("4", 1)
    watching.wait(5)
    watching.observer.take([watching.entry("4", ended=False)])
    ((totals, *_),) = watching.observer.totals.take_changed()
    assert (totals.unheard_since, totals.arms["canary"].requests) == (None, 0)


# --- what is odd


def test_forged_and_unknown_ids_are_counted_and_ignored() -> None:
    watching = Watching()
    good = watching.entry("4", 500)
    flipped = good.decision_id[:-1] + ("A" if good.decision_id[-1] != "A" else "B")
    forged = [flipped, "x", "~" * 32, "\u00fc" * 32, good.decision_id + "A"]
    watching.observer.take([good._replace(decision_id=text) for text in forged])
    assert sum(watching.drops.values()) == len(forged)
    assert watching.drops["forged"] == 1
    assert watching.outcomes == {}


def test_requests_without_a_decision_are_passed_over() -> None:
    watching = Watching()
    watching.observer.take([watching.entry()._replace(decision_id="", rollout="", version="")])
    assert (watching.drops, watching.outcomes) == ({}, {})


def test_headers_that_do_not_agree_with_the_id_are_ignored() -> None:
    watching = Watching()
    watching.observer.take([watching.entry()._replace(version="99"), watching.entry()._replace(rollout="a/b")])
    watching.wait(3)
    assert watching.drops == {"unknown_version": 1, "unknown_epoch": 1}
    assert watching.outcomes == {}


def test_an_entry_that_is_ahead_of_the_snapshot_waits_for_it() -> None:
    watching = Watching()
    ahead = watching.entry(number=4711)
    watching.observer.take([ahead])
    watching.wait(1)
    assert (watching.drops, watching.outcomes) == ({}, {})
    watching.follow(replace(watching.rollouts[0], epoch=2, epoch_id=2, number=4711))
    assert watching.outcomes == {("4", RequestOutcome.SUCCESS): 1}


def test_entries_that_wait_are_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EARLY", 3)
    watching = Watching()
    watching.ended(number=4711, times=5)
    assert watching.drops == {"unknown_epoch": 2}
    watching.wait(3)
    assert watching.drops == {"unknown_epoch": 5}


def test_requests_under_way_over_a_change_of_weight_count_for_their_own_epoch() -> None:
    watching = Watching()
    before = [watching.entry("4", 500) for _ in range(3)]
    watching.follow(replace(watching.rollouts[0], epoch=2, epoch_id=2, number=4711))
    watching.observer.take(before)
    watching.ended("4")
    totals = {totals.epoch: totals for totals, *_ in watching.observer.totals.take_changed()}
    assert totals[1].arms["canary"].failures == 3
    assert totals[2].arms["canary"].failures == 0


def test_before_the_first_snapshot_inherited_trips_stay() -> None:
    watching = Watching()
    unknowing = module.Observer(watching.observer._ids, 15.0, watching.clock, watching, [TRIP])
    unknowing.tick()
    assert watching.told == []
    unknowing.follow(snapshot(*watching.rollouts))
    assert watching.told == []
    unknowing.follow(snapshot(replace(watching.rollouts[0], attempt=2)))
    assert watching.told == [[]]


# --- experiments


def probed(*, failing: bool, times: int, watching: Watching) -> None:
    for _ in range(times):
        watching.ended("4", 500 if failing else 200, arm="treatment")


def test_a_variant_is_probed_after_three_windows_and_closes_when_it_is_well() -> None:
    watching = Watching(experiment(breaker=BREAKER))
    watching.ended("3", arm="control", times=50)
    probed(failing=True, times=10, watching=watching)
    assert watching.in_force == [TRIP]
    watching.wait(29)
    assert watching.in_force == [TRIP]
    watching.wait(1.5)
    assert watching.in_force == [TRIP._replace(probing=True)]
    probed(failing=False, times=20, watching=watching)
    assert watching.in_force == []


def test_a_variant_that_the_store_says_is_tripped_is_probed_on_any_host_and_lifted_once() -> None:
    rollout = experiment(breaker=BREAKER)
    watching = Watching(rollout)
    watching.follow(rollout, tripped=["4"])
    assert watching.in_force == [TRIP]
    watching.wait(31)
    assert watching.in_force == [TRIP._replace(probing=True)]
    probed(failing=False, times=20, watching=watching)
    assert (watching.in_force, watching.lifted) == ([], [("4", watching.clock.now())])
    watching.follow(replace(rollout, epoch=2), tripped=["4"])  # the store does not know yet
    assert watching.in_force == []
    watching.follow(rollout)
    watching.follow(rollout, tripped=["4"])  # it was tripped again, wherever
    assert watching.in_force == [TRIP]


def test_what_was_lifted_elsewhere_or_is_of_another_attempt_is_let_go() -> None:
    for change in ({"lifted": {"4": 7.0}}, {"attempt": 2}):
        watching = Watching(experiment(breaker=BREAKER), trips=[TRIP._replace(at=7.0)])
        watching.observer.adopt([TRIP])
        assert watching.told == []
        watching.follow(replace(watching.rollouts[0], **change))
        assert (watching.told, watching.lifted) == ([[]], [])


def test_a_variant_that_was_lifted_by_a_clock_that_was_ahead_is_taken_away_all_the_same() -> None:
    for stored in (False, True):
        watching = Watching(experiment(breaker=BREAKER))
        lifted = replace(watching.rollouts[0], lifted={"4": watching.clock.now() + 3600})
        watching.follow(lifted, tripped=["4"] if stored else [])
        if not stored:
            watching.ended("3", arm="control", times=50)
            watching.ended("4", 500, arm="treatment", times=10)
        watching.wait(1)
        assert watching.in_force == [TRIP]
        (trip,) = watching.observer.trips_in_force
        assert with_held(snapshot(lifted), [trip]).host_overlay[KEY].tripped == {"4"}


def test_a_variant_that_fails_its_probe_waits_twice_as_long_each_time_up_to_ten_minutes() -> None:
    watching = Watching(experiment(breaker=BREAKER))
    watching.ended("3", arm="control", times=50)
    probed(failing=True, times=10, watching=watching)
    for probes, wait in enumerate((30, 60, 120, 240, 480, 600, 600)):
        assert watching.in_force == [TRIP._replace(probes=probes)]
        watching.wait(wait - 1)
        assert not watching.in_force[0].probing
        watching.wait(2)
        assert watching.in_force[0].probing
        probed(failing=True, times=10, watching=watching)


def test_a_variant_that_fails_too_often_without_a_row_fails_its_probe() -> None:
    watching = Watching(experiment(breaker=BREAKER), trips=[TRIP._replace(probing=True)])
    for _ in range(4):
        probed(failing=False, times=3, watching=watching)
        probed(failing=True, times=2, watching=watching)
    assert watching.in_force == [TRIP._replace(probes=1)]


def test_a_variant_that_nobody_waits_for_fails_its_probe_and_one_that_some_do_not_wait_for_does_not() -> None:
    watching = Watching(experiment(breaker=BREAKER), trips=[TRIP._replace(probing=True)])
    watching.ended("4", 0, LEFT, arm="treatment", times=10)
    assert watching.in_force == [TRIP._replace(probes=1)]
    watching = Watching(experiment(breaker=BREAKER), trips=[TRIP._replace(probing=True)])
    for _ in range(20):
        watching.ended("4", 0, LEFT, arm="treatment")
        watching.ended("4", arm="treatment")
    assert watching.in_force == []


def test_a_variant_whose_breaker_is_taken_out_of_the_document_is_back() -> None:
    watching = Watching(experiment(breaker=BREAKER), trips=[TRIP])
    watching.follow(experiment())
    assert watching.in_force == []


def test_the_last_variant_is_never_tripped() -> None:
    watching = Watching(experiment(breaker=BREAKER))
    watching.ended("4", arm="treatment", times=50)
    watching.ended("3", 500, arm="control", times=200)
    assert watching.told == []


# --- whatever comes


steps = st.lists(
    st.one_of(
        st.tuples(st.just("end"), st.sampled_from(["3", "4"]), st.sampled_from([0, 200, 404, 500, 503])),
        st.tuples(st.just("leave"), st.sampled_from(["3", "4"]), st.sampled_from([0, 200, 500])),
        st.tuples(st.just("wait"), st.just(""), st.integers(0, 40)),
        st.tuples(st.just("go on"), st.sampled_from(["3", "4"]), st.sampled_from([0, 101, 200, 500])),
        st.tuples(st.just("decide"), st.sampled_from(["3", "4"]), st.integers(1, 30)),
        st.tuples(st.just("attempt"), st.just(""), st.just(0)),
    ),
    max_size=120,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_whatever_happens_only_the_canary_of_this_attempt_is_tripped(moves: list[tuple[str, str, int]]) -> None:
    watching = Watching(limit=2.0)
    for kind, version, number in moves:
        if kind == "end":
            watching.ended(version, number, times=4)
        elif kind == "go on":
            watching.ended(version, number, ended=False, stream=number == 101, times=4)
        elif kind == "leave":
            watching.ended(version, number, LEFT, times=4)
        elif kind == "wait":
            watching.wait(number / 4)
        elif kind == "decide":
            watching.decided(version, number)
        else:
            rollout = watching.rollouts[0]
            watching.follow(
                replace(rollout, attempt=rollout.attempt + 1, epoch_id=rollout.epoch_id + 1, number=rollout.number + 1)
            )
        assert all((trip.version, trip.probing) == ("4", False) for trip in watching.in_force)
        assert len(watching.in_force) <= 1
        if kind == "attempt":
            assert watching.in_force == []
        assert all(trip.attempt == watching.rollouts[0].attempt for trip in watching.in_force)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([(200,), (500,), (503,), (0, LEFT), (200, LEFT)]), min_size=1, max_size=300))
def test_where_stable_fares_just_the_same_nobody_is_tripped(answers: list[tuple[int, ...]]) -> None:
    watching = Watching()
    for status, *flags in answers:
        watching.ended("3", status, *flags)
        watching.ended("4", status, *flags)
        watching.clock.advance(0.05)
    assert watching.told == []


def test_ten_thousand_rollouts_that_change_at_once_are_followed_in_one_pass() -> None:
    rollouts = [canary(5000, name=f"r-{number}", breaker=BREAKER) for number in range(300)]
    watching = Watching(*rollouts)
    watching.observer.follow(snapshot(*(replace(rollout, attempt=2) for rollout in rollouts)))
    watching.observer.follow(snapshot())
    assert len(watching.observer._watched) == 0
