"""Which buckets belong to whom."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Final, NamedTuple

from extproc.assignment.hashing import BUCKETS


class BucketRange(NamedTuple):
    """The half-open range ``[start, end)`` of buckets."""

    start: int
    end: int

    def __contains__(self, bucket: object) -> bool:
        return isinstance(bucket, int) and self.start <= bucket < self.end


PROBE_PERCENT: Final = 5
"""The share of its buckets that a version gets back to show whether it is well."""


def parse_percent(value: int | float | str | Decimal) -> int:
    """A percentage as hundredths of a percent, which are buckets: ``12.34`` is 1234.

    It is read in decimal, never through binary fractions, and may have two decimals at most.

    Raises:
        ValueError: when it is not a number, has a third decimal, or lies outside 0 to 100.
    """
    if isinstance(value, bool):
        raise ValueError("a percentage is a number")  # noqa: TRY004 - pydantic turns ValueError into a fault
    try:
        hundredths = Decimal(str(value)) * 100
    except InvalidOperation:
        raise ValueError(f"{value!r} is not a number of percent, such as 5 or 12.5, without a percent sign") from None
    if not hundredths.is_finite() or not 0 <= hundredths <= BUCKETS:
        raise ValueError(f"{value} is not between 0 and 100")
    if hundredths != hundredths.to_integral_value():
        raise ValueError(f"{value} has more than two decimals")
    return int(hundredths)


def is_probe(bucket: int, owned: BucketRange) -> bool:
    """Whether ``bucket`` is among the ``PROBE_PERCENT`` of ``owned`` that are asked first: spread evenly over it."""
    return bucket in owned and (bucket - owned.start) % 100 < PROBE_PERCENT


def canary_range(weight: int) -> BucketRange:
    """The canary's buckets at ``weight`` hundredths of a percent: anchored at 0, so raising it only adds units."""
    return BucketRange(0, weight)


def variant_ranges(weights: Sequence[int], coverage: int) -> tuple[BucketRange, ...]:
    """The buckets of each variant, in order.

    Variant i owns ``[cum_i, cum_i + coverage * w_i / 10000)`` where ``cum_i`` cumulates the full weights: coverage
    grows each range inside a slot of its own, so an enrolled unit never moves. Weights and coverage are in
    hundredths of a percent; weights add up to 10000.
    """
    ranges: list[BucketRange] = []
    start = 0
    for weight in weights:
        ranges.append(BucketRange(start, start + coverage * weight // BUCKETS))
        start += weight
    return tuple(ranges)
