"""Epochs that a test makes up, for what attributes feedback to them."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.decision_id import hashed_number
from extproc.store.epoch_records import EpochArm, EpochRecord

KEY = "payments/fraud-detector"
EXCLUDED, CONTROL, CANARY = EpochArm(0, "excluded", ""), EpochArm(1, "control", "3"), EpochArm(2, "canary", "4")
ARMS = (EXCLUDED, CONTROL, CANARY)


def epoch_of(
    rollout: str = KEY,
    epoch: int = 1,
    began: float = 0.0,
    *,
    number: int | None = None,
    arms: Sequence[EpochArm] = ARMS,
) -> EpochRecord:
    """An epoch; ``number`` is what its ids carry, if not what they do."""
    namespace, _, name = rollout.partition("/")
    number = hashed_number(rollout, epoch) if number is None else number
    return EpochRecord(number, namespace, name, epoch, began, tuple(arms))


class FakeEpochs:
    """``Epochs``; ``asked`` counts the questions."""

    def __init__(self, *epochs: EpochRecord) -> None:
        self.known = list(epochs)
        self.asked = 0

    def epochs(self, number: int) -> Sequence[EpochRecord]:
        """See ``Epochs``."""
        self.asked += 1
        return sorted((one for one in self.known if one.number == number), key=lambda one: one.began)

    def epochs_of(self, namespace: str, name: str) -> Sequence[EpochRecord]:
        """See ``Epochs``."""
        return [one for one in self.known if (one.namespace, one.name) == (namespace, name)]
