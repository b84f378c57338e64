"""The token in which a bundle's signature is: made and verified. Needs the extra ``rego``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from jwt import PyJWS, PyJWTError
from jwt.algorithms import get_default_algorithms

_FAMILIES: Final = {"RS256": ("RS", "PS"), "ES256": ("ES",), "EdDSA": ("EdDSA",)}
_NO_KEY: Final = (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, AttributeError)
"""What the libraries say of a key that cannot be used so: a public one does not sign, another's does not verify."""


def families_of(pem: bytes) -> Sequence[str]:
    """What the algorithms begin with that a key in PEM is for; none, if it is for nothing that is known."""
    known = get_default_algorithms()
    for algorithm, begins in _FAMILIES.items():
        try:
            known[algorithm].prepare_key(pem)
        except _NO_KEY:
            continue
        return begins
    return ()


def encode(payload: bytes, key: bytes, algorithm: str) -> str:
    """A token. Raises ``ValueError`` for a key that does not sign."""
    try:
        return PyJWS().encode(payload, key, algorithm)
    except _NO_KEY as error:
        raise ValueError(str(error)) from None


def decode(token: str, key: bytes, algorithms: Sequence[str]) -> bytes | None:
    """The payload of a token that the key signed by one of these algorithms; None of any other."""
    try:
        payload: bytes = PyJWS().decode(token, key, list(algorithms))
    except _NO_KEY:
        return None
    return payload
