"""``crypto.*``: digests, and message authentication codes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from typing import Final

from extproc.adapters.regorus.builtins.builtin import Builtin


def _digest(algorithm: str) -> Builtin:
    def digest(text: str) -> str:
        return hashlib.new(algorithm, text.encode(), usedforsecurity=False).hexdigest()

    return Builtin(f"crypto.{algorithm}", ("string",), digest)


def _hmac(algorithm: str) -> Builtin:
    def code(message: str, key: str) -> str:
        return hmac.new(key.encode(), message.encode(), algorithm).hexdigest()

    return Builtin(f"crypto.hmac.{algorithm}", ("string", "string"), code)


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _builtins() -> Iterator[Builtin]:
    yield from map(_digest, ("md5", "sha1", "sha256"))
    yield from map(_hmac, ("md5", "sha1", "sha256", "sha512"))
    yield Builtin("crypto.hmac.equal", ("string", "string"), _equal)


BUILTINS: Final = tuple(_builtins())
