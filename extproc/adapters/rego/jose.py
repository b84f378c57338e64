"""Keys of JSON Web Tokens, and signatures by them: PEM and JWKS as OPA reads them. Needs the extra ``rego``."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

MAX_CHARACTERS: Final = 262_144
"""In a certificate or a set of keys."""

ALGORITHMS: Final = frozenset(f"{family}{bits}" for family in ("RS", "PS", "ES", "HS") for bits in (256, 384, 512)) | {
    "EdDSA"
}

_OTHER_ALGORITHMS: Final = re.compile(
    r"RSA1_5|RSA-OAEP(-256|-384|-512)?|dir|A(128|192|256)(GCM)?KW|(ECDH-ES|PBES2-HS(256|384|512))(\+A(128|192|256)KW)?"
)
"""Of keys in a set that are for something else and left out. A name that nobody knows spoils the set, as in OPA."""

_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_KINDS: Final[Mapping[str, Any]] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm, "oct": HMACAlgorithm}
_PEM: Final = re.compile(
    r"-----BEGIN (?P<kind>CERTIFICATE|PUBLIC KEY)-----[ \t]*\r?\n[^-]+-----END (?P=kind)-----[ \t]*\r?\n?\Z",
    re.MULTILINE,
)
"""One block and nothing after it; nobody looks at what stands before."""


class TokenKey(NamedTuple):
    """A key, the algorithm that it is for and its id; both are empty where it does not say."""

    alg: str
    kid: str
    key: Any


@lru_cache(maxsize=32)
def keys_of(text: str) -> tuple[TokenKey, ...]:
    """The key in a certificate or a public key (PEM), or those in a JWK or a JWKS. Raises for anything else."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError("too long for a key")
    pem = _PEM.match(text, max(text.find("-----BEGIN"), 0))
    if pem is not None:
        block = pem[0].encode()
        is_certificate = pem["kind"] == "CERTIFICATE"
        key = load_pem_x509_certificate(block).public_key() if is_certificate else load_pem_public_key(block)
        return (TokenKey("", "", key),)
    document = json.loads(text)
    keys = [_from_jwk(jwk) for jwk in document.get("keys", [document])]
    return tuple(key for key in keys if not key.alg or key.alg in ALGORITHMS)


def _from_jwk(jwk: Mapping[str, Any]) -> TokenKey:
    alg, kid = jwk.get("alg", ""), jwk.get("kid", "")
    if not (isinstance(alg, str) and isinstance(kid, str)):
        raise TypeError("alg and kid are texts")
    if alg and alg not in ALGORITHMS and not _OTHER_ALGORITHMS.fullmatch(alg):
        raise ValueError("an algorithm that nobody knows")
    return TokenKey(alg, kid, _KINDS[jwk["kty"]].from_jwk(dict(jwk)))


def verifies(key: Any, alg: str, signed: bytes, signature: bytes, *, strict: bool) -> bool:
    """Whether ``signature`` is that of ``signed`` by ``key``, which may be of another kind.

    ``strict`` is how ``io.jwt.decode_verify`` looks: the salt and both halves of a signature are as long as they have
    to be, and a private key or a secret does as well.
    """
    if strict and isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        key = key.public_key()
    try:
        return _verifies(key, alg, signed, signature, strict=strict)
    except (InvalidSignature, ValueError):  # ValueError: two halves that are no numbers of a signature
        return False


def signature(key: Any, alg: str, signed: bytes) -> bytes:
    """The signature of ``signed`` by a private key or a secret.

    Raises:
        NotImplementedError: it would be made by chance.
        ValueError: the key is none for the algorithm.
    """
    digest = _HASHES.get(alg[2:])
    match alg[:2], key:
        case "HS", bytes() if digest is not None:
            return hmac.digest(key, signed, digest.name)
        case "RS", rsa.RSAPrivateKey() if digest is not None:
            return key.sign(signed, padding.PKCS1v15(), digest)
        case "Ed", ed25519.Ed25519PrivateKey() if alg == "EdDSA":
            return key.sign(signed)
        case ("PS", rsa.RSAPrivateKey()) | ("ES", ec.EllipticCurvePrivateKey()):
            raise NotImplementedError(alg)
    raise ValueError("no key for this algorithm")


def _verifies(key: Any, alg: str, signed: bytes, signature: bytes, *, strict: bool) -> bool:
    digest = _HASHES.get(alg[2:])
    match alg[:2], key:
        case "HS", bytes() if strict and digest is not None:
            return hmac.compare_digest(hmac.digest(key, signed, digest.name), signature)
        case "RS", rsa.RSAPublicKey() if digest is not None:
            key.verify(signature, signed, padding.PKCS1v15(), digest)
        case "PS", rsa.RSAPublicKey() if digest is not None:
            salt = padding.PSS.DIGEST_LENGTH if strict else padding.PSS.AUTO
            key.verify(signature, signed, padding.PSS(padding.MGF1(digest), salt), digest)
        case "ES", ec.EllipticCurvePublicKey() if digest is not None:
            half = len(signature) // 2
            if strict and len(signature) != 2 * ((key.key_size + 7) // 8):
                return False
            r, s = (int.from_bytes(part) for part in (signature[:half], signature[half:]))
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
        case "Ed", ed25519.Ed25519PublicKey() if alg == "EdDSA":
            key.verify(signature, signed)
        case _:
            return False
    return True
