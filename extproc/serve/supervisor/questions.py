"""What the supervisor asks workers beside their counts. Who does not answer soon is passed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from extproc.serve.messages import SwapPolicies, Trials, Unanswered, WantTrials, WantUnanswered
from extproc.serve.supervisor.policy_trial import Sources
from extproc.serve.supervisor.unmet import UnmetEntry
from extproc.serve.supervisor.workers import Workers

_ANSWER_SECONDS: Final = 1.0


class Questions:
    """Asked of ``workers`` that take requests: they know what the store says."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def trials(self) -> Mapping[str, Any]:
        """For each rule that a rollout asks, an input on which it can be tried; none when nobody answers."""
        answers = await self._workers.ask(self._workers.serving[:1], WantTrials(), _ANSWER_SECONDS)
        return next((answer.trials for answer in answers if isinstance(answer, Trials)), {})

    async def unanswered(self) -> Sequence[UnmetEntry] | None:
        """What rollouts ask for and a worker does not have, each once; None when nobody answers."""
        answers = await self._workers.ask(self._workers.serving, WantUnanswered(), _ANSWER_SECONDS)
        said = [answer.errors for answer in answers if isinstance(answer, Unanswered)]
        if not said:
            return None
        found: list[UnmetEntry] = []
        for entry in (each for errors in said for each in errors):
            if entry not in found:
                found.append(entry)
        return found

    async def swap_policies(self, sources: Sources) -> None:
        """Have all of them decide by other policies."""
        for slot in self._workers.serving:
            # One after another: while a worker loads large policies, the others decide.
            await self._workers.ask([slot], SwapPolicies(sources.body), _ANSWER_SECONDS)
