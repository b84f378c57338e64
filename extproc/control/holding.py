"""The policy on control actions, asked about the controller's own steps: those that give the canary more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from extproc.control.following import Followed
from extproc.control.intent import Transition
from extproc.control.policy import PAST, ControlPolicy, denial, question
from extproc.resources.fields import format_percent
from extproc.snapshot.store import RolloutStore

ASK_AGAIN_SECONDS: Final = 10.0
"""How long an answer holds for the same step, while a rollout waits at it."""


class _Answer(NamedTuple):
    step: int
    held: str
    until: float


class PolicyHold:
    """A ``Hold``: why a step may not be taken in the name of ``actor``, by ``policy``. One thread's."""

    def __init__(self, store: RolloutStore, policy: ControlPolicy, actor: str, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._policy = policy
        self._actor = actor
        self._monotonic = monotonic
        self._answers: WeakKeyDictionary[Followed, _Answer] = WeakKeyDictionary()

    def __call__(self, followed: Followed, transition: Transition, now: float) -> str:
        """Why not; empty if it may be taken."""
        step = followed.row.status.step
        known = self._answers.get(followed)
        if known is None or known.step != step or self._monotonic() >= known.until:
            held = self._ask(followed, transition, now)
            known = self._answers[followed] = _Answer(step, held, self._monotonic() + ASK_AGAIN_SECONDS)
        return known.held

    def _ask(self, followed: Followed, transition: Transition, now: float) -> str:
        row, after = followed.row, transition.status
        promotes = after.stable != row.status.stable
        arguments = {"full": True} if promotes else {"weight": format_percent(after.weight)}
        past = self._store.history(row.namespace, row.name, PAST)
        asked = question(self._actor, "promote" if promotes else "advance", row, past, now, arguments)
        refused = denial(self._policy, asked)
        return refused.faults[0].message if refused is not None else ""
