"""What became of an action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from extproc.store.records import StoredRollout


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What became of one rollout: ``created``, ``configured``, ``repaired``, ``unchanged`` or ``deleted``, and why.

    ``row`` is the rollout as it stands; for a deleted one its last state. ``detail`` is what history keeps beside.
    """

    row: StoredRollout
    result: str
    message: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
