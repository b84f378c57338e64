"""Outcomes: each line of the access log that was seen on a real Envoy, and what it says about the version."""

from __future__ import annotations

import pytest

from extproc.measure.outcomes import End
from extproc.protect.outcome import (
    ENDS,
    FAILURES,
    NO_GRPC_STATUS,
    UPSTREAM_FAULTS,
    RequestEnd,
    RequestOutcome,
    outcome_of,
)

LEFT = "downstream_remote_reset"
KEY = "payments/fraud-detector"
A, B = "fraud-detector-v4", "fraud-detector-v3"
ROUTE, DEFAULT = f"{KEY}@4", f"{KEY}@default"


def outcome(
    status: int,
    *flags: str,
    cluster: str = A,
    route: str = ROUTE,
    attempts: int = 1,
    own: str = A,
    stable: str = B,
    stream: bool = False,
    grpc: int | None = None,
) -> RequestOutcome:
    return outcome_of(
        RequestEnd(status, flags, cluster, route, attempts, 1.0, grpc), KEY, "4", own, stable, stream=stream
    )


@pytest.mark.parametrize("status", [200, 204, 301, 400, 404, 429, 499])
def test_an_answer_that_is_no_5xx_is_a_success(status: int) -> None:
    assert outcome(status) is RequestOutcome.SUCCESS


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_a_5xx_is_a_failure(status: int) -> None:
    assert outcome(status) is RequestOutcome.FAILURE


def test_an_answer_that_breaks_off_is_a_failure_whatever_its_status() -> None:
    assert outcome(200, "upstream_protocol_error") is RequestOutcome.FAILURE
    assert outcome(200, "upstream_connection_termination") is RequestOutcome.FAILURE
    assert outcome(504, "upstream_request_timeout") is RequestOutcome.FAILURE
    assert outcome(503, "no_cluster_found", cluster="") is RequestOutcome.FAILURE


@pytest.mark.parametrize("flag", ["downstream_connection_termination", "downstream_remote_reset"])
def test_a_client_that_left_before_it_had_its_answer_abandoned_it(flag: str) -> None:
    assert outcome(0, flag) is RequestOutcome.ABANDONED
    assert outcome(200, flag) is RequestOutcome.ABANDONED
    assert ENDS[RequestOutcome.ABANDONED] is End.ABANDONED


def test_an_error_is_one_whether_or_not_the_client_stayed_for_its_end() -> None:
    assert outcome(500, "downstream_connection_termination") is RequestOutcome.FAILURE


@pytest.mark.parametrize("status", [101, 200])
def test_a_stream_that_began_ends_well_whoever_ends_it(status: int) -> None:
    assert outcome(status, "downstream_connection_termination", stream=True) is RequestOutcome.SUCCESS
    assert outcome(status, stream=True) is RequestOutcome.SUCCESS
    assert outcome(status, "upstream_remote_reset", stream=True) is RequestOutcome.FAILURE
    assert outcome(0, "downstream_connection_termination", stream=True) is RequestOutcome.ABANDONED


def test_an_upgraded_connection_that_its_version_closes_ends_well_as_no_other_answer_does() -> None:
    closed = "upstream_connection_termination"
    assert outcome(101, closed, stream=True) is outcome(101, closed) is RequestOutcome.SUCCESS
    for status in (0, 200, 502, 503):
        assert outcome(status, closed, stream=True) is RequestOutcome.FAILURE
    for fault in sorted(UPSTREAM_FAULTS - {closed}):
        assert outcome(101, fault, stream=True) is outcome(101, closed, fault, stream=True) is RequestOutcome.FAILURE


def test_a_request_does_not_fail_the_less_for_being_called_a_stream() -> None:
    for status, *flags in ((500,), (503, "upstream_connection_failure"), (504, "upstream_request_timeout")):
        assert outcome(status, *flags, stream=True) is outcome(status, *flags) is RequestOutcome.FAILURE


def test_every_outcome_but_unrouted_is_held_for_or_against_a_version() -> None:
    assert set(RequestOutcome) - ENDS.keys() == {RequestOutcome.UNROUTED}
    assert {outcome for outcome, end in ENDS.items() if end is End.FAILED} == FAILURES


@pytest.mark.parametrize("status", [200, 500, 503])
def test_what_stable_answered_in_a_retry_is_the_versions_failure(status: int) -> None:
    assert outcome(status, cluster=B, attempts=2) is RequestOutcome.FALLBACK
    assert RequestOutcome.FALLBACK in FAILURES


def test_a_version_without_an_endpoint_is_passed_over_and_that_is_its_failure() -> None:
    assert outcome(200, cluster=B, attempts=1) is RequestOutcome.FALLBACK


def test_a_version_that_has_no_route_yet_is_not_to_blame() -> None:
    assert outcome(200, cluster=B, route=DEFAULT) is RequestOutcome.UNROUTED
    assert outcome(503, cluster=B, route=DEFAULT, attempts=2) is RequestOutcome.UNROUTED
    assert RequestOutcome.UNROUTED not in FAILURES


def test_on_a_route_of_ones_own_the_attempts_tell() -> None:
    assert outcome(200, cluster=B, route="mine", attempts=2) is RequestOutcome.FALLBACK
    assert outcome(200, cluster=B, route="mine", attempts=1) is RequestOutcome.UNROUTED


def test_two_versions_in_one_cluster_do_not_fall_back_to_each_other() -> None:
    assert outcome(200, cluster=B, own=B, attempts=2) is RequestOutcome.SUCCESS
    assert outcome(500, cluster=B, own=B) is RequestOutcome.FAILURE


def test_a_retry_that_stayed_with_the_version_is_its_own() -> None:
    assert outcome(200, attempts=2) is RequestOutcome.SUCCESS


def test_a_client_that_left_during_a_fallback_had_none_from_the_version() -> None:
    assert outcome(0, "downstream_connection_termination", cluster=B, attempts=2) is RequestOutcome.FALLBACK


@pytest.mark.parametrize("stream", [False, True])
def test_a_grpc_status_that_is_a_5xx_is_a_failure_though_http_says_200(stream: bool) -> None:
    found = {code: outcome(200, stream=stream, grpc=code) for code in range(17)}
    assert {code for code, how in found.items() if how is RequestOutcome.FAILURE} == {2, 4, 12, 13, 14, 15}
    assert {code for code, how in found.items() if how is RequestOutcome.ABANDONED} == {1}
    assert set(found.values()) == {RequestOutcome.SUCCESS, RequestOutcome.FAILURE, RequestOutcome.ABANDONED}


def test_a_grpc_call_without_a_status_was_broken_off_unless_its_client_left() -> None:
    assert outcome(200, grpc=NO_GRPC_STATUS) is RequestOutcome.FAILURE
    assert outcome(200, LEFT, grpc=NO_GRPC_STATUS) is RequestOutcome.ABANDONED
    assert outcome(200, LEFT, grpc=NO_GRPC_STATUS, stream=True) is RequestOutcome.SUCCESS
