"""What this worker decided, second by second, for whoever compares it with what came of it.

A decision pays for a look at the clock, an entry in a dictionary, and a look at whether its unit is known.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from extproc.clock import Clock
from extproc.datapath.ports import DecisionRecord
from extproc.datapath.streams import may_stream
from extproc.measure import UnitSample, units_each
from extproc.names import ARM_EXCLUDED

MAX_SAMPLES: Final = 1024
"""Epochs whose units are remembered; for those of others every request tells of its unit again."""

MAX_NEW_UNITS: Final = 50_000
"""Units that wait to be told of; more than that are left out until they come again."""

_Counted = tuple[str, int, str, str, int] | tuple[str, int, str, str, int, bool]
_Epoch = tuple[str, int]


@dataclass(slots=True)
class Tallied:
    """What is new. ``counts`` are rows of rollout, epoch (its id), arm, version, second and number, and True if those
    may be streams; ``units`` of epochs.

    An epoch's row is the rollout, the epoch, and pairs of a unit's hash and its arm.
    """

    counts: list[list[Any]] = field(default_factory=list)
    units: list[list[Any]] = field(default_factory=list)


class DecisionTally:
    """Counts decisions by rollout, epoch, arm, version and second, streams apart; a ``DecisionSink``.

    The arm is that for which they count; units are met in the arm that they drew.

    Its seconds go on like the times in decision ids, which no clock takes back: the two are compared.
    """

    def __init__(self, clock: Clock) -> None:
        self._now = clock.now
        self._second = 0
        self._counts: dict[_Counted, int] = {}
        self._samples: dict[_Epoch, UnitSample] = {}
        self._new: dict[_Epoch, list[tuple[int, str]]] = {}
        self._waiting = 0

    def record(self, decided: DecisionRecord) -> None:
        """Count a decision that Envoy will tell of: one that named a version, in headers that there was room for."""
        compiled, facts = decided.rollout, decided.facts
        arm, version = decided.decision.counted_arm, decided.decision.version
        if compiled is None or arm is None or version is None or decided.request.full:
            return
        second = self._second = max(self._second, int(self._now()))
        epoch = (compiled.key, compiled.epoch_id)
        key: _Counted = (*epoch, arm, version, second)
        if may_stream(decided.request):
            key = (*key, True)
        counts = self._counts
        try:
            counts[key] += 1
        except KeyError:
            counts[key] = 1
        drawn = decided.decision.arm
        if facts is not None and drawn is not None and drawn != ARM_EXCLUDED:
            self._meet(epoch, facts.buckets.quotient, drawn)

    def _meet(self, epoch: _Epoch, unit: int, arm: str) -> None:
        sample = self._samples.get(epoch)
        if sample is None:
            sample = self._samples[epoch] = UnitSample()
        if self._waiting < MAX_NEW_UNITS and sample.add(unit, arm):
            self._waiting += 1
            self._new.setdefault(epoch, []).append((unit, arm))

    def take(self) -> Tallied:
        """What was decided since this was last asked."""
        counts, self._counts = self._counts, {}
        new, self._new, self._waiting = self._new, {}, 0
        self._make_room(new)
        return Tallied(
            [[*key[:5], count, *key[5:]] for key, count in counts.items()],
            [[*key, units] for key, units in new.items()],
        )

    def _make_room(self, recent: Iterable[_Epoch]) -> None:
        """Forget the units of epochs of which nothing is new, when there are too many, and share out the room."""
        if len(self._samples) > MAX_SAMPLES:
            self._samples = {key: self._samples[key] for key in list(recent)[:MAX_SAMPLES]}
        each = units_each(len(self._samples))
        for key in recent:
            sample = self._samples.get(key)
            if sample is not None and len(sample) > 2 * each:
                sample.shrink(each)

    def begin_anew(self) -> None:
        """Somebody listens who has heard of no unit yet."""
        self._samples.clear()

    def retain(self, rollouts: Container[str]) -> None:
        """Forget the units of rollouts that are not among ``rollouts``."""
        self._samples = {key: sample for key, sample in self._samples.items() if key[0] in rollouts}
