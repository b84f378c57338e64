"""How long steps have been in force, counted: a wall clock may be set while a pause waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from extproc.store.status import Status

MOST_BETWEEN_TICKS: Final = 60.0
"""Seconds. Looks that lie farther apart were not a controller's that was there: nothing could have moved."""


class _Step(NamedTuple):
    """A step in force, at what monotonic time it began, and for how many seconds of it the rollout stalled."""

    step: int
    step_at: float
    began: float
    stalled: float = 0.0


class StepTime:
    """Counts the time of the steps of rollouts that are looked at once a tick.

    A step that begins between two ticks has lasted no longer than since the first of them. One that was in force before
    this process looked for the first time has lasted as long as the wall clock says: nobody knows better. One that is
    still in force after a while in which nobody or somebody else led was so all the time.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._steps: dict[str, _Step] = {}
        self._seen: dict[str, _Step] = {}
        self._tick_at = self._before = float("-inf")

    def begin(self) -> None:
        """A tick begins; what was not looked at in the last one is forgotten."""
        self._steps, self._seen = self._seen, {}
        self._before, self._tick_at = self._tick_at, self._monotonic()

    def in_step(self, key: str, status: Status, now: float) -> float:
        """Seconds that the step of the rollout ``key`` has been in force for; ``now`` are Unix seconds."""
        step = self._steps.get(key)
        if step is None or (step.step, step.step_at) != (status.step, status.step_at):
            began = self._tick_at - (now - status.step_at)
            step = _Step(status.step, status.step_at, began if step is None else max(began, self._before))
        self._seen[key] = step
        return self._tick_at - step.began

    def stalled(self, key: str, stalls: bool) -> float:
        """Seconds of its step in which the rollout ``key`` was seen to stall; ``stalls``: it did since the last tick.

        Ask after ``in_step``, once in a tick. Time in which nobody looked does not count.
        """
        step, passed = self._seen[key], self._tick_at - self._before
        if stalls and step is self._steps.get(key) and passed <= MOST_BETWEEN_TICKS:
            step = self._seen[key] = step._replace(stalled=step.stalled + passed)
        return step.stalled
