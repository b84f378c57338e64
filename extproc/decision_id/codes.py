"""The numbers in a decision id that stand for an epoch and an arm. Shared by what makes ids and what reads them."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from typing import Final

from xxhash import xxh32_intdigest

from extproc.names import ARM_CANARY, ARM_CONTROL, ARM_EXCLUDED, ARM_TAKEN_AWAY

EXCLUDED_CODE: Final = 0
_CONTROL_CODE: Final = 1
_CANARY_CODE: Final = 2
_TAKEN_AWAY_CODE: Final = 3
_FIRST_VARIANT_CODE: Final = 16

_STREAM: Final = 0x80

MAX_VARIANTS: Final = _STREAM - _FIRST_VARIANT_CODE
"""An arm's number has 7 bits; the eighth says that the request may be a stream."""


def hashed_number(key: str, epoch: int) -> int:
    """What stands for ``epoch`` of ``key`` (``namespace/name``) in ids if it began before numbers were random.

    Two epochs may share such a number; which is meant is then told by when the decision was made, or the label is
    refused.
    """
    return xxh32_intdigest(f"{key}#{epoch}".encode())


def random_number() -> int:
    """What stands in ids for an epoch that begins: 32 random bits, so that a store that is restored, copied or made
    anew does not call another epoch by the number of one that it does not know.
    """
    return secrets.randbits(32)


def arm_codes(variants: Sequence[str]) -> dict[str, int]:
    """What stands for each arm of an experiment with these ``variants``, or of a canary's rollout if there are none."""
    if variants:
        named = {name: _FIRST_VARIANT_CODE + index for index, name in enumerate(variants)}
    else:
        named = {ARM_CONTROL: _CONTROL_CODE, ARM_CANARY: _CANARY_CODE}
    return {ARM_EXCLUDED: EXCLUDED_CODE, **named, ARM_TAKEN_AWAY: _TAKEN_AWAY_CODE}


def control_code(codes: Collection[int]) -> int:
    """Of the codes of an epoch's arms, that of the one that others are compared with: the last variant's, if any."""
    last = max(codes)
    return last if last >= _FIRST_VARIANT_CODE else _CONTROL_CODE


def is_compared(code: int) -> bool:
    """Whether the arm is one that units are drawn into: what happened to the others is nobody's."""
    return code in (_CONTROL_CODE, _CANARY_CODE) or code >= _FIRST_VARIANT_CODE


def sealed_code(arm: int, *, stream: bool) -> int:
    """What a decision id carries for the arm of the code ``arm``, whose request may be a ``stream``, or is none."""
    return arm | _STREAM if stream else arm


def arm_and_stream(code: int) -> tuple[int, bool]:
    """The reverse of ``sealed_code``."""
    return code & ~_STREAM, code >= _STREAM
