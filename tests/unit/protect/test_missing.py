"""Decisions of which nothing is heard: counted once, in time, and never because a second had an edge."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from extproc.protect import missing as module
from extproc.protect.missing import Decisions, Missing, Settled

START = 1_000_000
LIMIT = 2.0
KEY = Decisions("payments/fraud-detector", 1, "canary", "4")


def settled(watched: Missing, now: float) -> list[Settled]:
    """All that is settled by now."""
    return [one for _, of_second in watched.settle(now) for one in of_second]


def beyond(second: int) -> float:
    """When ``second`` may be waited for no longer."""
    return second + 2 + LIMIT + module.SLACK_SECONDS


def test_what_does_not_appear_within_the_limit_is_missing() -> None:
    watched = Missing(LIMIT, START)
    watched.decided(START + 1, KEY, 5, START + 2)
    for _ in range(3):
        assert watched.seen(START + 1.5, KEY, START + 2.1)
    assert settled(watched, START + 2 + LIMIT) == []
    assert settled(watched, beyond(START + 1)) == [Settled(KEY, 5, 2)]
    assert settled(watched, beyond(START + 9)) == []


def test_what_appears_later_is_not_counted_again() -> None:
    watched = Missing(LIMIT, START)
    watched.decided(START + 1, KEY, 1, START + 2)
    assert settled(watched, beyond(START + 1)) == [Settled(KEY, 1, 1)]
    assert not watched.seen(START + 1.5, KEY, beyond(START + 1))


def test_a_decision_that_workers_count_a_second_later_is_not_missing() -> None:
    watched = Missing(LIMIT, START)
    watched.seen(START + 1.999, KEY, START + 2.1)
    watched.decided(START + 2, KEY, 1, START + 3)
    assert settled(watched, beyond(START + 2)) == [Settled(KEY, 0, 0), Settled(KEY, 1, 0)]


def test_what_nobody_counted_hides_nothing_for_long() -> None:
    watched = Missing(LIMIT, START)
    for _ in range(10):  # the worker that decided was killed
        watched.seen(START + 1.5, KEY, START + 2)
    watched.decided(START + 3, KEY, 4, START + 4)
    assert settled(watched, beyond(START + 3))[-1] == Settled(KEY, 4, 4)


def test_what_was_decided_before_the_start_is_nobodys() -> None:
    watched = Missing(LIMIT, START + 0.5)
    watched.decided(START, KEY, 5, START + 1)
    assert watched.seen(START - 1, KEY, START + 0.6)
    assert settled(watched, beyond(START + 1)) == []


def test_a_clock_that_is_set_back_starts_over() -> None:
    watched = Missing(LIMIT, START)
    watched.decided(START + 1, KEY, 5, START + 2)
    assert settled(watched, START - 3600.0) == []
    watched.decided(START - 3598, KEY, 3, START - 3597)
    assert settled(watched, beyond(START - 3598)) == [Settled(KEY, 3, 3)]


def test_more_versions_than_there_is_room_for_are_counted_as_dropped(monkeypatch: object) -> None:
    watched = Missing(LIMIT, START)
    original, module.MAX_COUNTS = module.MAX_COUNTS, 2  # type: ignore[misc]
    try:
        for number in range(5):
            watched.decided(START + 1, Decisions(f"a/{number}", 1, "canary", "4"), 1, START + 2)
    finally:
        module.MAX_COUNTS = original  # type: ignore[misc]
    assert watched.dropped == 3
    assert len(settled(watched, beyond(START + 1))) == 2


def test_outcomes_beyond_what_was_decided_are_a_surplus_once_whatever_follows() -> None:
    watched = Missing(LIMIT, START)
    for _ in range(9):
        watched.seen(START + 1.5, KEY, START + 2)
    assert settled(watched, beyond(START)) == [Settled(KEY, 0, 0)], "they may be counted in the next second"
    assert settled(watched, beyond(START + 1)) == [Settled(KEY, 0, 0, 9)]
    for second in range(10, 15):  # of another's decisions that nobody here counts, some in each second
        watched.decided(START + second, KEY, 5, START + second + 1)
        for _ in range(8):
            watched.seen(START + second + 0.5, KEY, START + second + 1)
    found = settled(watched, beyond(START + 20))
    assert sum(one.surplus for one in found) == 5 * 3
    assert not any(one.missing for one in found)


decisions = st.lists(st.tuples(st.floats(0, 20), st.floats(0, 0.9), st.none() | st.floats(0, LIMIT)), max_size=60)


@given(decisions)
def test_as_many_are_missing_as_never_appeared(made: list[tuple[float, float, float | None]]) -> None:
    """Each decision: when its id is made, how much later it is counted, how much later it appears, if ever."""
    watched = Missing(LIMIT, START - 1)
    events = []
    for at, late, appears in made:
        at += START
        counted = at + late
        events.append((int(counted) + 1.1, "decided", int(counted)))
        if appears is not None:
            events.append((at + appears, "seen", at))
    missing, surplus, clock = 0, 0, START - 1.0
    for now, kind, what in sorted(events, key=lambda event: event[0]):
        while clock < now:
            found = settled(watched, clock)
            missing, surplus = missing + sum(one.missing for one in found), surplus + sum(one.surplus for one in found)
            clock += 0.1
        if kind == "decided":
            watched.decided(int(what), KEY, 1, now)
        else:
            watched.seen(what, KEY, now)
    found = settled(watched, START + 100.0)
    missing, surplus = missing + sum(one.missing for one in found), surplus + sum(one.surplus for one in found)
    never = sum(appears is None for *_, appears in made)
    # An id from the end of a second may be counted in the next: then a missing one can be hidden, never invented.
    assert missing <= never
    assert surplus == 0
    if all(int(at + late) == int(at) for at, late, _ in made):
        assert missing == never
