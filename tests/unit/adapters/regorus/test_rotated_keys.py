"""The recipe for tokens: the old key and the new one hold until the old one is gone."""

from __future__ import annotations

import json

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from extproc.adapters.regorus.policy import RegorusEngine
from tests.support.policies import engine_of, recipe

NOW = 1_700_000_000
KEYS = {kid: rsa.generate_private_key(public_exponent=65537, key_size=2048) for kid in ("old", "new")}


def engine(*kids: str) -> RegorusEngine:
    """The policy with these keys, as one load has them."""
    keys = [{**jwt.algorithms.RSAAlgorithm.to_jwk(KEYS[kid].public_key(), as_dict=True), "kid": kid} for kid in kids]
    return engine_of(recipe("claims").files, {"claims": {"keys": json.dumps({"keys": keys})}})


def allows(asked: RegorusEngine, kid: str, now: float = NOW) -> bool:
    claims = {"sub": "ann", "iss": "https://issuer.example", "aud": "models", "exp": NOW + 60}
    token = jwt.encode(claims, KEYS[kid], "RS256", headers={"kid": kid})
    headers = {"authorization": f"Bearer {token}"}
    document = {
        "rollout": {"stable": "3"},
        "time": int(now * 10**9),
        "attributes": {"request": {"http": {"headers": headers}}},
    }
    return asked.evaluate("claims/decision", document).allow


def test_a_rotated_key_holds_from_the_load_that_brings_it_and_both_hold_in_the_meantime() -> None:
    before, meantime, after = engine("old"), engine("old", "new"), engine("new")
    assert [allows(each, "old") for each in (before, meantime, after)] == [True, True, False]
    assert [allows(each, "new") for each in (before, meantime, after)] == [False, True, True]


def test_a_token_is_over_at_the_decision_s_own_time_and_again_so_when_it_is_asked_again() -> None:
    asked = engine("old", "new")
    assert [allows(asked, "new", NOW + seconds) for seconds in (0, 60, 0)] == [True, False, True]
