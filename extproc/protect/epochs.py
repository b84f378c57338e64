"""What the number in a decision id means: an epoch of a rollout, with the versions and arms that it had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from extproc.snapshot.model import CompiledRollout, Snapshot

KEPT_EPOCHS: Final = 4
"""Epochs of a rollout that are known at a time: requests that are still under way were decided in earlier ones."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch as requests were decided in it: what is counted of it is kept by ``id``.

    ``number`` is what decision ids carry, and ``arms`` are the arms by their codes in them.
    """

    rollout: str
    id: int
    number: int
    attempt: int
    stable: str
    upstreams: Mapping[str, str]
    arms: Mapping[int, str]


class SnapshotEpochs:
    """The epochs of all rollouts of the snapshot, the last ``KEPT_EPOCHS`` of each."""

    def __init__(self) -> None:
        self._rollouts: Mapping[str, CompiledRollout] = {}
        self._known: dict[str, list[Epoch]] = {}

    def find(self, key: str, number: int) -> Epoch | None:
        """The epoch that ids of ``key`` (``namespace/name``) call ``number``."""
        for epoch in self._known.get(key, ()):
            if epoch.number == number:
                return epoch
        return None

    def in_attempt(self, compiled: CompiledRollout, epoch: int) -> bool:
        """Whether the epoch of that id is of the attempt that ``compiled`` is in: what came of others is no news."""
        known = self._known.get(compiled.key, ())
        return any(one.id == epoch and one.attempt == compiled.attempt for one in known)

    def follow(self, snapshot: Snapshot) -> list[str]:
        """Take over what ``snapshot`` knows.

        Returns the rollouts of which nothing counts any more that was seen so far: they began another attempt, have
        other limits, or are gone.
        """
        before, self._rollouts = self._rollouts, snapshot.rollouts
        restarted = [key for key in before if key not in snapshot.rollouts]
        for key in restarted:
            self._known.pop(key, None)
        for key, compiled in snapshot.rollouts.items():
            old = before.get(key)
            if compiled is old:
                continue
            if old is not None and (old.attempt, old.breaker) != (compiled.attempt, compiled.breaker):
                restarted.append(key)
            self._learn(compiled)
            if compiled.successor is not None:
                self._learn(compiled.successor)
        return restarted

    def _learn(self, compiled: CompiledRollout) -> None:
        epoch = Epoch(
            compiled.key,
            compiled.epoch_id,
            compiled.number,
            compiled.attempt,
            compiled.stable,
            compiled.upstreams,
            {code: arm for arm, code in compiled.arm_codes.items()},
        )
        others = [other for other in self._known.get(compiled.key, ()) if other.number != epoch.number]
        self._known[compiled.key] = [epoch, *others][:KEPT_EPOCHS]
