"""Texts of certificates and keys taken apart: PEM, base64 and DER, as OPA reads them."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Final

MAX_CHARACTERS: Final = 262_144
"""In a text with certificates or keys."""

_BEGIN: Final = "-----BEGIN"
_END: Final = "-----END"
_BLOCK: Final = re.compile(
    r"-----BEGIN (?P<kind>[A-Z0-9 ]+)-----[ \t]*\r?\n"
    r"(?P<body>[A-Za-z0-9+/=\s]*)-----END (?P=kind)-----[ \t]*(?:\r?\n|\Z)"
)
_SEQUENCE: Final = 0x30


class Unsure(Exception):
    """What Go makes of this nobody here knows: the evaluation ends."""


def of_base64(text: str) -> bytes:
    """What a text says; line breaks do not count. Raises ``ValueError``."""
    return b64decode(text.replace("\r", "").replace("\n", ""), validate=True)


def base64(given: bytes) -> str:
    """As Go writes bytes in JSON."""
    return b64encode(given).decode()


def blocks(text: str) -> list[tuple[str, bytes]]:
    """The kind and the content of each block that ends. Raises ``Unsure`` where not every such is read."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError("too long")
    found = [(block["kind"], of_base64("".join(block["body"].split()))) for block in _BLOCK.finditer(text)]
    if len(found) != text.count(_BEGIN, 0, max(text.rfind(_END), 0)):
        raise Unsure("a block with headers, or in another")
    return found


def is_pem(text: str | bytes) -> bool:
    """Whether a text begins as a block does."""
    return text.startswith(_BEGIN) if isinstance(text, str) else text.startswith(_BEGIN.encode())


def parts(der: bytes) -> Iterator[bytes]:
    """The values that stand one behind the other. Raises ``ValueError``."""
    at = 0
    while at < len(der):
        end = _end_of(der, at)
        yield der[at:end]
        at = end


def inside(der: bytes) -> list[bytes]:
    """The values within a sequence. Raises ``ValueError``."""
    if der[:1] != bytes([_SEQUENCE]):
        raise ValueError("no sequence")
    long = der[1] & 0x7F if der[1] & 0x80 else 0
    return list(parts(der[2 + long :]))


def _end_of(der: bytes, start: int) -> int:
    """Where the value that begins there ends."""
    if start + 2 > len(der):
        raise ValueError("a value without a length")
    length, at = der[start + 1], start + 2
    if length & 0x80:
        long = length & 0x7F
        length = int.from_bytes(der[at : at + long])
        at += long
        if long not in range(1, 5):
            raise ValueError("a length of another kind")
    if at + length > len(der):
        raise ValueError("less than it says")
    return at + length
