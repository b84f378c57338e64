"""What labels said, as text and as JSON: the counts of each arm, how they compare, and which epochs there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final

from extproc.cli.output import aligned
from extproc.control.as_json import timestamp
from extproc.control.feedback.comparing import ALPHA, Compared, ComparisonVerdict, in_order
from extproc.decision_id import is_compared
from extproc.measure import LabelTotals
from extproc.store.epoch_records import EpochArm, EpochRecord

_HEADS: Final = (
    *("ARM", "VERSION", "LABELS", "TRUE+", "FALSE+", "TRUE-", "FALSE-"),
    *("FALSE+ RATE", "FALSE- RATE", "PRECISION", "RECALL"),
)
_COMPARED_HEADS: Final = (
    "ARM",
    "VERSION",
    "WHAT",
    "HERE",
    "CONTROL",
    "DIFFERENCE",
    "RATIO",
    "LOWER",
    "UPPER",
    "VERDICT",
)
_EPOCH_HEADS: Final = ("EPOCH", "BEGAN", "UNTIL", "ARMS", "LABELS")
_RATES: Final = {
    "false_positive_rate": ("false+ rate", "falsePositiveRate"),
    "false_negative_rate": ("false- rate", "falseNegativeRate"),
    "precision": ("precision", "precision"),
    "recall": ("recall", "recall"),
}
"""The rates as the text calls them, and as JSON does."""

Arms = Sequence[tuple[EpochArm, LabelTotals]]


def arm_lines(arms: Arms) -> list[str]:
    """The counts of each arm."""
    names = sorted({outcome for _, of_arm in arms for outcome in of_arm.outcomes})
    heads = (*_HEADS, *(f"MEAN {outcome} (count)" for outcome in names))
    return aligned([heads, *(_arm_cells(*each, names) for each in arms)])


def compared_lines(found: Sequence[Compared]) -> list[str]:
    """How the arms compare with the control; nothing where no two have labels."""
    if not found:
        return []
    control = found[0].control
    head = (
        f"Against {control.arm} (version {control.version}). LOWER and UPPER hold the true difference with "
        f"{1 - ALPHA:.0%}, however often you look:"
    )
    return ["", head, *aligned([_COMPARED_HEADS, *map(_compared_cells, found)])]


def epoch_lines(epochs: Sequence[tuple[EpochRecord, int]]) -> list[str]:
    """The epochs with how many records counted in each, the oldest first."""
    rows = [
        (
            str(epoch.epoch),
            timestamp(epoch.began),
            timestamp(epoch.until) if epoch.until else "-",
            ", ".join(f"{arm.arm} {arm.version}" for arm in _with_versions(epoch)) or "-",
            str(labels),
        )
        for epoch, labels in epochs
    ]
    return aligned([_EPOCH_HEADS, *rows])


def epoch_json(epoch: EpochRecord) -> dict[str, Any]:
    """When an epoch began, until when it counted, and what its decision ids carry."""
    return {
        "epoch": epoch.epoch,
        "number": epoch.number,
        "began": timestamp(epoch.began),
        "until": timestamp(epoch.until) if epoch.until else None,
    }


def versions_json(epoch: EpochRecord) -> dict[str, str]:
    """The versions of its arms."""
    return {arm.arm: arm.version for arm in _with_versions(epoch)}


def arm_json(arm: EpochArm, totals: LabelTotals) -> dict[str, Any]:
    """The counts of an arm."""
    total = totals.total()
    outcomes = {name: totals.outcome(name) for name in sorted(totals.outcomes)}
    return {
        "arm": arm.arm,
        "version": arm.version or None,
        "labels": totals.labels,
        "truePositives": total.true_positives,
        "falsePositives": total.false_positives,
        "trueNegatives": total.true_negatives,
        "falseNegatives": total.false_negatives,
        "falsePositiveRate": total.false_positive_rate,
        "falseNegativeRate": total.false_negative_rate,
        "precision": total.precision,
        "recall": total.recall,
        "outcomes": {name: {"count": each.count, "mean": each.mean} for name, each in outcomes.items()},
    }


def compared_json(one: Compared) -> dict[str, Any]:
    """A comparison; what is infinite is null."""
    return {
        "arm": one.arm.arm,
        "version": one.arm.version,
        "control": one.control.arm,
        "controlVersion": one.control.version,
        "metric": _RATES[one.what][1] if one.is_rate else "mean",
        "outcome": None if one.is_rate else one.what,
        "value": one.value,
        "controlValue": one.control_value,
        "difference": one.found.difference,
        "ratio": one.ratio,
        "lower": one.found.lower,
        "upper": one.found.upper,
        "verdict": one.verdict,
        "moreLabels": one.more,
    }


def _with_versions(epoch: EpochRecord) -> list[EpochArm]:
    return [arm for arm in in_order(epoch) if arm.version and is_compared(arm.code)]


def _arm_cells(arm: EpochArm, totals: LabelTotals, names: Sequence[str]) -> tuple[str, ...]:
    total = totals.total()
    rates = (total.false_positive_rate, total.false_negative_rate, total.precision, total.recall)
    outcomes = [totals.outcome(name) for name in names]
    return (
        *(arm.arm, arm.version or "-", str(totals.labels)),
        *map(str, total),
        *("-" if rate is None else f"{rate:.2%}" for rate in rates),
        *("-" if each.mean is None else f"{each.mean:.6g} ({each.count})" for each in outcomes),
    )


def _compared_cells(one: Compared) -> tuple[str, ...]:
    found = one.found
    what = _RATES[one.what][0] if one.is_rate else f"mean {one.what}"
    values = [f"{value:.2%}" if one.is_rate else f"{value:.6g}" for value in (one.value, one.control_value)]
    differences = [_signed(value, one.is_rate) for value in (found.difference, found.lower, found.upper)]
    return (
        *(one.arm.arm, one.arm.version, what, *values),
        *(differences[0], _ratio(one), *differences[1:], _words(one)),
    )


def _ratio(one: Compared) -> str:
    """A dash where the control's is 0: it is infinitely many times that."""
    return f"{one.ratio:.2f}" if isfinite(one.ratio) else "-"


def _signed(value: float, is_rate: bool) -> str:
    """A difference, of rates in percentage points; a dash where nothing is known."""
    if not isfinite(value):
        return "-"
    return f"{100 * value:+.2f} pp" if is_rate else f"{value:+.6g}"


def _words(one: Compared) -> str:
    if one.verdict is not ComparisonVerdict.NOT_KNOWN:
        return one.verdict
    if one.more is None:
        return "not known yet"
    return f"not known yet, about {_rounded(one.more)} more labels"


def _rounded(count: int) -> str:
    """To two digits: it is an estimate."""
    return f"{int(float(f'{count:.1e}')):,}"


def labelled(totals: Mapping[str, LabelTotals]) -> int:
    """How many labels counted in an epoch."""
    return sum(of_arm.labels for of_arm in totals.values())
