"""Epochs as they are remembered for what comes of their decisions weeks later, and what each is known by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from extproc.decision_id import hashed_number

NUMBERS: Final = 1 << 32
"""How many numbers there are, see ``EpochRecord.number``."""

FORGET_EPOCHS_SECONDS: Final = 366 * 24 * 3600.0
"""Epochs are remembered for this long after the next one began; labels for their decisions may still come."""


def epoch_id(epoch: int, number: int | None) -> int:
    """What is counted of the ``epoch`` that drew ``number`` is kept by this; later epochs have larger ones.

    It does not come again, as the epoch does after a backup was restored. None: it began before numbers were random.
    """
    return epoch if number is None else epoch * NUMBERS + number


def epoch_and_number(id_: int) -> tuple[int, int | None]:
    """The reverse of ``epoch_id``."""
    return divmod(id_, NUMBERS) if id_ >= NUMBERS else (id_, None)


class EpochArm(NamedTuple):
    """An arm of an epoch: its number in decision ids, its name, and the version that its units were to get."""

    code: int
    arm: str
    version: str


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """An epoch of a rollout, as it is remembered for labels that come weeks later.

    ``number`` is what its decision ids carry: random since it began, and no other's. Two that began before numbers
    were random may share one, so ``began`` (Unix seconds) tells them apart.
    It counts ``until`` (Unix seconds) the next one began, or its rollout was deleted; None: it is the last one.
    """

    number: int
    namespace: str
    name: str
    epoch: int
    began: float
    arms: tuple[EpochArm, ...]
    until: float | None = None

    @property
    def id(self) -> int:
        """What is counted of it is kept by this, see ``epoch_id``."""
        is_random = self.number != hashed_number(f"{self.namespace}/{self.name}", self.epoch)
        return epoch_id(self.epoch, self.number if is_random else None)
