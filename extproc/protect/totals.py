"""What became of each arm's requests since this observer began, for analyses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from extproc.measure import EpochTotals, units_each
from extproc.protect.bounded import Bounded
from extproc.protect.epochs import Epoch
from extproc.protect.outcome import FAILURES, OF_STABLE, RequestEnd, RequestOutcome, failed, left

MAX_EPOCHS: Final = 2048
"""Epochs that are counted at a time, those with the latest news; up to 100 KB each, and their units."""

EpochKey = tuple[str, int]
"""A rollout (``namespace/name``) and an epoch."""


class Changed(NamedTuple):
    """The counts of an epoch that changed, and whether there are new units among them.

    An epoch that had to make room and came back is counted from nothing: each ``part`` has counts of its own.
    """

    totals: EpochTotals
    units: bool
    part: int


class _Counted(NamedTuple):
    """An epoch while it has a place; ``late`` counts by arm what is missing and may still come."""

    totals: EpochTotals
    part: int
    late: dict[str, int]


class RunTotals:
    """The counts of every epoch since this run began. ``dropped`` counts epochs that had to make room."""

    def __init__(self) -> None:
        self._epochs: Bounded[EpochKey, _Counted] = Bounded(MAX_EPOCHS)
        self._changed: set[EpochKey] = set()
        self._with_new_units: set[EpochKey] = set()

    @property
    def dropped(self) -> int:
        """Epochs that are counted no more."""
        return self._epochs.dropped

    def count(
        self,
        epoch: Epoch,
        arm: str,
        group: int | None,
        answer: RequestEnd,
        outcome: RequestOutcome,
        now: float,
        *,
        in_time: bool = True,
        stream: bool = False,
    ) -> bool:
        """Count one request's end; ``group`` None is a unit that is unknown.

        A request whose client left came to no outcome, but its answer would have taken longer than it lasted. One that
        comes too late (not ``in_time``) does not count again if it counts as missing: then False.
        """
        counted = self._of((epoch.rollout, epoch.id), now)
        counted.totals.unheard_since = None
        if not in_time and counted.late.get(arm, 0) > 0:
            counted.late[arm] -= 1
            return False
        totals = counted.totals.arm(arm)
        totals.latency.add(answer.milliseconds)
        if outcome not in FAILURES and left(answer, stream=stream):
            totals.abandon(group)
            return True
        fell = outcome in FAILURES or failed(answer)
        totals.requests += 1
        totals.failures += fell
        totals.fallbacks += outcome in OF_STABLE
        if group is not None:
            counts = totals.groups.setdefault(group, [0, 0])
            counts[0] += 1
            counts[1] += fell
        return True

    def heard(self, key: EpochKey, now: float) -> None:
        """A request is alive: its version answers it."""
        self._of(key, now).totals.unheard_since = None

    def decided(self, key: EpochKey, arm: str, count: int, now: float) -> None:
        """Workers decided ``count`` requests of an arm."""
        totals = self._of(key, now).totals
        totals.arm(arm).decided += count
        if totals.unheard_since is None or totals.unheard_since > now:
            totals.unheard_since = now

    def missing(self, key: EpochKey, arm: str, count: int, milliseconds: float, now: float) -> None:
        """The outcomes of ``count`` requests of an arm were waited for in vain, for so long each."""
        counted = self._of(key, now)
        totals = counted.totals.arm(arm)
        totals.missing += count
        totals.latency.add(milliseconds, count)
        counted.late[arm] = counted.late.get(arm, 0) + count

    def surplus(self, key: EpochKey, arm: str, count: int, now: float) -> None:
        """The log told of ``count`` ends of an arm that no decision stands for."""
        self._of(key, now).totals.arm(arm).surplus += count

    def units(self, key: EpochKey, units: Iterable[tuple[int, str]], now: float) -> None:
        """Workers met these units, each with the arm that it drew."""
        sample = self._of(key, now).totals.units
        for unit, arm in units:
            sample.add(unit, arm)
        self._with_new_units.add(key)
        if len(sample) > 2 * (each := units_each(len(self._epochs))):
            sample.shrink(each)

    def take_changed(self) -> list[Changed]:
        """The epochs that changed since this was last asked."""
        changed = [
            Changed(counted.totals, key in self._with_new_units, counted.part)
            for key in self._changed
            if (counted := self._epochs.find(key)) is not None
        ]
        self._changed.clear()
        self._with_new_units.clear()
        return changed

    def tell_again(self) -> None:
        """Whoever asked has forgotten everything: all of it is new."""
        self._changed.update(self._epochs)
        self._with_new_units.update(self._epochs)

    def _of(self, key: EpochKey, now: float) -> _Counted:
        counted = self._epochs.use(key, lambda: _Counted(EpochTotals(*key), self._epochs.dropped, {}))
        counted.totals.updated_at = now
        self._changed.add(key)
        return counted
