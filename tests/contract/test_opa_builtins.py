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
from extproc.adapters.regorus.builtins.guarded import GUARDED
from extproc.adapters.regorus.builtins.table import BUILTINS
from extproc.adapters.regorus.policy import RegorusEngine
from tests.support.policies import sources_of
from tests.systems.opa import opa

UNDEFINED = "(undefined)"
THROWS = "(throws)"
CALLS = 150
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
    engine, text = RegorusEngine(sources_of({"cases.rego": module_of(calls)})), json.dumps(document)
    return [_value(engine, f"data.cases.c{number}", text) for number in range(len(calls))]


def _value(engine: RegorusEngine, rule: str, document: str) -> Any:
    try:
        found = engine._engines.ask(document, lambda one: json.loads(one.eval_query_as_json(rule)).get("result"))
    except RuntimeError:
        return THROWS
    return found[0]["expressions"][0]["value"] if found else UNDEFINED


def differences(calls: Sequence[str], folder: Path, document: Any = None) -> list[tuple[str, Any, Any]]:
    """The calls that are answered otherwise, each with OPA's answer and ours."""
    expected, found = of_opa(calls, document or {}, folder), of_ours(calls, document or {})
    assert len(set(map(repr, expected))) > 1, "all answers are the same: that compares nothing"
    return [each for each in zip(calls, expected, found, strict=True) if each[1] != each[2]]


def written(*arguments: Any) -> str:
    return ", ".join(json.dumps(argument) for argument in arguments)


GIVEN: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 16, 1.5, 1_700_000_000_000_000_000),
    *("", "a", "10", "-1.5", "1e5", " 1", "ü", "a,b", "{", "[1]", '{"a":1}', "YWI=", "6162", "616", "a%20b", "a%zz"),
    *("x=1&y=2;z", "<&>", "1.2.3", "1.2.3-a.b+c", "v1.2.3", "01.2.3", "(", "a*", "^a$", "1h30m", "UTC", "Europe/Rome"),
    *("2024-01-02T03:04:05Z", "2024-02-30T03:04:05Z", "2006-01-02", "2024-01-02", "2006-01-02T15:04:05Z07:00"),
    *([], [1], [1, 2], ["a"], ["a", "b"], ["a", 1], [None], [[1]], [{"a": 1}], ["a/b"], [[], {}], [1, "UTC", 2]),
    *({}, {"a": 1}, {"a": "b"}, {"a": {"b": 1}}, {"a": ["b", "c"]}, {"a": [], "b": ["a"]}, {"pretty": True}),
    *([1_700_000_000_000_000_000, "UTC"], [1_700_000_000_000_000_000, "Nowhere/City"], {"indent": " "}),
)
OTHERWISE = frozenset({"io", "crypto", "net", "graph", "internal", "yaml"})
"""Families with tests of their own, or of which it is not sure what OPA makes of this."""
OPERATIONS = ("+", "-", "*", "/", "%", "|", "&")
NOT_SURE = frozenset({"sprintf", "strings.render_template", "substring"})
"""Builtins that end the evaluation, or have a value, for some of what no policy gives them."""
LAYOUTS = ("2006-01-02", "2006-01-02T15:04:05Z07:00")


def calls_at_random() -> dict[str, list[list[Any]]]:
    """Operations and builtins, as they are written for arguments in x, each with some that may come in an input."""
    found = {f"x[0] {sign} x[1]": every(2, random.Random(sign)) for sign in OPERATIONS}
    for name, builtin in {**GUARDED, **BUILTINS}.items():
        if name.split(".")[0] not in OTHERWISE and name not in NOT_SURE:
            arguments = every(len(builtin.types), random.Random(name))
            if name == "time.parse_ns":
                arguments = [each for each in arguments if each[0] in LAYOUTS]
            if name == "glob.match":
                arguments = [each for each in arguments if each[0] != "{"]
            found[f"{name}({', '.join(f'x[{place}]' for place in range(len(builtin.types)))})"] = arguments
    return found


def every(arity: int, chance: random.Random) -> list[list[Any]]:
    """Arguments out of ``GIVEN``: each for one, else some."""
    if arity == 1:
        return [[value] for value in GIVEN]
    return [[chance.choice(GIVEN) for _ in range(arity)] for _ in range(CALLS)]


def test_the_engines_own_builtins_and_operators_fail_and_answer_as_opas(tmp_path: Path) -> None:
    asked = calls_at_random()
    ours = "".join(f"r{number} := y if {{ x := input.x; y := {call} }}\n" for number, call in enumerate(asked))
    theirs = "".join(
        f"r{number} := [[y | y := {call}] | some x in input[{number}]]\n" for number, call in enumerate(asked)
    )
    (tmp_path / "cases.rego").write_text(f"package cases\n\n{theirs}")
    (tmp_path / "input.json").write_text(json.dumps(list(asked.values())))
    done = opa("eval", "--format", "json", "-d", tmp_path / "cases.rego", "-i", tmp_path / "input.json", "data.cases")
    assert done.returncode == 0, done.stdout + done.stderr
    of_opa = json.loads(done.stdout)["result"][0]["expressions"][0]["value"]
    engine = RegorusEngine(sources_of({"cases.rego": f"package cases\n\n{ours}"}))
    different = [
        (call, given, wanted, found)
        for number, (call, arguments) in enumerate(asked.items())
        for given, wanted in zip(arguments, of_opa[f"r{number}"], strict=True)
        if (found := _value(engine, f"data.cases.r{number}", json.dumps({"x": given}))) != (wanted or [UNDEFINED])[0]
    ]
    assert different == []


def test_texts_of_urls_are_read_as_by_opa(tmp_path: Path) -> None:
    chance = random.Random(3)
    texts = [
        *("http://a.b:80/p/q?x=1#f", "https://u:p@h/", "//h/p", "p/q:r", "a:b", "mailto:x@y", "http://[::1]:80/"),
        *("http://[::1%25eth0]/", "http://h:x/", "http://%41/", "http://a b/", "http://a/%zz", "?q", ":x", "1a:b"),
        *("HTTP://A/", "http:///p", "///p", "urn:isbn:1", "x://h/(a)", "http://h/#a b", "http://a<b/", "x://[", ""),
    ]
    put_in = (":", "/", "%", "?", "#", "@", "[", "]", " ", "a", "%41", "é", "+", "&", ".", "^", "\\")
    for text in chance.choices(texts, k=800):
        place = chance.randrange(len(text) + 1)
        texts.append(text[:place] + chance.choice(put_in) + text[place:])
    calls = [f"uri.{name}(input[{number}])" for number in range(len(texts)) for name in ("parse", "is_valid")]
    assert differences(calls, tmp_path, texts) == []


def test_tokens_are_made_as_by_opa(tmp_path: Path, signers: dict[str, tuple[Any, str]]) -> None:
    key = {"kty": "oct", "k": part(b"secret")}
    headers = [*({"alg": alg} for alg in ("HS256", "HS512", "RS256", "none", "x")), {}, {"alg": "HS256", "typ": "JWT"}]
    private = jwt.get_algorithm_by_name("RS256").to_jwk(signers["RS256"][0], as_dict=True)
    document = {"headers": headers, "keys": [key, private, {}, {"kty": "x"}], "payloads": [{}, {"a": [1, "ü"]}]}
    pairs = "some i, h in input.headers; some j, k in input.keys; some p in input.payloads"
    calls = [
        f"[[i, j, p, t] | {pairs}; t := io.jwt.encode_sign(h, p, k)]",
        f'[[i, j, p, t] | {pairs}; t := io.jwt.encode_sign_raw(json.marshal(h), "x", json.marshal(k))]',
    ]
    assert differences(calls, tmp_path, document) == []


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


def test_globs_meet_as_for_opa(tmp_path: Path) -> None:
    chance = random.Random(11)
    parts = ("a", "b", ".", "[a-b]", "[b-d]", "[]", "[x\\]]", "\\.", "é")
    globs = ["", "a", "a*", "]", "[", "*a", "a\\", "[a-", "[-a]", "[b-a]", "[a--]", "[a-b-c]", "[a\\-c]", "a**", "[a-]"]
    globs += [
        "".join(chance.choice(parts) + chance.choice(("", "", "*", "+")) for _ in range(chance.randrange(1, 6)))
        for _ in range(300)
    ]
    pairs = [(chance.randrange(len(globs)), chance.randrange(len(globs))) for _ in range(700)]
    pairs += [(one, other) for one in range(15) for other in range(15)]
    calls = [f"regex.globs_match(input[{one}], input[{other}])" for one, other in pairs]
    assert differences(calls, tmp_path, globs) == []
