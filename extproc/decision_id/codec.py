"""From a decision to its id and back: 24 bytes, written as 32 characters of base64url.

    byte   0  key          the key's fingerprint
        1-6   milliseconds since the Unix epoch, never less than in the worker's id before
        7-10  epoch        masked
        11    arm          masked
        12    worker
        13-14 counter
        15    group        of units, masked
        16-23 code         keyed BLAKE2b of all before

The mask is keyed BLAKE2b of the key, milliseconds, worker and counter, which no two ids of a worker share.
Vectors in ``tests/vectors/decision-id-v1.json`` are never edited: an id has to open for as long as its label may come.
"""

from __future__ import annotations

import secrets
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable
from enum import StrEnum
from hmac import compare_digest
from struct import Struct
from typing import Final, NamedTuple, Protocol

from extproc.clock import Clock
from extproc.decision_id.keys import IdKey, IdKeys

ID_BYTES: Final = 24
ID_CHARACTERS: Final = 32

_COUNTERS: Final = 1 << 16
_MASKED_BYTES: Final = 6
_BODY: Final = Struct(">QQ")
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL_SAFE: Final = bytes.maketrans(b"-_+/", b"+/**")


class CurrentKeys(Protocol):
    """Where the keys in force are found."""

    current: IdKeys


class Nonce(NamedTuple):
    """What an id has before anything is decided: key, milliseconds, worker and counter, and what they hash to."""

    key: IdKey
    head: int
    tail: int
    secret: bytes

    def random(self) -> bytes:
        """A unit for a request that has none: different for each, and not to be read from the id."""
        return self.secret[_MASKED_BYTES:].hex().encode()


class DecisionIds:
    """Makes the ids of one worker (0 to 255). Belongs to one thread.

    ``nonce`` and ``seal`` take about 2.5 µs together, two hashes: measured by ``python -m tests.bench.decision_ids``.

    No two ids are equal within a worker's life, whatever the clock does: it is never followed back, and 65 536 ids in
    one millisecond are followed by the next. Between lives of one worker the counter's random start makes them differ.
    """

    def __init__(self, keys: CurrentKeys, worker: int, clock: Clock) -> None:
        self._keys = keys
        self._worker = worker << 16
        self._clock = clock
        self._at = 0
        self._count = secrets.randbelow(_COUNTERS)
        self._first = self._count

    @property
    def mark(self) -> str:
        """What Envoy's routes know our decisions by, see ``IdKeys``."""
        return self._keys.current.mark

    def nonce(self) -> Nonce:
        """The next id's beginning."""
        at = int(self._clock.now() * 1000)
        count = self._count
        if at > self._at:
            self._at, self._first = at, count
        elif count - self._first >= _COUNTERS:
            self._at, self._first = self._at + 1, count
        self._count = count + 1
        key = self._keys.current.first
        head = key.name << 48 | self._at
        tail = self._worker | count & 0xFFFF
        mask = key.mask.copy()
        mask.update((head << 24 | tail).to_bytes(10))
        return Nonce(key, head, tail, mask.digest())

    @staticmethod
    def seal(nonce: Nonce, number: int, arm: int, group: int) -> str:
        """The id of a decision: the epoch's ``number`` (32 bits), the code of its ``arm`` and the unit's ``group`` (8).

        Once for each nonce: two ids of one would give away how they differ.
        """
        key, head, tail, secret = nonce
        masked = int.from_bytes(secret[:_MASKED_BYTES]) ^ (number << 16 | arm << 8 | group)
        body = _BODY.pack(head << 8 | masked >> 40, (masked >> 8 & 0xFFFFFFFF) << 32 | tail << 8 | masked & 0xFF)
        mac = key.mac.copy()
        mac.update(body)
        return b2a_base64(body + mac.digest(), newline=False).translate(_URL_SAFE).decode()


class Opened(NamedTuple):
    """What an id says: ``at`` is when it was made (Unix seconds), ``key`` what no other id has, in order of time."""

    at: float
    number: int
    arm: int
    group: int
    worker: int
    counter: int
    key: bytes


def id_of(keys: IdKeys, opened_key: bytes, number: int, arms: Iterable[int], group: int) -> str | None:
    """The id that opened to that ``Opened.key``, the epoch's ``number``, one of the codes ``arms``, and ``group``.

    None where it was made with none of ``keys``. For who keeps of an id no more than tells it from all others.
    """
    head, tail = int.from_bytes(opened_key[:6]), int.from_bytes(opened_key[6:9])
    for key in keys:
        mask = key.mask.copy()
        mask.update(((key.name << 48 | head) << 24 | tail).to_bytes(10))
        nonce = Nonce(key, key.name << 48 | head, tail, mask.digest())
        for arm in arms:
            text = DecisionIds.seal(nonce, number, arm, group)
            opened = open_id(keys, text)
            if isinstance(opened, Opened) and opened.key == opened_key:
                return text
    return None


class IdFault(StrEnum):
    """Why an id does not open."""

    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown_key"
    FORGED = "forged"


def open_id(keys: IdKeys, text: str) -> Opened | IdFault:
    """What the id ``text`` says, or why it says nothing. Never raises."""
    if len(text) != ID_CHARACTERS:
        return IdFault.MALFORMED
    try:
        raw = a2b_base64(text.encode("ascii").translate(_FROM_URL_SAFE), strict_mode=True)
    except ValueError:
        return IdFault.MALFORMED
    if len(raw) != ID_BYTES:  # it ended in a padding
        return IdFault.MALFORMED
    key = keys.get(raw[0])
    if key is None:
        return IdFault.UNKNOWN_KEY
    mac = key.mac.copy()
    mac.update(raw[:16])
    if not compare_digest(mac.digest(), raw[16:]):
        return IdFault.FORGED
    first, second = _BODY.unpack_from(raw)
    head, tail = first >> 8, second >> 8 & 0xFFFFFF
    masked = (first & 0xFF) << 40 | second >> 32 << 8 | second & 0xFF
    mask = key.mask.copy()
    mask.update((head << 24 | tail).to_bytes(10))
    clear = masked ^ int.from_bytes(mask.digest()[:_MASKED_BYTES])
    return Opened(
        at=(head & 0xFFFF_FFFF_FFFF) / 1000,
        number=clear >> 16,
        arm=clear >> 8 & 0xFF,
        group=clear & 0xFF,
        worker=tail >> 16,
        counter=tail & 0xFFFF,
        key=raw[1:7] + raw[12:15] + raw[16:20],
    )
