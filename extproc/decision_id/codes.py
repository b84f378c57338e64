"""The numbers in a decision id that stand for an epoch and an arm. Shared by what makes ids and what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from xxhash import xxh32_intdigest

from extproc.names import ARM_CANARY, ARM_CONTROL, ARM_EXCLUDED

EXCLUDED_CODE: Final = 0
_CONTROL_CODE: Final = 1
_CANARY_CODE: Final = 2
_FIRST_VARIANT_CODE: Final = 16

_STREAM: Final = 0x80

MAX_VARIANTS: Final = _STREAM - _FIRST_VARIANT_CODE
"""An arm's number has 7 bits; the eighth says that the request may be a stream."""


def epoch_number(rollout: str, epoch: int) -> int:
    """What stands for ``epoch`` of ``rollout`` (``namespace/name``) in a decision id: 32 bits, hashed.

    Two epochs may share a number; which is meant is then told by when the decision was made, or the label is refused.
    """
    return xxh32_intdigest(f"{rollout}#{epoch}".encode())


def arm_codes(variants: Sequence[str]) -> dict[str, int]:
    """What stands for each arm of an experiment with these ``variants``, or of a canary's rollout if there are none."""
    if variants:
        named = {name: _FIRST_VARIANT_CODE + index for index, name in enumerate(variants)}
    else:
        named = {ARM_CONTROL: _CONTROL_CODE, ARM_CANARY: _CANARY_CODE}
    return {ARM_EXCLUDED: EXCLUDED_CODE, **named}


def sealed_code(arm: int, *, stream: bool) -> int:
    """What a decision id carries for the arm of the code ``arm``, whose request may be a ``stream``, or is none."""
    return arm | _STREAM if stream else arm


def arm_and_stream(code: int) -> tuple[int, bool]:
    """The reverse of ``sealed_code``."""
    return code & ~_STREAM, code >= _STREAM
