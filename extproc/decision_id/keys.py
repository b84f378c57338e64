"""The keys of decision ids: one makes ids, all that are known open them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final, Self

KEY_BYTES: Final = 32
MASK_BYTES: Final = 16
MAC_BYTES: Final = 8
MARK_BYTES: Final = 16


class IdKey:
    """One key. ``name`` is its fingerprint in ids, 8 bits; ``mask`` and ``mac`` are hash states to be copied.

    ``mark`` is what tells the decisions of who has the key from what others claim: a header value.
    """

    __slots__ = ("mac", "mark", "mask", "name")

    def __init__(self, secret: bytes) -> None:
        self.name = blake2b(key=secret, person=b"decision-id name", digest_size=1).digest()[0]
        self.mask = blake2b(key=secret, person=b"decision-id mask", digest_size=MASK_BYTES)
        self.mac = blake2b(key=secret, person=b"decision-id mac", digest_size=MAC_BYTES)
        self.mark = blake2b(key=secret, person=b"decision mark", digest_size=MARK_BYTES).hexdigest()


class IdKeys:
    """Keys in force: ``first`` makes ids, ``get`` finds the one that opens an id.

    ``marks`` are those of all keys; ``mark`` is the last one's, which Envoy's routes have known for longest: a new key
    is put before the others, and its mark used when they are gone.

    Raises:
        ValueError: when two of them have one fingerprint, or there is none.
    """

    def __init__(self, secrets_: Sequence[bytes]) -> None:
        keys = [IdKey(secret) for secret in secrets_]
        self._by_name = {key.name: key for key in keys}
        if len(self._by_name) != len(keys) or not keys:
            raise ValueError("each key needs a fingerprint of its own")
        self.first = keys[0]
        self.marks = tuple(key.mark for key in keys)
        self.mark = self.marks[-1]

    @classmethod
    def throwaway(cls) -> Self:
        """A key that nobody else has and nothing keeps: for decisions that are not carried out."""
        return cls([secrets.token_bytes(KEY_BYTES)])

    def __iter__(self) -> Iterator[IdKey]:
        return iter(self._by_name.values())

    def get(self, name: int) -> IdKey | None:
        """The key of that fingerprint."""
        return self._by_name.get(name)
