"""The policy on control actions, asked about the controller's own steps: those that give the canary more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from extproc.control.active_rollouts import ActiveRollout
from extproc.control.applied import who_applied
from extproc.control.effect import Stand, effect
from extproc.control.intent import Transition
from extproc.control.policy import ControlPolicy, denial, question
from extproc.resources.fields import format_percent
from extproc.store.ports import Rollouts

ASK_AGAIN_SECONDS: Final = 10.0
"""How long an answer holds for the same step, while a rollout waits at it."""


class _Answer(NamedTuple):
    step: int
    veto: str
    until: float


class PolicyVeto:
    """A ``Veto``: why a step may not be taken in the name of ``actor``, by ``policy``. One thread's."""

    def __init__(self, store: Rollouts, policy: ControlPolicy, actor: str, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._policy = policy
        self._actor = actor
        self._monotonic = monotonic
        self._answers: WeakKeyDictionary[ActiveRollout, _Answer] = WeakKeyDictionary()

    def __call__(self, followed: ActiveRollout, transition: Transition, now: float) -> str:
        """Why not; empty if it may be taken."""
        step = followed.row.status.step
        known = self._answers.get(followed)
        if known is None or known.step != step or self._monotonic() >= known.until:
            veto = self._ask(followed, transition, now)
            known = self._answers[followed] = _Answer(step, veto, self._monotonic() + ASK_AGAIN_SECONDS)
        return known.veto

    def _ask(self, followed: ActiveRollout, transition: Transition, now: float) -> str:
        row, after = followed.row, transition.status
        promotes = after.stable != row.status.stable
        arguments = {"full": True} if promotes else {"weight": format_percent(after.weight)}
        comes_to = effect(Stand(row.status, followed.rollout), Stand(after, followed.rollout))
        applied = who_applied(self._store, row)
        asked = question(self._actor, "promote" if promotes else "advance", row, applied, comes_to, now, arguments)
        refused = denial(self._policy, asked)
        return refused.faults[0].message if refused is not None else ""
