"""What labels say about each arm against the control: by how much it differs, and whether that is known.

The bounds are those of ``compare``: they hold at every look, so a report may be read as often as one likes, and whoever
stops at the first verdict is wrong with probability ``ALPHA`` at most, for each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, inf
from typing import Final

from extproc.control.analysis.sequential import Comparison, Groups, compare, needed, ratio
from extproc.decision_id import control_code, is_compared
from extproc.measure import RATES, LabelTotals
from extproc.store.epoch_records import EpochArm, EpochRecord

ALPHA: Final = 0.05
"""How often at most a row's bounds do not hold the true difference, at any look of an epoch."""

_MORE_IS_WORSE: Final = frozenset({"false_positive_rate", "false_negative_rate"})


class ComparisonVerdict(StrEnum):
    """What the bounds come to. Of an outcome nobody said which is better: it is ``HIGHER`` or ``LOWER``."""

    WORSE = "worse"
    BETTER = "better"
    HIGHER = "higher"
    LOWER = "lower"
    NOT_KNOWN = "not_known"


@dataclass(frozen=True, slots=True)
class Compared:
    """One of ``RATES``, or the mean of the outcome ``what``, of an arm against the ``control``'s.

    ``more`` is about how many labels more, of both arms together, a verdict takes if the difference stays as it is;
    None where that cannot be said.
    """

    arm: EpochArm
    control: EpochArm
    what: str
    is_rate: bool
    value: float
    control_value: float
    found: Comparison
    verdict: ComparisonVerdict
    more: int | None

    @property
    def ratio(self) -> float:
        """How many times the control's value it is."""
        return ratio(self.value, self.control_value)


def control_of(epoch: EpochRecord) -> EpochArm | None:
    """The arm that the others of the epoch are compared with; None if it has none that could be read."""
    code = control_code([arm.code for arm in epoch.arms]) if epoch.arms else None
    return next((arm for arm in epoch.arms if arm.code == code), None)


def in_order(epoch: EpochRecord) -> list[EpochArm]:
    """The arms as they are listed: in the order of the document, the control behind them, then what is no arm."""
    control = control_of(epoch)
    compares = {arm: is_compared(arm.code) for arm in epoch.arms}
    return sorted(
        epoch.arms, key=lambda arm: (not compares[arm], arm == control, arm.code if compares[arm] else -arm.code)
    )


def compared(epoch: EpochRecord, labels: Mapping[str, LabelTotals]) -> Iterator[Compared]:
    """What ``labels``, by arm, say about every arm that has a version against the control, where both have any."""
    control = control_of(epoch)
    if control is None or control.arm not in labels:
        return
    for arm in epoch.arms:
        if not is_compared(arm.code) or arm == control or not arm.version or arm.arm not in labels:
            continue
        one, other = labels[arm.arm], labels[control.arm]
        labelled = one.total().labels + other.total().labels
        for what in RATES:
            yield from _of(arm, control, what, one.of_rate(what), other.of_rate(what), labelled, is_rate=True)
        for what in sorted(one.outcomes.keys() & other.outcomes.keys()):
            groups = one.outcomes[what], other.outcomes[what]
            yield from _of(arm, control, what, *groups, sum(map(_size, groups)), is_rate=False)


def _of(
    arm: EpochArm, control: EpochArm, what: str, one: Groups, other: Groups, labels: float, *, is_rate: bool
) -> Iterator[Compared]:
    """``labels`` are those of both arms, of which a rate is about a part: as many more are needed of all of them."""
    values = [_value(groups) for groups in (one, other)]
    if values[0] is None or values[1] is None:
        return
    found = compare(one, other, ALPHA, share=is_rate) or Comparison(values[0] - values[1], -inf, inf)
    verdict = _verdict(what, found, is_rate=is_rate)
    more = needed(one, other, ALPHA, share=is_rate) if verdict is ComparisonVerdict.NOT_KNOWN else 0
    if more:
        more = ceil(more * labels / (_size(one) + _size(other)))
    yield Compared(arm, control, what, is_rate, values[0], values[1], found, verdict, more)


def _value(groups: Groups) -> float | None:
    size = _size(groups)
    return sum(part for _, part in groups.values()) / size if size else None


def _size(groups: Groups) -> float:
    return sum(size for size, _ in groups.values())


def _verdict(what: str, found: Comparison, *, is_rate: bool) -> ComparisonVerdict:
    if found.lower <= 0 <= found.upper:
        return ComparisonVerdict.NOT_KNOWN
    higher = found.lower > 0
    if not is_rate:
        return ComparisonVerdict.HIGHER if higher else ComparisonVerdict.LOWER
    return ComparisonVerdict.WORSE if higher == (what in _MORE_IS_WORSE) else ComparisonVerdict.BETTER
