"""How the demo says how rollouts ended: from what users got, and from what was seen of the status."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from extproc.demo.endings import (
    Ending,
    failed_in_a_row,
    false_positive_rate,
    median_milliseconds,
    outcome_of,
    weights_of,
)
from extproc.demo.traffic import ServedRequest
from extproc.demo.watching import Seen

BEGAN_AT = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()


def answer(sent: float, version: str = "4", *, fails: bool = False, took: float = 0.1) -> ServedRequest:
    return ServedRequest(sent, "u", sick=False, took=took, version=version, error="HTTP 500" if fails else None)


def status(**fields: Any) -> dict[str, Any]:
    return {
        "stable": "1",
        "canary": "2",
        "weight": 0,
        "effectiveAt": "2026-11-25T12:00:00.000Z",
        "phase": "Progressing",
        "aborted": [],
        "tripped": [],
        **fields,
    }


def test_failures_in_a_row_are_those_with_no_success_of_the_version_between_them() -> None:
    answers = [
        *(answer(second, fails=True) for second in (1.0, 2.0)),
        answer(3.0),
        *(answer(second, fails=True) for second in (4.0, 6.0, 8.0)),
        answer(5.0, "2"),
    ]
    assert failed_in_a_row(answers, "4", 3) == pytest.approx(8.1)
    assert failed_in_a_row(answers, "4", 4) is None


def test_answers_count_in_the_order_in_which_users_had_them() -> None:
    overtaken = answer(1.0, took=5.0)
    assert failed_in_a_row([overtaken, answer(2.0, fails=True), answer(3.0, fails=True)], "4", 2) == pytest.approx(3.1)


def test_the_seconds_to_zero_end_with_the_last_answer_that_a_user_had() -> None:
    ending = Ending("4", began=0.0, since=2.0)
    ending.count([answer(1.0), answer(2.5, fails=True, took=0.5), answer(9.0, "2")])
    assert ending.seconds_to_zero == pytest.approx(1.0)
    assert (ending.requests, ending.failed_requests) == (2, 1)
    assert ending.facts()["last_request_second"] == 3.0


def test_a_version_that_was_gone_before_took_no_time() -> None:
    ending = Ending("4", began=0.0, since=2.0)
    ending.count([answer(1.0)])
    assert ending.seconds_to_zero == 0.0


def test_a_promoted_version_has_no_seconds_to_zero() -> None:
    ending = Ending("2", began=0.0)
    ending.count([answer(1.0, "2")])
    assert ending.facts()["seconds_to_zero"] is None


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, ""),
        ({"stable": "2", "phase": "Healthy"}, "promoted"),
        ({"aborted": ["2"], "phase": "Degraded"}, "rolled_back"),
        ({"tripped": ["2"]}, "tripped"),
        ({"tripped": ["2"], "aborted": ["2"], "phase": "Degraded"}, "tripped"),
        ({"tripped": ["4"], "aborted": ["3"]}, ""),
    ],
)
def test_the_outcome_is_what_became_of_that_version(fields: dict[str, Any], outcome: str) -> None:
    assert outcome_of(status(**fields), "2") == outcome


def test_weights_are_those_of_the_version_while_it_was_the_newest() -> None:
    seen = [
        Seen(0.1, status()),
        Seen(0.2, status()),
        Seen(3.4, status(weight=25, effectiveAt="2026-11-25T12:00:03.500Z")),
        Seen(7.0, status(weight=25, effectiveAt="2026-11-25T12:00:03.500Z", tripped=["2"])),
        Seen(9.0, status(canary="3", effectiveAt="2026-11-25T12:00:08.000Z")),
    ]
    assert weights_of("2", seen, BEGAN_AT) == [
        {"second": 0.0, "weight": 0.0},
        {"second": 3.5, "weight": 25.0},
        {"second": 7.0, "weight": 0.0},
    ]


def test_who_is_stable_has_everybody() -> None:
    seen = [Seen(1.0, status(stable="2", phase="Healthy", effectiveAt="2026-11-25T12:00:01.000Z"))]
    assert weights_of("2", seen, BEGAN_AT) == [{"second": 1.0, "weight": 100.0}]


def test_false_positives_are_healthy_patients_who_were_alarmed() -> None:
    answers = [
        ServedRequest(0.0, "u", sick=False, said_sick=True),
        ServedRequest(0.0, "u", sick=False, said_sick=False),
        ServedRequest(0.0, "u", sick=True, said_sick=True),
        ServedRequest(0.0, "u", sick=False, error="HTTP 500"),
    ]
    assert false_positive_rate(answers) == 0.5
    assert false_positive_rate([]) == 0.0


def test_users_wait_for_an_answer_from_when_they_asked() -> None:
    answers = [ServedRequest(0.0, "u", sick=False, took=took) for took in (0.004, 0.0061, 0.9)]
    assert (median_milliseconds(answers), median_milliseconds([])) == (6.1, None)
