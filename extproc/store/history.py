"""What of a rollout's history outlives what: moves come before what was refused, and what only waits or goes on.

Who moves a rollout, and who took it away, must still be known when somebody has paused and resumed it all day.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from extproc.store.records import StoredRollout
from extproc.store.status import Status

MOST_MOVES: Final = 200
"""Moves of a rollout that are kept of each action, the newest: a weight that goes to and fro hides no trip."""

MOST_ASIDES: Final = 500
"""Entries of a rollout that moved nothing and are kept, the newest; one that is repeated counts once."""


def moves(before: StoredRollout | None, after: StoredRollout) -> bool:
    """Whether a write that made ``before`` (None: there was none) into ``after`` moved the rollout.

    What a denial, a pause or a wait writes is not that, whatever verb it was for.
    """
    if before is None or before.deleted != after.deleted or before.document != after.document:
        return True
    return _course(before.status) != _course(after.status)


def _course(status: Status) -> Status:
    """The status without what says how it waits, and until when."""
    return replace(
        status,
        phase="",
        reason="",
        message="",
        step_at=0.0,
        analysis={},
        effective_at=0.0,
        previous_weight=0,
        previous_stable="",
        previous_epoch=0,
        numbers={},
    )
