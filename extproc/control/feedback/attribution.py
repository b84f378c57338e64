"""From a decision id to what a label of it counts for: the epoch of a rollout, the arm, the unit's group.

By intention to treat: what counts is the arm that was drawn, whatever version served the request in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from extproc.control.feedback.records import Code
from extproc.decision_id import IdFault, Opened, arm_and_stream
from extproc.store.epoch_records import EpochArm, EpochRecord
from extproc.store.ports import Epochs

SKEW_SECONDS: Final = 60.0
"""How far the clocks of the workers and of what writes the store may be apart."""

_ID_FAULTS: Final = {
    IdFault.MALFORMED: Code.MALFORMED,
    IdFault.UNKNOWN_KEY: Code.UNKNOWN_KEY,
    IdFault.FORGED: Code.FORGED,
}


class Attributed(NamedTuple):
    """What an id stands for."""

    opened: Opened
    epoch: EpochRecord
    arm: EpochArm


class Attribution:
    """Attributes the ids of one batch: what the store said about an epoch is asked once.

    ``open_id`` opens an id, as ``KeyFile.open`` does. Ids made before ``keep_from`` (Unix seconds) have expired.
    """

    def __init__(self, open_id: Callable[[str], Opened | IdFault], epochs: Epochs, keep_from: float) -> None:
        self._open_id = open_id
        self._epochs = epochs
        self._keep_from = keep_from
        self._known: dict[int, Sequence[EpochRecord]] = {}

    def of(self, decision_id: str) -> Attributed | Code:
        """What ``decision_id`` stands for, or why it stands for nothing.

        Raises:
            Unreachable: as ``store.ports`` says.
        """
        opened = self._open_id(decision_id)
        if isinstance(opened, IdFault):
            return _ID_FAULTS[opened]
        if opened.at < self._keep_from:
            return Code.EXPIRED
        epoch = self._epoch(opened)
        return epoch if isinstance(epoch, Code) else Attributed(opened, epoch, _arm(epoch, _code(opened)))

    def _epoch(self, opened: Opened) -> EpochRecord | Code:
        """The epoch of that number. Where several share it, the one that has the arm and was on at the time."""
        if opened.number not in self._known:
            self._known[opened.number] = self._epochs.epochs(opened.number)
        found = [epoch for epoch in self._known[opened.number] if any(arm.code == _code(opened) for arm in epoch.arms)]
        if len(found) > 1:
            found = [epoch for epoch in found if self._was_on(epoch, opened.at)]
        if not found:
            return Code.UNKNOWN_EPOCH
        return found[0] if len(found) == 1 else Code.AMBIGUOUS

    def _was_on(self, epoch: EpochRecord, at: float) -> bool:
        later = [other for other in self._epochs.epochs_of(epoch.namespace, epoch.name) if other.epoch > epoch.epoch]
        ended = min((other.began for other in later), default=float("inf"))
        return epoch.began - SKEW_SECONDS <= at < ended + SKEW_SECONDS


def _code(opened: Opened) -> int:
    """What stands for the arm, whether or not the request was a stream."""
    return arm_and_stream(opened.arm)[0]


def _arm(epoch: EpochRecord, code: int) -> EpochArm:
    return next(arm for arm in epoch.arms if arm.code == code)
