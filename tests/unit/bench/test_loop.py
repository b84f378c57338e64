"""What the bench makes of a log of requests, and of figures and their bars."""

from __future__ import annotations

import pytest

from tests.bench.load import Response
from tests.bench.loop.figures import Figure, of_runs, report
from tests.bench.loop.trip import CANARY_ANSWERS, CANARY_FAILS, STABLE_ANSWERS, after_condition, completed_at

BREAKER = {"window": "10s", "minRequests": 20, "errorRate": 0.2, "consecutive": 10}


def responses(*statuses: int, apart: float = 1.0, start: float = 0.0) -> list[Response]:
    """Requests that end one after another."""
    return [Response(start + number * apart, status, 0.0) for number, status in enumerate(statuses)]


def test_ten_failures_in_a_row_complete_the_condition_whatever_stable_answers_between() -> None:
    log = responses(*[CANARY_FAILS, STABLE_ANSWERS] * 20)
    assert completed_at(log, BREAKER) == 18.0


def test_a_share_of_failures_completes_it_once_there_are_enough_requests() -> None:
    log = responses(*[CANARY_ANSWERS] * 14, *[CANARY_FAILS, CANARY_ANSWERS] * 10, apart=0.1)
    assert completed_at(log, BREAKER) == pytest.approx(2.2)  # the 23rd: five of them failed


def test_what_is_older_than_the_window_does_not_count() -> None:
    earlier = responses(*[CANARY_ANSWERS] * 100, apart=0.01)
    log = responses(*[CANARY_FAILS] * 9, CANARY_ANSWERS, *[CANARY_FAILS] * 20, start=60.0)
    assert completed_at([*earlier, *log], BREAKER) == 79.0


def test_a_trip_takes_from_there_to_the_last_failure_by_when_it_ended() -> None:
    slow = Response(9.0, CANARY_FAILS, 5.0)
    log = [slow, *responses(*[CANARY_FAILS] * 12, apart=0.5), *responses(*[STABLE_ANSWERS] * 9, start=20.0)]
    assert after_condition(log, BREAKER) == pytest.approx(14.0 - 4.5)


def test_a_request_without_an_answer_makes_the_run_worthless() -> None:
    with pytest.raises(RuntimeError, match="1 requests were not answered"):
        after_condition([*responses(*[CANARY_FAILS] * 12), Response(3.0, -1, 0.0)], BREAKER)


def test_a_canary_that_never_was_bad_enough_makes_it_worthless_too() -> None:
    with pytest.raises(RuntimeError, match="never bad enough"):
        after_condition(responses(*[CANARY_ANSWERS] * 50, CANARY_FAILS), BREAKER)


def test_the_slowest_run_is_held_against_the_bar_and_all_of_them_are_told() -> None:
    figure = of_runs("trip_seconds.at_20", "a trip", [0.5, 2.5, 0.7], 2.0)
    assert report([figure]) == {
        "trip_seconds": {
            "at_20": {"value": 2.5, "bar": 2.0, "unit": "s", "met": False, "median": 0.7, "runs": [0.5, 2.5, 0.7]}
        }
    }


@pytest.mark.parametrize(
    ("value", "at_least", "met"), [(2, False, True), (3, False, False), (2, True, True), (1, True, False)]
)
def test_a_bar_that_is_reached_exactly_is_kept(value: float, at_least: bool, met: bool) -> None:
    assert Figure("name", "title", value, 2, "", at_least=at_least).met is met
