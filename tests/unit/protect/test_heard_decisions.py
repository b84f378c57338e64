"""An event counts once: whatever is told again, whenever, and however little room there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.protect import heard_decisions as module
from extproc.protect.heard_decisions import HeardDecisions, News

START = 1_000_000.0
LIMIT = 15.0
REFUSED = {News.REPEATED, News.EXPIRED}
WINDOW = module.REMEMBERED_SECONDS


def end(told: HeardDecisions, key: bytes, at: float, now: float) -> News:
    """Its end is told, and counts if it may; what was known of it."""
    news = told.news(key, at, now)
    if news not in REFUSED:
        told.ended(key, now)
    return news


def test_an_end_that_is_told_again_does_not_count_for_as_long_as_it_is_remembered_and_never_after() -> None:
    told = HeardDecisions(LIMIT, START)
    assert end(told, b"id", START + 1, START + 2) is News.FIRST
    for now in range(int(START) + 2, int(START + 3 * WINDOW), 7):
        told.ended(b"other %d" % now, now)
        assert end(told, b"id", START + 1, now) is (News.REPEATED if now <= START + 1 + WINDOW else News.EXPIRED)


def test_what_is_known_to_go_on_ends_once_whenever_that_is() -> None:
    told = HeardDecisions(LIMIT, START)
    told.goes_on(b"id")
    now = START + 2 * WINDOW
    assert [end(told, b"id", START + 1, now + later) for later in (0, 1)] == [News.GOING_ON, News.EXPIRED]


def test_what_was_decided_before_the_start_does_not_count_because_another_may_have_counted_it() -> None:
    told = HeardDecisions(LIMIT, START + 0.0007)
    assert end(told, b"before", START - 0.002, START + 1) is News.EXPIRED
    assert end(told, b"after", START, START + 1) is News.FIRST  # ids count in milliseconds


def test_a_limit_that_is_longer_has_what_comes_late_remembered() -> None:
    told = HeardDecisions(WINDOW, START)
    assert end(told, b"late", START + 1, START + 1.9 * WINDOW) is News.FIRST


def test_with_too_much_traffic_what_comes_late_is_lost_and_nothing_counts_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 80)
    told, now = HeardDecisions(LIMIT, START), START
    for number in range(1000):
        now += 0.01
        assert end(told, b"%d" % number, now, now) is News.FIRST
    assert [end(told, b"%d" % number, START + 0.01 * (number + 1), now) for number in (0, 900, 950, 999)] == [
        News.EXPIRED,
        News.EXPIRED,
        News.REPEATED,
        News.REPEATED,
    ]
    assert len(told._part) + sum(len(part) for _, part in told._parts) <= 80


def test_more_that_goes_on_than_there_is_room_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GOING_ON", 2)
    told = HeardDecisions(LIMIT, START)
    for number in range(3):
        told.goes_on(b"%d" % number)
    now = START + 2 * WINDOW
    assert [end(told, b"%d" % number, START + 1, now) for number in range(3)] == [
        News.EXPIRED,  # there was no room for it
        News.GOING_ON,
        News.GOING_ON,
    ]
    assert told.dropped == 1


def test_a_clock_that_is_set_back_makes_nobody_deaf() -> None:
    told = HeardDecisions(LIMIT, START)
    for hours in (0, -2, 1):  # what decides does not follow a clock back; what begins to decide then does
        now = START + 3600 * hours + 1
        for number in range(4):
            assert end(told, b"%d %d" % (hours, number), now, now) is News.FIRST
            assert end(told, b"ahead %d %d" % (hours, number), now + 3600, now) is News.FIRST
            assert end(told, b"ahead %d %d" % (hours, number), now + 3600, now) is News.REPEATED


told_of = st.tuples(st.integers(0, 30), st.floats(0, 400), st.sampled_from(["end", "goes on"]), st.floats(0, 100))


@given(st.lists(told_of, max_size=80), st.integers(8, 64))
def test_no_order_of_tales_has_an_id_count_twice(tales: list[tuple[int, float, str, float]], room: int) -> None:
    """Each tale: which id, how old that is, what is told, and how much later than the tale before."""
    before, module.MAX_REMEMBERED = module.MAX_REMEMBERED, room  # type: ignore[misc]
    try:
        told, now = HeardDecisions(LIMIT, START), START
        made: dict[int, float] = {}
        counted: list[int] = []
        for number, age, what, later in tales:
            now += later
            at, key = made.setdefault(number, now - age), b"%d" % number
            news = told.news(key, at, now)
            if news in REFUSED:
                continue
            if what == "end":
                told.ended(key, now)
                counted.append(number)
            else:
                told.goes_on(key)
        assert len(counted) == len(set(counted))
    finally:
        module.MAX_REMEMBERED = before  # type: ignore[misc]
