"""What a policy may answer, and what makes an answer invalid."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from extproc.datapath.model import PolicyVerdict
from extproc.datapath.verdict import check_verdict
from extproc.names import Reason
from extproc.resources.policy_schema import POLICY_DECISION_SCHEMA

SCHEMA = Draft7Validator(POLICY_DECISION_SCHEMA)


def test_allow_alone_narrows_nothing() -> None:
    assert check_verdict({"allow": True}) == PolicyVerdict()


def test_every_field_is_taken_over() -> None:
    raw = {
        "allow": False,
        "versions": ["3", "4", "4"],
        "version": "4",
        "shadow": False,
        "reason": "why",
        "http_status": 451,
        "body": "no",
    }
    assert check_verdict(raw) == PolicyVerdict(False, frozenset({"3", "4"}), "4", False, "why", 451, "no")


def test_versions_may_be_a_set_and_may_be_empty() -> None:
    assert check_verdict({"allow": True, "versions": {"3"}}).versions == frozenset({"3"})
    assert check_verdict({"allow": True, "versions": []}).versions == frozenset()


@pytest.mark.parametrize(
    ("status", "sent"), [(400, 400), (599, 599), (399, 403), (600, 403), (200, 403), (-1, 403), (451.0, 451)]
)
def test_a_status_outside_the_errors_becomes_403(status: float, sent: int) -> None:
    assert check_verdict({"allow": False, "http_status": status}).http_status == sent


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (True, "the decision is a boolean, not an object"),
        ([], "the decision is an array, not an object"),
        ({"allow", "x"}, "the decision is a set, not an object"),
        ({}, "allow is required"),
        ({"allow": None}, "allow is null, not a boolean"),
        ({"allow": 1}, "allow is a number, not a boolean"),
        ({"allow": "yes"}, "allow is a string, not a boolean"),
        ({"allow": True, "versions": "4"}, "versions is a string, not an array or set of strings"),
        ({"allow": True, "versions": ["4", 5]}, "versions is an array, not an array or set of strings"),
        ({"allow": True, "versions": None}, "versions is null, not an array or set of strings"),
        ({"allow": True, "version": 4}, "version is a number, not a string"),
        ({"allow": True, "version": None}, "version is null, not a string"),
        ({"allow": True, "shadow": "no"}, "shadow is a string, not a boolean"),
        ({"allow": True, "http_status": "403"}, "http_status is a string, not an integer"),
        ({"allow": True, "http_status": True}, "http_status is a boolean, not an integer"),
        ({"allow": True, "http_status": 403.5}, "http_status is a number, not an integer"),
        ({"allow": True, "body": {}}, "body is an object, not a string"),
        ({"allow": True, "verison": "4"}, "an unknown field in the decision: is version meant?"),
    ],
)
def test_a_wrong_shape_is_invalid_and_says_what_is_wrong(raw: Any, message: str) -> None:
    verdict = check_verdict(raw)
    assert verdict.fault is Reason.POLICY_INVALID
    assert verdict.message == message


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ({"http_status": 403.5}, "http_status is a number, not an integer"),
        ({"http_status": None, "body": "no"}, "http_status is null, not an integer"),
        ({"because": "of that"}, "an unknown field in the decision"),
    ],
)
def test_a_denial_stands_whatever_is_wrong_with_its_trimmings(flaw: dict[str, Any], message: str) -> None:
    verdict = check_verdict({**flaw, "allow": False, "reason": "why"})
    assert (verdict.fault, verdict.allow, verdict.reason, verdict.http_status) == (None, False, "why", 403)
    assert verdict.body == flaw.get("body")
    assert verdict.message is not None
    assert verdict.message.startswith(message)


def test_an_unknown_field_is_not_repeated_because_it_may_be_a_value_of_the_input() -> None:
    message = check_verdict({"allow": True, "alice@example.org": "4"}).message
    assert message is not None
    assert "alice" not in message
    assert "allow, versions, version, shadow, reason, http_status, body" in message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)
FIELDS = ["allow", "versions", "version", "shadow", "reason", "http_status", "body", "other"]


@given(JSON | st.dictionaries(st.sampled_from(FIELDS), JSON | st.lists(st.text(max_size=3), max_size=3)))
def test_the_published_schema_accepts_what_is_accepted(raw: Any) -> None:
    verdict = check_verdict(raw)
    assert (verdict.fault is None and verdict.message is None) == SCHEMA.is_valid(raw)
    if type(raw) is dict and raw.get("allow") is False:
        assert (verdict.fault, verdict.allow) == (None, False)
    assert verdict.allow == (type(raw) is dict and raw.get("allow") is True)


def test_the_schema_is_a_schema() -> None:
    Draft7Validator.check_schema(POLICY_DECISION_SCHEMA)


@pytest.mark.parametrize("key", ["reason", "body", "version"])
def test_a_text_without_end_is_cut_and_a_denial_stands(key: str) -> None:
    verdict = check_verdict({"allow": False, key: "a" * 100_000_000})
    assert (verdict.fault, verdict.allow) == (None, False)
    assert getattr(verdict, key) == "a" * 65_536
