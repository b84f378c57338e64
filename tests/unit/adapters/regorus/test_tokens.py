"""Tokens in policies: whatever a client sends, a policy that denies by default denies; times are the decision's."""

from __future__ import annotations

import hmac
import json
import sys
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from extproc.adapters.rego import jose
from extproc.adapters.regorus.policy import RegorusEngine, check_here
from extproc.datapath.verdict_cache import VerdictCache
from tests.support.policies import engine_of, sources_of

NOW = 1_700_000_000
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
PATH = "routing/decision"
HEAD = 'package routing\n\ndefault decision := {"allow": false}\n\n'
GUARD = (
    HEAD
    + """decision := {"allow": true, "reason": claims.sub} if {
	[true, _, claims] = io.jwt.decode_verify(input.token, {"cert": data.keys, "alg": "RS256", "iss": "me", "aud": "x"})
}
"""
)
CLAIMS = {"sub": "ann", "iss": "me", "aud": "x", "exp": NOW + 60, "nbf": NOW - 60}


def guard(keys: str = PUBLIC, text: str = GUARD) -> RegorusEngine:
    return engine_of(text, {"keys": keys})


def allows(engine: RegorusEngine, token: Any, now: float = NOW) -> bool:
    verdict = engine.evaluate(PATH, {"token": token, "time": int(now * 10**9)})
    assert verdict.fault is None, verdict
    return verdict.allow


def signed(**changes: Any) -> str:
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not None}
    return jwt.encode(claims, KEY, "RS256")


def part(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def by_secret(header: dict[str, Any], secret: str, payload: bytes = json.dumps(CLAIMS).encode()) -> str:
    text = f"{part(json.dumps(header).encode())}.{part(payload)}"
    return f"{text}.{part(hmac.digest(secret.encode(), text.encode(), 'sha256'))}"


def jwks(*kids: str) -> str:
    key = jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
    return json.dumps({"keys": [{**key, "kid": kid} for kid in kids]})


def test_a_token_that_holds_is_let_through() -> None:
    assert guard().evaluate(PATH, {"token": signed(), "time": NOW * 10**9}).reason == "ann"


NONE = json.dumps({"alg": "none"}).encode()
UNSIGNED = f"{part(NONE)}.{part(json.dumps(CLAIMS).encode())}."


@pytest.mark.parametrize(
    "token",
    [
        UNSIGNED,
        by_secret({"alg": "none"}, ""),
        by_secret({"alg": "HS256"}, PUBLIC),
        by_secret({"alg": "HS256", "cty": 1}, PUBLIC),
        by_secret({"alg": "RS256", "crit": ["x"], "x": 1}, PUBLIC),
        signed()[:-4] + "AAAA",
        signed() + "=",
        signed() + "====",
        signed().rpartition(".")[0] + ".",
        signed().replace(".", "", 1),
        "garbage",
        "",
        "..",
        "a" * 10_000_000,
        "." * 300_000,
        signed(sub="x" * 400_000),
        signed(iss="other"),
        signed(iss=None),
        signed(aud="y"),
        signed(aud=["y", "z"]),
        signed(aud=None),
        signed(exp=NOW),
        signed(nbf=NOW + 1),
        None,
        7,
        ["x"],
        {"a": 1},
    ],
    ids=range(27),
)
def test_a_token_that_does_not_hold_is_denied(token: Any) -> None:
    assert not allows(guard(), token)


@pytest.mark.parametrize(
    "keys",
    [
        *("", "x", "{}", "[]", "null", '{"keys": 1}', '{"keys": [{}]}', '{"keys": [1]}', "A" * 10_000_000),
        f"-----BEGIN PUBLIC KEY-----\n{'A' * 10_000_000}\n-----END PUBLIC KEY-----\n",
        PUBLIC[:200],
        "[" * 100_000,
    ],
    ids=range(12),
)
def test_with_keys_that_are_none_every_token_is_denied(keys: str) -> None:
    assert not allows(guard(keys), signed())


def test_a_token_is_held_against_the_key_that_it_names_and_where_none_is_named_so_against_all() -> None:
    token = jwt.encode(CLAIMS, KEY, "RS256", headers={"kid": "new"})
    assert allows(guard(jwks("old", "new")), token)
    assert allows(guard(jwks("old")), token)
    other = jwt.algorithms.RSAAlgorithm.to_jwk(
        rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    )
    wrong = {**json.loads(other), "kid": "new"}
    assert not allows(guard(json.dumps({"keys": [wrong, *json.loads(jwks("old"))["keys"]]})), token)


UNHOLDABLE = {
    "half a pair": b'{"a":"\\ud800"}',
    "half a pair as a key": b'{"\\udfff":{"\\ud800":1}}',
    "too deep": b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep": b'{"a":' + b"[" * 110 + b"]" * 110 + b"}",
    "too long": b'{"a":' + b"9" * 4000 + b"}",
    "a whole number over 64 bits": b'{"a":18446744073709551616}',
    "too large": b'{"a":1e999}',
    "not unicode": b"\xff\xfe",
    "not a number": b'{"a":NaN}',
}


@pytest.mark.parametrize("payload", UNHOLDABLE.values(), ids=UNHOLDABLE)
def test_what_the_engine_cannot_hold_does_not_end_an_evaluation(payload: bytes) -> None:
    engine = guard(text=HEAD + 'decision := {"allow": true} if io.jwt.decode(input.token)[1].x\n')
    assert not allows(engine, by_secret({"alg": "HS256"}, "s", payload))


@pytest.mark.parametrize("call", ["verify_hs256(input.token, data.keys)", "verify_rs256(input.token, data.keys)"])
def test_what_cannot_be_verified_is_neither_true_nor_null(call: str) -> None:
    engine = guard(text=HEAD + f'decision := {{"allow": true}} if io.jwt.{call}\n')
    assert not any(allows(engine, token) for token in ("garbage", "a.b.c", UNSIGNED, None))
    denied = guard(text=HEAD + f'decision := {{"allow": true}} if not io.jwt.{call}\n')
    assert all(allows(denied, token) for token in ("garbage", "a.b.c", UNSIGNED, None))


def test_times_are_held_against_the_decision_s_own() -> None:
    engine, token = guard(), signed()
    assert [allows(engine, token, NOW + seconds) for seconds in (-61, -60, 0, 59.999, 60, 10**6)] == [
        *(False, True, True, True, False, False)
    ]
    assert not engine.evaluate(PATH, {"token": token}).allow
    assert engine.evaluate(PATH, {"token": signed(exp=None, nbf=None)}).allow


def test_a_rule_that_reads_a_clock_reads_the_time_of_the_input_and_is_never_remembered() -> None:
    engine = guard()
    assert engine.reads(PATH).paths == ("time", "token")
    cache = VerdictCache(100)
    remembering, token = cache.before(engine), signed()
    for _ in range(2):
        assert remembering.evaluate(PATH, {"token": token, "time": NOW * 10**9}).allow
    assert (cache.hits, cache.misses) == (0, 0)
    assert not remembering.evaluate(PATH, {"token": token, "time": (NOW + 60) * 10**9}).allow
    plain = guard(text=HEAD + 'decision := {"allow": true} if io.jwt.verify_hs256(input.token, "s")\n')
    assert plain.reads(PATH).paths == ("token",)


def test_a_time_of_one_s_own_is_taken_before_the_decision_s() -> None:
    text = GUARD.replace('"aud": "x"', f'"aud": "x", "time": {NOW * 10**9}')
    assert allows(guard(text=text), signed(), NOW + 10**6)


def test_without_the_extra_the_policy_is_refused_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    monkeypatch.setitem(sys.modules, "jwt.algorithms", None)
    monkeypatch.delitem(sys.modules, jose.__name__)
    (fault,) = check_here(sources_of(GUARD, {"keys": PUBLIC}))
    assert (fault.code, fault.file, fault.line) == ("policy_builtin_missing", "routing/decision.rego", 6)
    assert fault.message == "io.jwt.decode_verify needs more to be installed: pip install 'dropout-router[rego]'"
    text = 'package routing\n\ndecision := io.jwt.decode("x")\n'
    assert check_here(sources_of(text)) == []
