"""``io.jwt.*``: JSON Web Tokens are read, verified and made, step by step as OPA 1.22 does."""

from __future__ import annotations

import binascii
import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import takewhile
from math import inf, isinf
from types import ModuleType
from typing import Any, Final, NamedTuple, NoReturn

from extproc.adapters.regorus.builtins.builtin import Builtin

MAX_CHARACTERS: Final = 262_144
"""In a token, and in what is given to verify it."""

MAX_DEPTH: Final = 100
"""Of what nests in a token. The engine reads 128."""

JOSE: Final = "extproc.adapters.rego.jose"

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_BASE64: Final = re.compile(r"[A-Za-z0-9_-]*={0,2}")
_TEXTS: Final = frozenset({"cert", "secret", "alg", "iss", "aud"})
"""Constraints that are texts; the other one is ``time``."""

_UNVERIFIED: Final[tuple[bool, dict[str, Any], dict[str, Any]]] = (False, {}, {})
_SECOND: Final = 1_000_000_000


class _Token(NamedTuple):
    """The three parts of a token, as they are written."""

    header: str
    payload: str
    signature: str

    @classmethod
    def of(cls, text: str) -> _Token:
        if len(text) > MAX_CHARACTERS:
            raise ValueError("too long for a token")
        header, payload, signature = text.split(".")
        return cls(header, payload, signature)

    @property
    def signed(self) -> bytes:
        return f"{self.header}.{self.payload}".encode()

    def decoded_header(self) -> dict[str, Any]:
        header = _object(text_of(self.header))
        if "enc" in header:
            raise ValueError("encrypted tokens are not read")
        return header


def _bytes(part: str) -> bytes:
    """What a part says in base64url, with its padding or without any; line breaks do not count."""
    if not part.endswith("="):
        part += {0: "", 2: "==", 3: "="}[len(part) % 4]
    part = part.replace("\r", "").replace("\n", "")
    if not _BASE64.fullmatch(part):
        raise binascii.Error("not base64url")
    return urlsafe_b64decode(part)


def text_of(part: str) -> str:
    """What a part says in base64url, as text."""
    return _bytes(part).decode("utf-8", "replace")


def _object(text: str) -> dict[str, Any]:
    """An object in JSON; of a key that stands there twice the last counts."""
    value = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    if not isinstance(value, dict) or _depth(value) > MAX_DEPTH:
        raise ValueError("not an object that can be read")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _whole(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**64:
        raise ValueError("the engine would make it less exact")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError("a number that the engine does not have")
    return number


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def as_json(value: Any) -> str:
    """As the engine reads it: half a surrogate pair in a string would end the process."""
    return _LONE_SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False))


def _decode(text: str) -> str:
    """The header, the payload and the signature (hexadecimal) as JSON. A token in a token is the inner one."""
    while True:
        token = _Token.of(text)
        header = token.decoded_header()
        payload = text_of(token.payload)
        kind = header.get("cty", "")
        if not isinstance(kind, str):
            raise TypeError("cty is a text")
        if kind != "JWT":
            return as_json([header, _object(payload), _bytes(token.signature).hex()])
        text = payload.strip("\"'")


def _verify_by_secret(algorithm: str) -> Callable[[str, str], bool]:
    def verify(text: str, secret: str) -> bool:
        token = _Token.of(text)
        code = hmac.digest(secret.encode(), token.signed, algorithm)
        return hmac.compare_digest(_bytes(token.signature), code)

    return verify


def _verify_by_key(alg: str) -> Callable[[str, str], bool]:
    def verify(text: str, keys: str) -> bool:
        token = _Token.of(text)
        header = _Header.of(token.decoded_header())
        return _verified(keys, header, alg, token, strict=False)

    return verify


def _jose() -> ModuleType:
    """The module that needs an extra; ``Builtin.needs`` says so, and that it is there was seen to at load."""
    return import_module(JOSE)


def _verified(keys: str, header: _Header, alg: str, token: _Token, *, strict: bool) -> bool:
    """By the key whose id the token names; where there is none, by any that is for the token's algorithm or for all."""
    jose = _jose()
    found, signature = jose.keys_of(keys), _bytes(token.signature)
    named = [key for key in found if header.kid and key.kid == header.kid][:1]
    fit = named or [key for key in found if key.alg in ("", header.alg)]
    return any(jose.verifies(key.key, alg, token.signed, signature, strict=strict) for key in fit)


class _Header(NamedTuple):
    """What a header says about how to verify its token. Raises for a field of another type."""

    alg: str
    kid: str
    cty: str
    known: bool
    """Whether nothing is critical that nobody knows."""

    @classmethod
    def of(cls, header: Mapping[str, Any]) -> _Header:
        texts = {name: header.get(name, "") for name in ("alg", "kid", "typ", "cty")}
        critical = header.get("crit", [""])
        if not all(isinstance(text, str) for text in texts.values()) or not isinstance(critical, list):
            raise TypeError("a field of the header has another type")
        names = set(takewhile(lambda name: isinstance(name, str), critical))
        if not names:
            raise ValueError("crit names something")
        unknown = header.keys() - texts.keys() - {"crit"}
        return cls(texts["alg"], texts["kid"], texts["cty"], not names & unknown)


def _decode_verify(text: str, constraints: str, now: list[Any]) -> str:
    """Whether the token holds, its header and its payload, as JSON. ``now`` is in nanoseconds, for want of a time."""
    wanted = _object(constraints)
    for name, value in wanted.items():
        if not (_is_number(value) if name == "time" else name in _TEXTS and isinstance(value, str)):
            raise TypeError(f"{name} has another type")
    if ("cert" in wanted) == bool(wanted.get("secret")):
        raise ValueError("either keys or a secret")
    if "cert" in wanted:
        _jose().keys_of(wanted["cert"])  # before the token: with keys that are none there is no answer to any
    time = wanted["time"] if "time" in wanted else next(iter(now), None)
    if time is not None and time < 0:
        raise ValueError("a time before 1970")
    while True:
        token = _Token.of(text)
        plain = token.decoded_header()
        header = _Header.of(plain)
        if not header.alg or not header.known or wanted.get("alg", "") not in ("", header.alg):
            return as_json(_UNVERIFIED)
        if not _holds(wanted, header, token):
            return as_json(_UNVERIFIED)
        payload = text_of(token.payload)
        if header.cty.upper() != "JWT":
            break
        text = payload
    claims = _object(payload)
    return as_json((True, plain, claims) if _fits(claims, wanted, time) else _UNVERIFIED)


def _holds(wanted: Mapping[str, Any], header: _Header, token: _Token) -> bool:
    if "cert" in wanted:
        return _verified(wanted["cert"], header, header.alg, token, strict=True)
    secret = wanted["secret"].encode()
    return bool(_jose().verifies(secret, header.alg, token.signed, _bytes(token.signature), strict=True))


def _fits(claims: Mapping[str, Any], wanted: Mapping[str, Any], time: float | None) -> bool:
    """Whether issuer, audience and times are as wanted. A token for somebody is for nobody who does not say who.

    Raises where the token has times and there is none to hold them against.
    """
    issuer, audience = wanted.get("iss", ""), wanted.get("aud", "")
    if issuer:
        if not isinstance(claims.get("iss", ""), str):
            raise TypeError("iss is a text")
        if claims.get("iss") != issuer:
            return False
    if "aud" in claims:
        given = claims["aud"]
        if audience not in (given if isinstance(given, list) else [given]):
            return False
    elif audience:
        return False
    times = [name for name in ("exp", "nbf") if name in claims]
    if not times:
        return True
    if time is None or not all(_is_number(claims[name]) for name in times):
        raise TypeError("a time is a number")
    now = time / _SECOND
    return bool(now < claims.get("exp", inf) and now >= claims.get("nbf", -inf))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_DECODE: Final = """decode(token) := json.unmarshal(found) if {
	is_string(token)
	some found in host.io.jwt.decode(token)
}"""

# An array of the time, because a rule that asks for what is not there is undefined, and a token may have no times.
_DECODE_VERIFY: Final = """decode_verify(token, constraints) := json.unmarshal(found) if {
	is_string(token)
	is_object(constraints)
	now := [time | time := input.time]
	some found in host.io.jwt.decode_verify(token, json.marshal(constraints), now)
}"""

_TWO: Final = ("string", "string")


def _encode_sign(header: str, payload: str, key: str) -> str:
    """A token; empty for one whose signature would be made by chance, which no decision is."""
    if max(map(len, (header, payload, key))) > MAX_CHARACTERS:
        raise ValueError("too long for a token")
    names = _object(header)
    alg, typ = names["alg"], names.get("typ", "JWT")
    if alg not in _jose().ALGORITHMS:
        raise ValueError("an algorithm that nobody knows")
    if not isinstance(typ, str) or typ == "JWT":
        json.loads(payload, parse_constant=_refuse)
    signed = f"{_part(header.encode())}.{_part(payload.encode())}"
    try:
        signature = _jose().signature(_jose().keys_of(key)[0].key, alg, signed.encode())
    except NotImplementedError:
        return ""
    return f"{signed}.{_part(signature)}"


def _part(given: bytes) -> str:
    return urlsafe_b64encode(given).rstrip(b"=").decode()


# A signature by chance ends the evaluation.
_ENCODE_SIGN_RAW: Final = """encode_sign_raw(a, b, c) := token if {
	is_string(a)
	is_string(b)
	is_string(c)
	some token in host.io.jwt.encode_sign_raw(a, b, c)
	0 / count([1 | token != ""]) == 0
}"""

_ENCODE_SIGN: Final = """encode_sign(a, b, c) := token if {
	is_object(a)
	is_object(b)
	is_object(c)
	some token in host.io.jwt.encode_sign(json.marshal(a), json.marshal(b), json.marshal(c))
	0 / count([1 | token != ""]) == 0
}"""


def _builtins() -> Iterator[Builtin]:
    yield Builtin("io.jwt.decode", ("string",), _decode, _DECODE)
    yield Builtin(
        "io.jwt.decode_verify", ("string", "object"), _decode_verify, _DECODE_VERIFY, arity=3, clock=True, needs=JOSE
    )
    yield Builtin("io.jwt.encode_sign", ("object",) * 3, _encode_sign, _ENCODE_SIGN, needs=JOSE)
    yield Builtin("io.jwt.encode_sign_raw", ("string",) * 3, _encode_sign, _ENCODE_SIGN_RAW, needs=JOSE)
    for bits in ("256", "384", "512"):
        yield Builtin(f"io.jwt.verify_hs{bits}", _TWO, _verify_by_secret(f"sha{bits}"))
        for family in ("rs", "ps", "es"):
            name = f"{family}{bits}"
            yield Builtin(f"io.jwt.verify_{name}", _TWO, _verify_by_key(name.upper()), needs=JOSE)
    yield Builtin("io.jwt.verify_eddsa", _TWO, _verify_by_key("EdDSA"), needs=JOSE)


BUILTINS: Final = tuple(_builtins())
