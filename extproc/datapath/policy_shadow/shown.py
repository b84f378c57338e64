"""What a worker shows to the policy shadow: messages of their own, each whole, in a socket that drops what is too much.

They hold what the decision was made from as it was, headers and unit, and never leave the machine: what is written
down is masked by the one who writes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from extproc.datapath.model import Buckets, Features, PolicyVerdict, Unit
from extproc.snapshot.model import Overlay

MAX_MESSAGE_BYTES: Final = 256 << 10
"""Of a message: a decision with the largest headers, or a rollout's plan. The system refuses to send what is larger."""


class ShownPlan(msgspec.Struct, frozen=True, array_like=True, tag="plan"):
    """What decisions that name it were made by: the rollout's key, and ``CompiledRollout.plan``."""

    name: str
    key: str
    plan: bytes


class ShownDecision(msgspec.Struct, frozen=True, array_like=True, tag="decision", gc=False):
    """A decision for which a rule was asked, ``at`` Unix seconds; the request's fields are those of ``Request``."""

    decision_id: str
    plan: str
    at: float
    revision: int
    policy_revision: str
    method: str
    path: str
    host: str
    scheme: str
    headers: dict[str, bytes]
    attributes: dict[str, Any]
    unit: Unit
    buckets: Buckets
    features: Features
    too_large: bool
    log_full: bool
    overlay: Overlay
    verdict: PolicyVerdict


Shown = ShownPlan | ShownDecision

encode_shown: Final = msgspec.msgpack.Encoder().encode
decode_shown: Final[Callable[[Any], Shown]] = msgspec.msgpack.Decoder(Shown).decode
"""Raises as ``channel.UNREADABLE`` for anything else."""
