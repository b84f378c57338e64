"""What our builtins answer is what OPA answers; and what OPA leaves undefined is undefined."""

from __future__ import annotations

import hmac
import json
import random
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from extproc.adapters.regorus.builtins import hashing
from extproc.adapters.regorus.policy import RegorusEngine
from tests.support.policies import sources_of
from tests.systems.opa import opa

UNDEFINED = "(undefined)"
TEXTS = ("", "a", "ünï", "a\nb", "\u0000", "x" * 1000, "💡")
NO_TEXTS = (1, None, True, [], {}, ["a"], {"a": "b"})


def module_of(calls: Sequence[str]) -> str:
    """A module with a rule for each call."""
    rules = "\n".join(f"c{number} := {call}" for number, call in enumerate(calls))
    return f"package cases\n\n{rules}\n"


def of_opa(calls: Sequence[str], document: Any, folder: Path) -> list[Any]:
    (folder / "cases.rego").write_text(module_of(calls))
    (folder / "input.json").write_text(json.dumps(document))
    done = opa("eval", "--format", "json", "-d", folder / "cases.rego", "-i", folder / "input.json", "data.cases")
    assert done.returncode == 0, done.stdout + done.stderr
    values = json.loads(done.stdout)["result"][0]["expressions"][0]["value"]
    return [values.get(f"c{number}", UNDEFINED) for number in range(len(calls))]


def of_ours(calls: Sequence[str], document: Any) -> list[Any]:
    engine = RegorusEngine(sources_of({"cases.rego": module_of(calls)}))
    engine._engine.set_input_json(json.dumps(document))
    return [_value(engine, f"data.cases.c{number}") for number in range(len(calls))]


def _value(engine: RegorusEngine, rule: str) -> Any:
    found = json.loads(engine._engine.eval_query_as_json(rule)).get("result")
    return found[0]["expressions"][0]["value"] if found else UNDEFINED


def differences(calls: Sequence[str], folder: Path, document: Any = None) -> list[tuple[str, Any, Any]]:
    """The calls that are answered otherwise, each with OPA's answer and ours."""
    expected, found = of_opa(calls, document or {}, folder), of_ours(calls, document or {})
    assert len(set(map(repr, expected))) > 1, "all answers are the same: that compares nothing"
    return [each for each in zip(calls, expected, found, strict=True) if each[1] != each[2]]


def written(*arguments: Any) -> str:
    return ", ".join(json.dumps(argument) for argument in arguments)


def test_digests_and_codes_are_those_of_opa(tmp_path: Path) -> None:
    calls = []
    values = [*TEXTS, *NO_TEXTS]
    # By way of the input, because OPA does not compile what it sees is no text.
    texts = [f"input[{number}]" for number in range(len(values))]
    for builtin in hashing.BUILTINS:
        if len(builtin.types) == 1:
            calls += [f"{builtin.name}({text})" for text in texts]
        else:
            calls += [f"{builtin.name}({text}, {other})" for text in texts for other in texts[::2]]
    assert differences(calls, tmp_path, values) == []


NETWORKS = (
    *("10.0.0.0/8", "10.1.2.3/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "192.168.0.0/25", "192.168.0.128/25"),
    *("::/0", "::/80", "2001:db8::/32", "2001:DB8:1::/48", "fe80::1/128", "::ffff:10.1.0.0/112", "::ffff:0:0/96"),
    *("::ffff:10.0.0.0/95", "10.0.0.0/08", "::1.2.3.4/128"),
)
ADDRESSES = ("10.1.2.3", "192.168.0.1", "224.0.0.1", "::1", "::ffff:10.1.2.3", "2001:db8::1")
NO_NETWORKS = (
    *("", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/255.0.0.0", "10.0.0.0/1e9", "10.0.0/8"),
    *("010.0.0.0/8", "10.0.0.0/8 ", "fe80::1%eth0/64", "fe80::1%eth0", "::/129", "1.2.3.4/" + "9" * 400),
    "\u0661.0.0.0/8",
)


def test_ranges_of_addresses_are_those_of_opa(tmp_path: Path) -> None:
    values = [*NETWORKS, *ADDRESSES, *NO_NETWORKS, *NO_TEXTS]
    texts = [f"input[{number}]" for number in range(len(values))]
    pairs = [f"{a}, {b}" for a in texts for b in texts]
    calls = [f"net.{name}({pair})" for name in ("cidr_contains", "cidr_intersects") for pair in pairs]
    calls += [f"net.cidr_is_valid({text})" for text in texts]
    assert differences(calls, tmp_path, values) == []


def test_ranges_are_expanded_as_by_opa(tmp_path: Path) -> None:
    networks = ("10.1.2.3/28", "10.0.0.255/32", "255.255.255.254/31", "fe80::1/126", "::ffff:10.0.0.0/126", "x", "")
    assert differences([f"net.cidr_expand({written(each)})" for each in networks], tmp_path) == []


def test_ranges_are_merged_as_by_opa(tmp_path: Path) -> None:
    chance = random.Random(7)
    small = [f"10.0.{chance.randrange(4)}.{chance.randrange(256)}/{chance.randrange(22, 33)}" for _ in range(40)]
    small += [f"2001:db8::{chance.randrange(65536):x}/{chance.randrange(108, 129)}" for _ in range(40)]
    usual = [*small, *(each for each in NETWORKS if "ffff" not in each), "10.1.2.3", "172.16.0.9", "192.168.0.1", "::1"]
    lists = [[each] for each in (*usual, *NO_NETWORKS, 1, None, [])]
    lists += [chance.sample(usual, chance.randrange(2, 12)) for _ in range(300)] + [[], small]
    calls = [f"net.cidr_merge({text})" for given in range(len(lists)) for text in (f"input[{given}]",)]
    calls += [f"net.cidr_merge({{x | some x in input[{given}]}})" for given in range(0, len(lists), 5)]
    assert differences(calls, tmp_path, lists) == []


def test_ranges_are_matched_as_by_opa(tmp_path: Path) -> None:
    arguments = [
        *("10.0.0.0/8", ["10.0.0.0/8", "10.1.0.0/16", "::/0"], ["10.1.2.3", "11.0.0.1"], [["10.0.0.0/8", "x"]]),
        *({"a": "10.0.0.0/8", "b": ["10.1.0.0/16", 1]}, [], {}, [[]], [1], [[1]], ["x"], 1, None, "x"),
    ]
    texts = [f"input[{number}]" for number in range(len(arguments))]
    texts += [f"{{x | some x in {text}}}" for text in texts[1:5]]
    calls = [f"net.cidr_contains_matches({a}, {b})" for a in texts for b in texts]
    assert differences(calls, tmp_path, arguments) == []


@pytest.fixture(scope="module")
def signers() -> dict[str, tuple[Any, str]]:
    """For each algorithm with keys a private key, and its public one as PEM."""
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    keys: dict[str, Any] = {alg: ec.generate_private_key(curve) for alg, curve in curves.items()}
    keys |= {f"{family}{bits}": rsa_key for family in ("RS", "PS") for bits in (256, 384, 512)}
    keys["EdDSA"] = ed25519.Ed25519PrivateKey.generate()
    return {alg: (key, pem(key)) for alg, key in keys.items()}


def pem(key: Any) -> str:
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return str(public.decode())


def jwk(of: str, key: Any, **more: str) -> dict[str, Any]:
    return {**jwt.get_algorithm_by_name(of).to_jwk(key.public_key(), as_dict=True), **more}


def part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(text).rstrip(b"=").decode()


def by_secret(header: Any, payload: Any, secret: str = "secret") -> str:
    signed = f"{part(header)}.{part(payload)}"
    return f"{signed}.{part(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


GOOD = by_secret({"alg": "HS256"}, {"iss": "a", "n": [1, 2.5, 10**18, None, {"x": "ü"}]})
ODD_TOKENS = (
    *(
        "",
        ".",
        "..",
        "a.b.c",
        "garbage",
        "a.b.c.d",
        GOOD,
        f"{GOOD}=",
        f"{GOOD} ",
        GOOD[:-3],
        GOOD.replace(".", ".\n", 1),
    ),
    by_secret({"alg": "none"}, {"a": 1}),
    f"{part({'alg': 'none'})}.{part({'a': 1})}.",
    *(by_secret(header, {"a": 1}) for header in ({}, [], None, "x", {"alg": 1}, {"alg": "HS512"}, {"alg": "HS257"})),
    *(
        by_secret({"alg": "HS256", **more}, {"a": 1})
        for more in ({"kid": 1}, {"kid": "k"}, {"enc": "x"}, {"typ": None})
    ),
    *(
        by_secret({"alg": "HS256", "crit": crit, "x": 1}, {})
        for crit in (["x"], ["y"], ["alg"], [], "x", [1], [1, "x"])
    ),
    *(by_secret({"alg": "HS256"}, text) for text in (b"{", b"[]", b'{"a":NaN}', b'{"a":1,"a":2}', b'{"a":"\xff"}')),
    *(
        by_secret({"alg": "HS256"}, text)
        for text in (b'{"a":"\\ud800"}', b'{"a":"\x01"}', b' {"a": 1e3} ', b'{"a":01}', b"")
    ),
    by_secret({"alg": "HS256"}, {"a": 2**63, "b": -(2**63), "c": 1e300, "d": 0.1}),
    by_secret({"alg": "HS256", "cty": "JWT"}, GOOD.encode()),
    by_secret({"alg": "HS256", "cty": "JWT"}, f'"{GOOD}"'.encode()),
    by_secret({"alg": "HS256", "cty": "jwt"}, GOOD.encode()),
)


def test_tokens_are_read_as_by_opa(tmp_path: Path) -> None:
    tokens = [*ODD_TOKENS, *NO_TEXTS]
    calls = [f"io.jwt.decode(input[{number}])" for number in range(len(tokens))]
    calls += [
        f"io.jwt.verify_{name}(input[{number}], {key})"
        for number in range(len(tokens))
        for name in ("hs256", "hs384")
        for key in ('"secret"', '"other"', '""', "input[1000]")
    ]
    assert differences(calls, tmp_path, tokens) == []


def test_tokens_are_held_against_constraints_as_by_opa(tmp_path: Path) -> None:
    now = 1_700_000_000
    claims = (
        *({}, {"iss": "a"}, {"iss": "b"}, {"aud": "x"}, {"aud": ["y", "x"]}, {"aud": [1]}, {"aud": 1}, {"aud": []}),
        *(
            {name: value}
            for name in ("exp", "nbf")
            for value in (now - 1, now, now + 1, now + 0.5, 0, -1, "1", None, True)
        ),
    )
    tokens = [*ODD_TOKENS, *(by_secret({"alg": "HS256"}, each) for each in claims)]
    time = {"time": now * 10**9}
    constraints = (
        *(
            {"secret": "secret", **time, **more}
            for more in (
                {},
                {"alg": "HS256"},
                {"alg": "HS512"},
                {"alg": ""},
                {"iss": "a"},
                {"aud": "x"},
                {"aud": ""},
                {"iss": ""},
            )
        ),
        *(
            {"secret": "secret", **time, **more}
            for more in (
                {"iss": 1},
                {"aud": ["x"]},
                {"x": 1},
                {"time": -1},
                {"time": "1"},
                {"time": 1e300},
                {"cert": "x"},
                {"secret": ""},
                {"secret": 1},
            )
        ),
        *({}, time),
    )
    document = {"tokens": tokens, "constraints": constraints}
    calls = [
        f"io.jwt.decode_verify(input.tokens[{i}], input.constraints[{j}])"
        for i in range(len(tokens))
        for j in range(len(constraints))
    ]
    calls += [
        f"io.jwt.decode_verify(input.tokens[{i}], {no})"
        for i in (6, 8)
        for no in ("1", "[]", "null", '{"secret": {[1]}}')
    ]
    calls = [call for call in calls if not call.endswith(("1)", "[])", "null)"))]
    assert differences(calls, tmp_path, document) == []


def test_signatures_by_keys_are_verified_as_by_opa(tmp_path: Path, signers: dict[str, tuple[Any, str]]) -> None:
    tokens, keys = [], []
    for alg, (key, public) in signers.items():
        token = jwt.encode({"sub": alg}, key, alg)
        tokens += [token, jwt.encode({"sub": alg}, key, alg, headers={"kid": alg}), token[:-8] + "AAAAAAAA"]
        keys += [public] if public not in keys else []
    tokens.append(tokens[0].rpartition(".")[0] + ".")
    one, other = signers["RS256"][0], signers["ES256"][0]
    hs = by_secret({"alg": "HS256"}, {"sub": "x"}, signers["RS256"][1])  # the public key as a secret
    tokens += [hs, *ODD_TOKENS[:14]]
    public = signers["RS256"][1]
    sets = [
        [jwk("RS256", one)],
        [jwk("RS256", one, kid="RS256")],
        [jwk("RS256", one, kid="other")],
        [jwk("RS256", one, alg="RS512")],
        [jwk("RS256", one, alg="A")],
        [jwk("ES256", other, kid="RS256"), jwk("RS256", one)],
        [],
        [{}],
        [{"kty": "none"}, jwk("RS256", one)],
        [jwk("RS256", one, kid="a"), jwk("ES256", other, kid="b"), jwk("EdDSA", signers["EdDSA"][0], kid="c")],
        [{"kty": "oct", "k": part(b"secret")}],
        [jwt.get_algorithm_by_name("RS256").to_jwk(one, as_dict=True)],
    ]
    keys += [json.dumps({"keys": each}) for each in sets] + [json.dumps(jwk("RS256", one))]
    keys += [
        "",
        "x",
        "{}",
        "[]",
        public.strip(),
        f"{public}\n",
        f"x\n{public}",
        public + public,
        public.replace("PUBLIC", "RSA PUBLIC"),
        public.replace("\n", ""),
        public[:100],
        public.replace("\n", "\r\n"),
    ]
    document = {"tokens": tokens, "keys": keys, "time": 1}
    pairs = "some i, token in input.tokens; some j, key in input.keys"
    calls = [f"[[i, j, v] | {pairs}; v := io.jwt.verify_{alg.lower()}(token, key)]" for alg in signers]
    calls.append(f'[[i, j, v] | {pairs}; v := io.jwt.decode_verify(token, {{"cert": key}})]')
    assert differences(calls, tmp_path, document) == []
