"""Tests ask a real OPA."""

from __future__ import annotations

from tests.systems.opa import Opa

TALL = """package people

tall if input.height > 200
"""


def test_a_policy_is_put_and_asked(opa: Opa) -> None:
    opa.put_policy("people", TALL)
    assert opa.decide("people/tall", {"height": 201}) is True
    assert opa.decide("people/tall", {"height": 200}) is None


def test_no_policy_of_another_test_is_left(opa: Opa) -> None:
    assert opa.decide("people/tall", {"height": 201}) is None
