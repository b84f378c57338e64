"""``crypto.x509.*`` and ``crypto.parse_private_keys``: certificates, requests and keys, as OPA 1.22 has them.

A number over 64 bits, which the engine makes less exact or does not take, is left out, and a policy that reads such a
field is refused at load.

Where ours cannot be sure of OPA's answer, the evaluation ends: a function says so by an empty text, and ``0 / 0``
throws in this engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from extproc.adapters.regorus.builtins.builtin import Builtin
from extproc.adapters.regorus.builtins.pem import Unsure, base64, blocks, is_pem, of_base64
from extproc.adapters.regorus.builtins.tokens import as_json

_PACKAGE: Final = "extproc.adapters.rego"
NEEDS: Final = f"{_PACKAGE}.chains"
"""Which imports what all of these need."""

_NOBODY: Final[tuple[bool, list[Any]]] = (False, [])
_UNSURE: Final = ""


def _module(name: str) -> ModuleType:
    return import_module(f"{_PACKAGE}.{name}")


def _as_json(function: Callable[..., Any]) -> Callable[..., str]:
    """The value as JSON, which the engine reads by itself; or an empty text where it is not sure."""

    def answer(*given: Any) -> str:
        try:
            return as_json(_held(function(*given)))
        except Unsure:
            return _UNSURE

    return answer


LARGE_FIELDS: Final = frozenset({"D", "Dp", "Dq", "N", "Primes", "Qinv", "SerialNumber", "X", "Y"})
"""Of certificates and keys, which have numbers over 64 bits."""


def _held(value: Any) -> Any:
    """The value without the numbers that the engine does not have."""
    match value:
        case dict():
            return {name: _held(each) for name, each in value.items() if not (name in LARGE_FIELDS and _is_large(each))}
        case list() | tuple():
            return [_held(each) for each in value]
    return value


def _is_large(value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return any(isinstance(number, int) and not -(2**63) <= number < 2**63 for number in numbers)


def _with_uris(given: Any) -> Any:
    certificates = _module("certificates")
    return {**certificates.fields_of(given), "URIStrings": certificates.uri_strings(given)}


def _parse_certificates(text: str) -> Any:
    return [_with_uris(each) for each in _module("certificates").certificates_in(text)]


def _verify(text: str, now: Sequence[Any]) -> Any:
    chain = _chain(text, {}, now)
    return _NOBODY if chain is None else (True, [_with_uris(each.given) for each in chain])


def _verify_with_options(text: str, options: str, now: Sequence[Any]) -> Any:
    chain = _chain(text, json.loads(options), now)
    return _NOBODY if chain is None else (True, [each.fields for each in chain])


def _chain(text: str, options: Mapping[str, Any], now: Sequence[Any]) -> Any:
    try:
        given = _module("certificates").certificates_in(text)
    except ValueError:
        return None
    return _module("chains").verified(given, _wanted(options, now))


def _wanted(options: Mapping[str, Any], now: Sequence[Any]) -> Any:
    """What OPA's options come to. Raises for one that OPA does not take, or that has another type."""
    chains = _module("chains")
    known = {"DNSName": str, "CurrentTime": int, "MaxConstraintComparisons": int, "KeyUsages": list}
    for name, value in options.items():
        if not isinstance(value, known[name]) or isinstance(value, bool):
            raise TypeError(f"{name} has another type")
    usages = [chains.USAGES[each.strip('"')] for each in options.get("KeyUsages", []) if isinstance(each, str)]
    host = options.get("DNSName", "").strip('"')
    return chains.Wanted(options.get("CurrentTime", *now[:1]), host, usages or (chains.SERVER_AUTH,))


def _parse_certificate_request(text: str) -> Any:
    content = text.encode() if text.startswith("-----BEGIN CERTIFICATE REQUEST-----") else of_base64(text)
    if is_pem(content):
        (kind, content), *_ = blocks(content.decode())
        if kind != "CERTIFICATE REQUEST":
            raise ValueError("a block of another kind")
    return _module("certificates").fields_of_request(content)


def _parse_private_keys(text: str) -> Any:
    keys = _module("private_keys")
    return [keys.fields_of(key) for key in keys.keys_in(text)] if text else None


def _parse_rsa_private_key(text: str) -> Any:
    keys = _module("private_keys")
    if not text:
        raise ValueError("nothing")
    found = keys.keys_in(text if is_pem(text) else of_base64(text).decode("utf-8", "replace"))
    return keys.jwk_of(found[0]) if found else None


def _parse_keypair(certificate: str, key: str) -> Any:
    certificates, keys = _module("certificates"), _module("private_keys")
    chain = [der for kind, der in _blocks(certificate, "CERTIFICATE") if kind == "CERTIFICATE"]
    leaf = certificates.certificate(chain[0])
    kind, der = next(each for each in _blocks(key, "PRIVATE KEY") if each[0].endswith("PRIVATE KEY"))
    private = keys.key_of(kind, der)
    if private.public_key() != leaf.public_key():
        raise ValueError("of somebody else")
    missing = dict.fromkeys(("OCSPStaple", "SignedCertificateTimestamps", "SupportedSignatureAlgorithms"))
    return {
        "Certificate": list(map(base64, chain)),
        "PrivateKey": keys.fields_of(private),
        "Leaf": certificates.fields_of(leaf),
        **missing,
    }


def _blocks(text: str, kind: str) -> Sequence[tuple[str, bytes]]:
    """The blocks in PEM or in base64 of it; or what is said in base64 alone, as of this kind."""
    if is_pem(text):
        return blocks(text)
    content = of_base64(text)
    return blocks(content.decode()) if is_pem(content) else [(kind, content)]


_REGO: Final = """{0}({1}) := json.unmarshal(found) if {{
	{2}
	some found in host.crypto.{3}({4})
	0 / count([1 | found != ""]) == 0
}}"""
# An array of the time, because a rule that asks for what is not there is undefined, and the options may have one.
_NOW: Final = "[time | time := input.time]"


def _builtin(name: str, function: Callable[..., Any], types: Sequence[str], given: str = "", **more: Any) -> Builtin:
    parameters = ", ".join("ab"[: len(types)])
    checks = "\n\t".join(f"is_{kind}({each})" for each, kind in zip("ab", types, strict=False))
    last = name.rpartition(".")[2]
    rego = _REGO.format(last, parameters, checks, name, given or parameters)
    return Builtin(f"crypto.{name}", types, _as_json(function), rego, needs=NEEDS, **more)


_TEXT: Final = ("string",)

BUILTINS: Final = (
    _builtin("parse_private_keys", _parse_private_keys, _TEXT),
    _builtin("x509.parse_certificates", _parse_certificates, _TEXT),
    _builtin("x509.parse_certificate_request", _parse_certificate_request, _TEXT),
    _builtin("x509.parse_rsa_private_key", _parse_rsa_private_key, _TEXT),
    _builtin("x509.parse_keypair", _parse_keypair, _TEXT * 2),
    _builtin("x509.parse_and_verify_certificates", _verify, _TEXT, f"a, {_NOW}", arity=2, clock=True),
    _builtin(
        "x509.parse_and_verify_certificates_with_options",
        _verify_with_options,
        ("string", "object"),
        f"a, json.marshal(b), {_NOW}",
        arity=3,
        clock=True,
    ),
)
