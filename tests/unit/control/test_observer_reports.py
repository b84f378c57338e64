"""Nothing more is given while an observer that may have taken the version away is not heard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from extproc.control.access import DirectControl
from extproc.control.acting import act, as_action
from extproc.control.actions import Abort, Change, Kill, Pause, Promote, Restore, Retry, SetWeight, Undo
from extproc.control.observer_reports import ReportedTrip
from extproc.control.reconciler import Reconciler
from extproc.errors import DropoutError, InvalidInput, Refused
from extproc.store.records import Write
from tests.support.hearing import Observers
from tests.support.reconciling import NAME, Clusters, Environment


class Watched:
    """A rollout that is at half with a pause of ten seconds, a controller, and observers on hosts ``a`` and ``b``."""

    def __init__(self, folder: Path) -> None:
        self.environment = Environment(folder)
        self.environment.apply(steps=[{"setWeight": 50}, {"pause": {"duration": "10s"}}])
        self.observers = Observers(self.environment.clock, "a", "b")
        self.controller = self.new_controller()

    def new_controller(self, holder: str = "a") -> Reconciler:
        return self.environment.controller(holder, hearing=self.observers.hearing())

    def run(self, seconds: int, *heard: str, controller: Reconciler | None = None) -> None:
        """Ticks, once a second; the observers on ``heard`` report before each."""
        for _ in range(seconds):
            self.observers.report(*heard)
            self.environment.run(controller or self.controller, 1)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody holds the store's write lock."""
        with self.environment.place.locked():
            yield

    @property
    def reason(self) -> str:
        return self.environment.row().status.reason

    @property
    def standing(self) -> tuple[str, str, str]:
        status = self.environment.row().status
        return status.stable, status.phase, status.reason


PROMOTED = ("4", "Healthy", "promoted")
ABORTED = ("3", "Degraded", "breaker_open")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    yield watched
    watched.environment.store.close()


@pytest.fixture
def at_half(watched: Watched) -> Watched:
    watched.run(4, "a", "b")
    assert watched.environment.weight() == 5000
    return watched


def test_a_rollout_whose_observers_report_is_promoted_as_if_there_were_none(at_half: Watched) -> None:
    at_half.run(15, "a", "b")
    assert at_half.standing == PROMOTED
    assert "observer_unheard" not in [entry.detail.get("reason") for entry in at_half.environment.history()]


def test_a_silent_observer_holds_the_promotion_back_by_name_until_it_is_heard(at_half: Watched) -> None:
    at_half.run(20, "a")
    status = at_half.environment.row().status
    assert (status.stable, status.reason) == ("3", "observer_unheard")
    assert "on b," in status.message
    assert "`dropout rollout promote payments/fraud-detector --without b`" in status.message
    assert len([entry for entry in at_half.environment.history() if "no word" in entry.message]) == 1
    at_half.run(2, "a", "b")
    assert at_half.standing == PROMOTED


def test_a_silence_of_three_seconds_is_none(at_half: Watched) -> None:
    for _ in range(8):
        at_half.run(2, "a")
        at_half.run(1, "a", "b")
    assert at_half.standing == PROMOTED


@pytest.mark.parametrize("how", ["ended in order", "succeeded in its place", "not of this attempt"])
def test_an_observer_from_which_nothing_is_to_be_heard_holds_up_nobody(at_half: Watched, how: str) -> None:
    observers = at_half.observers
    if how == "ended in order":
        observers.report("b", over=True)
    elif how == "succeeded in its place":
        observers.told["b"] = observers.told["b"]._replace(over=True)
    else:
        observers.watched.clear()
    at_half.run(15, "a")
    assert at_half.standing == PROMOTED


def test_a_rollout_that_no_observer_ever_reported_for_is_held_up_by_none(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.observers.told.clear()
    watched.run(15)
    assert watched.standing == PROMOTED


def test_a_controller_that_just_started_waits_without_a_word_until_it_heard_everybody(at_half: Watched) -> None:
    at_half.controller.release()
    at_half.environment.clock.advance(20)
    successor = at_half.new_controller("c")
    at_half.run(2, controller=successor)
    assert at_half.standing == ("3", "Progressing", "pause_over")
    at_half.run(1, "a", "b", controller=successor)
    assert at_half.standing == PROMOTED


@pytest.mark.parametrize("known", [True, False])
def test_observations_that_cannot_be_read_are_no_good_news(at_half: Watched, known: bool) -> None:
    controller = at_half.controller
    at_half.observers.away = True
    if not known:
        controller.release()
        controller = at_half.new_controller("c")
    at_half.run(15, "a", "b", controller=controller)
    assert at_half.reason == "observer_unheard"
    assert "the disk is away" in at_half.environment.row().status.message
    at_half.observers.away = False
    at_half.run(3, "a", "b", controller=controller)
    assert at_half.standing == PROMOTED


def test_a_file_of_observations_that_was_made_anew_does_not_make_a_silent_observer_forgotten(at_half: Watched) -> None:
    del at_half.observers.told["b"]
    at_half.observers.watched.clear()
    at_half.run(15, "a")
    assert at_half.reason == "observer_unheard"
    at_half.observers.report("b")
    at_half.observers.told["b"] = at_half.observers.told["b"]._replace(number=77)
    at_half.run(2, "a", "b")
    assert at_half.standing == PROMOTED


def test_a_reported_trip_is_recorded_and_the_canary_aborted_within_the_tick(at_half: Watched) -> None:
    at_half.observers.report("b", trips=[at_half.observers.trip()])
    at_half.run(1, "a", "b")
    assert at_half.standing == ABORTED
    trip, abort = at_half.environment.history()[-2:]
    assert (trip.actor, trip.action, abort.action) == ("breaker@b", "trip", "abort")
    assert "10 requests in a row failed" in abort.message


@pytest.mark.parametrize("over", [True, False])
def test_what_an_observer_said_last_stands_whether_it_ended_or_is_silent(at_half: Watched, over: bool) -> None:
    at_half.observers.report("b", trips=[at_half.observers.trip()], over=over)
    with at_half.locked():
        at_half.run(20, "a")
    at_half.run(1, "a")
    assert at_half.standing == ABORTED


@pytest.mark.parametrize("readable", [True, False], ids=["only-the-store-is-locked", "the-disk-is-full"])
@pytest.mark.parametrize("seconds", [5, 11, 20])
def test_a_canary_that_was_taken_away_while_the_store_could_not_be_written_is_not_promoted(
    at_half: Watched, seconds: int, readable: bool
) -> None:
    at_half.run(7, "a", "b")
    trip = at_half.observers.trip()
    with at_half.locked():
        if readable:
            at_half.observers.report("b", trips=[trip])
            at_half.run(seconds, "a", "b")
        else:
            at_half.run(seconds)
    at_half.run(1)  # the controller is first
    assert at_half.environment.row().status.stable == "3"
    at_half.observers.report("b", trips=[trip])
    at_half.run(1, "a", "b")
    assert at_half.standing == ABORTED


def test_a_report_that_came_some_time_within_a_long_gap_is_none_of_now(at_half: Watched) -> None:
    at_half.observers.report("a", "b")
    at_half.environment.clock.advance(20)  # the controller was stopped, and the observer fell silent soon after
    at_half.run(1, "a")
    assert at_half.environment.row().status.stable == "3"
    at_half.run(1, "a", "b")
    assert at_half.standing == PROMOTED


def test_a_trip_that_the_store_forgot_is_recorded_again(at_half: Watched) -> None:
    forgetful = at_half.environment.row().status  # as an older copy of the store has it
    at_half.observers.report("b", trips=[at_half.observers.trip()])
    at_half.run(1, "a", "b")
    row = at_half.environment.row()
    at_half.environment.store.write([Write(*NAME, row.resource_version, status=forgetful)])
    at_half.run(15, "a", "b")
    assert at_half.standing == ABORTED


def test_a_trip_of_an_earlier_attempt_takes_nothing_away(at_half: Watched) -> None:
    at_half.observers.report("b", trips=[at_half.observers.trip(attempt=0)])
    at_half.run(15, "a", "b")
    assert at_half.standing == PROMOTED


# -- trips that come too late


def test_a_trip_that_came_too_late_undoes_the_promotion_in_the_next_tick(at_half: Watched) -> None:
    at_half.run(12, "a", "b")
    assert at_half.standing == PROMOTED
    at_half.observers.report("b", trips=[at_half.observers.trip(ago=5)])
    at_half.run(1, "a", "b")
    assert at_half.standing == ABORTED
    assert at_half.environment.history()[-1].message.startswith(
        "version 3 is stable again in place of 4: version 4 was tripped"
    )
    at_half.run(5, "a", "b")
    assert at_half.standing == ABORTED


def test_a_trip_that_is_days_late_raises_the_alarm_and_leaves_stable_alone(at_half: Watched) -> None:
    at_half.run(12, "a", "b")
    trip = at_half.observers.trip()
    at_half.environment.clock.advance(3 * 86400)
    at_half.observers.report("b", trips=[trip])
    at_half.run(3, "a", "b")
    assert at_half.standing == PROMOTED
    assert (at_half.controller.alarms, len(at_half.environment.said)) == (1, len(set(at_half.environment.said)))
    assert at_half.environment.said[-1].endswith("stable version 4 was tripped: 10 requests in a row failed")


def test_a_promotion_is_undone_only_for_a_version_that_can_take_over(at_half: Watched) -> None:
    clusters = Clusters("fraud-detector-v4")
    at_half.controller.release()
    controller = at_half.environment.controller("c", hearing=at_half.observers.hearing(), clusters=clusters)
    at_half.run(12, "a", "b", controller=controller)
    assert at_half.standing == PROMOTED
    at_half.observers.report("b", trips=[at_half.observers.trip()])
    at_half.run(2, "a", "b", controller=controller)
    assert at_half.standing == PROMOTED
    assert "cluster fraud-detector-v3 is not known" in at_half.environment.row().status.conditions[0]["message"]


@pytest.mark.parametrize("led", [True, False])
def test_a_host_leaves_it_to_a_controller_that_leads_and_undoes_it_by_itself_without_one(
    at_half: Watched, led: bool
) -> None:
    at_half.run(12, "a", "b")
    if not led:
        at_half.controller.release()
    trip = ReportedTrip("b", at_half.observers.trip())
    act(at_half.environment.store, *as_action(trip), at_half.environment.clock)
    assert at_half.standing == (PROMOTED if led else ABORTED)
    at_half.observers.report("b", trips=[trip.trip])
    at_half.run(1, "a", "b")
    assert at_half.standing == ABORTED


# -- by hand


@pytest.fixture
def by_hand(at_half: Watched) -> DirectControl:
    """Half a minute in which ``b`` was silent; then somebody acts, with a new look at the observers."""
    environment = at_half.environment

    def wait(seconds: float) -> None:
        at_half.observers.report("a")
        environment.clock.advance(seconds)

    return DirectControl(environment.store, "alice", environment.clock, hearing=at_half.observers.hearing(), wait=wait)


GIVES_MORE = [SetWeight(*NAME, 9000), Promote(*NAME, full=True), Restore(*NAME)]


@pytest.mark.parametrize("action", GIVES_MORE)
def test_by_hand_too_nothing_more_is_given_while_an_observer_is_silent(
    at_half: Watched, by_hand: DirectControl, action: Change
) -> None:
    if isinstance(action, Restore):
        by_hand.act(Kill(*NAME))
    with pytest.raises(Refused, match="--without b`") as refused:
        by_hand.act(action)
    assert refused.value.code == "observer_unheard"
    by_hand.act(Pause(*NAME))
    assert by_hand.act(Promote(*NAME, without=("b",))).message.endswith("it goes on without the observers on b")
    assert by_hand.act(action).result == "configured"


@pytest.mark.parametrize("action", [SetWeight(*NAME, 1000), Kill(*NAME), Abort(*NAME), Pause(*NAME)])
def test_what_takes_away_waits_for_nobody(by_hand: DirectControl, action: Change) -> None:
    assert by_hand.act(action).result == "configured"


def test_who_acts_waits_for_the_next_report_and_no_longer(at_half: Watched) -> None:
    environment, waited = at_half.environment, []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        environment.clock.advance(seconds)
        if len(waited) == 5:
            at_half.observers.report("a", "b")

    control = DirectControl(
        environment.store, "alice", environment.clock, hearing=at_half.observers.hearing(), wait=wait
    )
    assert control.act(Promote(*NAME, full=True)).row.status.stable == "4"
    assert len(waited) == 5


def test_an_operator_goes_on_without_a_host_for_this_attempt(at_half: Watched, by_hand: DirectControl) -> None:
    at_half.run(20, "a")
    assert at_half.reason == "observer_unheard"
    result = by_hand.act(Promote(*NAME, without=("b",)))
    assert result.row.status.without == ("b",)
    assert at_half.environment.history()[-1].detail == {"without": ["b"]}
    assert by_hand.act(Promote(*NAME, without=("b",))).result == "unchanged"
    at_half.run(1, "a")
    assert at_half.standing == PROMOTED
    by_hand.act(Undo(*NAME))
    assert by_hand.act(Retry(*NAME)).row.status.without == ()


@pytest.mark.parametrize("action", GIVES_MORE[:2])
def test_what_an_observer_reports_is_written_first_whoever_acts(
    at_half: Watched, by_hand: DirectControl, action: Change
) -> None:
    at_half.observers.report("b", trips=[at_half.observers.trip()])
    with pytest.raises(Refused) as refused:
        by_hand.act(action)
    assert refused.value.code == "version_aborted"
    assert at_half.environment.row().status.tripped == ("4",)
    by_hand.act(Retry(*NAME))


def test_a_promotion_is_undone_whoever_is_silent(at_half: Watched, by_hand: DirectControl) -> None:
    at_half.run(12, "a", "b")
    assert at_half.standing == PROMOTED
    assert by_hand.act(Undo(*NAME)).row.status.stable == "3"


def test_a_host_from_which_no_observer_ever_reported_is_refused_with_those_that_did(
    at_half: Watched, by_hand: DirectControl
) -> None:
    by_hand.act(Pause(*NAME))
    with pytest.raises(InvalidInput, match="no observer on bb, c ever reported; those that did are on a, b") as refused:
        by_hand.act(Promote(*NAME, without=("bb", "b", "c")))
    assert (refused.value.code, at_half.environment.row().status.without) == ("observer_unknown", ())
    at_half.observers.report("a", over=True)
    assert by_hand.act(Promote(*NAME, without=("a", "b"))).row.status.without == ("a", "b")
    at_half.observers.told.clear()  # the file was made anew
    assert by_hand.act(Promote(*NAME, without=("a", "b"))).result == "unchanged"


@pytest.mark.parametrize("there", ["a file that cannot be read", "no observer", "no file"])
def test_a_host_is_known_to_nobody_where_nothing_is_heard(at_half: Watched, there: str) -> None:
    environment = at_half.environment
    if there == "no observer":
        at_half.observers.told.clear()
    at_half.observers.away = there == "a file that cannot be read"
    hearing = at_half.observers.hearing() if there != "no file" else None
    control = DirectControl(environment.store, "alice", environment.clock, hearing=hearing)
    with pytest.raises(DropoutError) as refused:
        control.act(Promote(*NAME, without=("b",)))
    assert refused.value.code == ("observer_unheard" if at_half.observers.away else "observer_unknown")
    assert ("the disk is away" if at_half.observers.away else "none did") in str(refused.value)


@pytest.mark.parametrize("host", ["", "a\nb", "x" * 254])
def test_what_is_no_name_of_a_host_is_refused(by_hand: DirectControl, host: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        by_hand.act(Promote(*NAME, without=(host,)))
    assert refused.value.code == "host_invalid"
