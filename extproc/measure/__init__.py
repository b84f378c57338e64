"""What is counted about rollouts' requests: filled where requests are seen, read where rollouts are analysed.

Everything here is bounded in size, and two counts of one thing add up to the count of both.
"""

from extproc.measure.labels import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    RATES,
    TRUE_NEGATIVE,
    TRUE_POSITIVE,
    Confusion,
    LabelTotals,
    NumericOutcome,
)
from extproc.measure.sketch import LatencySketch
from extproc.measure.totals import UNIT_GROUPS, ArmTotals, EpochTotals
from extproc.measure.units import UnitSample, units_each

__all__ = [
    "FALSE_NEGATIVE",
    "FALSE_POSITIVE",
    "RATES",
    "TRUE_NEGATIVE",
    "TRUE_POSITIVE",
    "UNIT_GROUPS",
    "ArmTotals",
    "Confusion",
    "EpochTotals",
    "LabelTotals",
    "LatencySketch",
    "NumericOutcome",
    "UnitSample",
    "units_each",
]
