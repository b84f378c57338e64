"""What a decision makes of the request's headers, and what it never makes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.datapath.model import Decision, Denial, Mutation
from extproc.datapath.mutation import MAX_VALUE_BYTES, STRIPPED, legal_value, mutation_for, without_room
from extproc.names import OWN_HEADERS, Reason

TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


def decision(**changes: Any) -> Decision:
    """A unit of the canary, with some of it changed."""
    fields: dict[str, Any] = {
        "decision_id": "d-1",
        "revision": 7,
        "policy_revision": "p1",
        "rollout": "payments/fraud-detector",
        "epoch": 1,
        "arm": "canary",
        "unit": b"user-1",
        "bucket": 3,
        "ranges": {"canary": (0, 500)},
        "version": "4",
        "upstream": "fraud-detector-v4",
        "shadow": None,
        "reason": Reason.WEIGHT,
        "features": {},
    }
    return Decision(**{**fields, **changes})


def test_a_match_sets_what_was_decided_and_removes_a_spoofed_shadow() -> None:
    mutation = mutation_for(decision(), "mark")
    assert dict(mutation.set_headers) == {
        "x-model-version": b"4",
        "x-model-cluster": b"fraud-detector-v4",
        "x-model-arm": b"canary",
        "x-model-rollout": b"payments/fraud-detector",
        "x-model-mark": b"mark",
        "x-decision-id": b"d-1",
    }
    assert mutation.remove_headers == ("x-model-shadow",)
    assert mutation.denial is None


def test_a_mirrored_request_names_the_shadow_and_removes_nothing() -> None:
    mutation = mutation_for(decision(shadow="fraud-detector-v5"), "mark")
    assert dict(mutation.set_headers)["x-model-shadow"] == b"fraud-detector-v5"
    assert mutation.remove_headers == ()


def test_stable_is_set_too() -> None:
    mutation = mutation_for(decision(version="3", upstream="fraud-detector-v3", arm="control"), "mark")
    assert dict(mutation.set_headers)["x-model-version"] == b"3"


def test_without_a_match_every_spoofed_header_is_removed_and_the_request_marked_as_seen() -> None:
    mutation = mutation_for(
        decision(rollout=None, arm=None, version=None, upstream=None, unit=None, reason=Reason.NO_MATCH), "mark"
    )
    assert mutation.set_headers == (("x-model-mark", b"mark"),)
    assert set(mutation.remove_headers) == set(OWN_HEADERS) - {"x-model-mark"}


def test_every_own_header_is_set_or_removed_in_every_reply() -> None:
    for made in (decision(), decision(shadow="s"), decision(version=None), decision(decision_id="bad\n")):
        mutation = mutation_for(made, "mark")
        assert {name for name, _ in mutation.set_headers} | set(mutation.remove_headers) == set(OWN_HEADERS)


@pytest.mark.parametrize("field", ["version", "upstream", "arm", "rollout", "shadow", "decision_id"])
@pytest.mark.parametrize("value", ["", "4\r\nx-admin: 1", "4\x00", "\x7f", " 4", "4 ", "\t", "v" * 1025, "\ud800"])
def test_a_value_that_envoy_would_refuse_strips_the_whole_reply(field: str, value: str) -> None:
    assert mutation_for(decision(**{field: value}), "mark") == STRIPPED


@pytest.mark.parametrize("value", ["4", "2026.11-rc1+b3", "a b", "a\tb", "größe", "v" * MAX_VALUE_BYTES])
def test_a_value_that_envoy_accepts_is_sent_as_it_is(value: str) -> None:
    assert dict(mutation_for(decision(version=value), "mark").set_headers)["x-model-version"] == value.encode()


def test_our_names_are_header_names() -> None:
    assert all(TOKEN.fullmatch(name) for name in OWN_HEADERS)


@given(st.text(max_size=40))
def test_no_legal_value_has_a_control_character(text: str) -> None:
    value = legal_value(text)
    if value is not None:
        assert value == text.encode()
        assert not any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in value)
        assert value.strip(b" \t") == value != b""


def test_a_denial_tells_the_client_the_reason_and_the_decision() -> None:
    mutation = mutation_for(decision(denial=Denial(451, "embargo")), "mark")
    assert mutation.denial is not None
    assert mutation.denial.http_status == 451
    assert json.loads(mutation.denial.body or "") == {"reason": "embargo", "decision_id": "d-1"}
    assert dict(mutation.set_headers) == {"content-type": b"application/json", "x-decision-id": b"d-1"}
    assert mutation.remove_headers == ()


def test_a_denial_without_a_reason_says_policy_deny() -> None:
    mutation = mutation_for(decision(denial=Denial(403)), "mark")
    assert mutation.denial is not None
    assert json.loads(mutation.denial.body or "")["reason"] == "policy_deny"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ('{"error": "no"}', b"application/json"),
        (' ["no"]', b"application/json"),
        ("{not json", b"text/plain; charset=utf-8"),
        ("go away", b"text/plain; charset=utf-8"),
        ("", b"text/plain; charset=utf-8"),
        ("[" * 100_000, b"text/plain; charset=utf-8"),
    ],
)
def test_the_policys_body_is_sent_as_what_it_is(body: str, content_type: bytes) -> None:
    mutation = mutation_for(decision(denial=Denial(403, "no", body)), "mark")
    assert mutation.denial is not None
    assert mutation.denial.body == body
    assert dict(mutation.set_headers)["content-type"] == content_type


@pytest.mark.parametrize("status", [0, 100, 200, 302, 399, 600])
def test_a_denial_outside_400_to_599_is_a_403(status: int) -> None:
    mutation = mutation_for(decision(denial=Denial(status)), "mark")
    assert mutation.denial is not None
    assert mutation.denial.http_status == 403


def test_a_request_without_room_for_our_headers_gets_none_and_loses_what_was_claimed() -> None:
    decided = mutation_for(decision(), "mark")
    assert without_room(decided, ["x-user-id", ":path"]) == Mutation()
    assert without_room(STRIPPED, ["x-user-id"]) == Mutation()
    assert without_room(decided, ["x-model-version", ":path"]) == Mutation(remove_headers=("x-model-version",))
    denied = mutation_for(decision(denial=Denial(403)), "mark")
    assert without_room(denied, ["x-model-version"]) == denied
