"""Private keys, as Go's ``crypto`` has them in JSON and as JWK. Needs the extra ``rego``."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from contextlib import suppress
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from extproc.adapters.rego.certificates import CURVES, Fields, point
from extproc.adapters.regorus.builtins.pem import Unsure, base64, blocks, of_base64

_FORMATS: Final = {
    "RSA PRIVATE KEY": PrivateFormat.TraditionalOpenSSL,
    "EC PRIVATE KEY": PrivateFormat.TraditionalOpenSSL,
    "PRIVATE KEY": PrivateFormat.PKCS8,
}
_LEAST_RSA_BITS: Final = 1024


def keys_in(text: str) -> list[Any]:
    """The keys in blocks of PEM, or in base64 of that; blocks of other kinds are passed over.

    Raises ``ValueError`` or ``Unsure``.
    """
    with suppress(ValueError):
        text = of_base64(text).decode("utf-8", "replace")
    return [key_of(kind, der) for kind, der in blocks(text) if kind in _FORMATS]


def key_of(kind: str, der: bytes) -> Any:
    """The key in a block. Raises ``ValueError`` or ``Unsure``."""
    try:
        key = load_der_private_key(der, None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise Unsure("a key of another kind") from error
    is_known = isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey)
    if not is_known or key.private_bytes(Encoding.DER, _FORMATS[kind], NoEncryption()) != der:
        raise Unsure("a key that is written otherwise")
    return key


def fields_of(key: Any) -> Any:
    """A key as Go has it in JSON. Raises ``Unsure``."""
    match key:
        case rsa.RSAPrivateKey() if key.key_size >= _LEAST_RSA_BITS:
            numbers = key.private_numbers()
            computed = {"Dp": numbers.dmp1, "Dq": numbers.dmq1, "Qinv": numbers.iqmp, "CRTValues": []}
            public = {"N": numbers.public_numbers.n, "E": numbers.public_numbers.e}
            return {**public, "D": numbers.d, "Primes": [numbers.p, numbers.q], "Precomputed": computed}
        case ec.EllipticCurvePrivateKey() if key.curve.name in CURVES:
            return {**point(key.public_key()), "D": key.private_numbers().private_value}
        case ed25519.Ed25519PrivateKey():
            return base64(key.private_bytes_raw() + key.public_key().public_bytes_raw())
    raise Unsure("a key of another kind")


def jwk_of(key: Any) -> Fields:
    """A key as a JWK. Raises ``Unsure``."""
    match key:
        case rsa.RSAPrivateKey() if key.key_size >= _LEAST_RSA_BITS:
            found = key.private_numbers()
            numbers = {
                "n": found.public_numbers.n,
                "e": found.public_numbers.e,
                "d": found.d,
                "p": found.p,
                "q": found.q,
            }
            numbers |= {"dp": found.dmp1, "dq": found.dmq1, "qi": found.iqmp}
            return {"kty": "RSA", **{name: _part(_bytes(number)) for name, number in numbers.items()}}
        case ec.EllipticCurvePrivateKey() if key.curve.name in CURVES:
            size, own = (key.key_size + 7) // 8, key.private_numbers()
            parts = {"x": own.public_numbers.x, "y": own.public_numbers.y, "d": own.private_value}
            written = {name: _part(number.to_bytes(size)) for name, number in parts.items()}
            return {"kty": "EC", "crv": CURVES[key.curve.name], **written}
        case ed25519.Ed25519PrivateKey():
            x, d = key.public_key().public_bytes_raw(), key.private_bytes_raw()
            return {"kty": "OKP", "crv": "Ed25519", "x": _part(x), "d": _part(d)}
    raise Unsure("a key of another kind")


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)


def _part(given: bytes) -> str:
    return urlsafe_b64encode(given).rstrip(b"=").decode()
