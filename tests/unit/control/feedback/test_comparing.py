"""What labels say about an arm against the control, and how many more it takes to know."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.control.analysis.sequential import compare, needed
from extproc.control.feedback.comparing import ALPHA, Compared, ComparisonVerdict, compared, control_of
from extproc.decision_id import arm_codes
from extproc.measure import LabelTotals
from extproc.store.epoch_records import EpochArm
from tests.support.feedback import CANARY, CONTROL, EXCLUDED, epoch_of

GROUPS = 64


def labels(positives: int, false_negatives: int, negatives: int, false_positives: int) -> LabelTotals:
    """So many labels, spread over the groups, of units of which none differs from the others."""
    counts = (positives - false_negatives, false_positives, negatives - false_positives, false_negatives)
    confusion = {group: [count // GROUPS + (group < count % GROUPS) for count in counts] for group in range(GROUPS)}
    return LabelTotals(confusion)


def of(canary: LabelTotals, control: LabelTotals) -> Mapping[str, Compared]:
    """What is said of a canary."""
    return {one.what: one for one in compared(epoch_of(), {"canary": canary, "control": control})}


def test_a_canary_with_clearly_more_false_positives_is_worse_and_one_with_fewer_is_better() -> None:
    good, bad = labels(2000, 100, 20_000, 1000), labels(2000, 100, 20_000, 3000)
    worse = of(bad, good)["false_positive_rate"]
    assert (worse.verdict, worse.more) == (ComparisonVerdict.WORSE, 0)
    assert worse.found.difference == pytest.approx(0.1)
    assert 0 < worse.found.lower < worse.found.difference < worse.found.upper
    assert worse.ratio == pytest.approx(3)
    assert of(good, bad)["false_positive_rate"].verdict is ComparisonVerdict.BETTER
    assert of(bad, good)["precision"].verdict is ComparisonVerdict.WORSE, "of precision more is better"
    assert of(bad, good)["recall"].verdict is ComparisonVerdict.NOT_KNOWN


def test_of_an_outcome_it_is_said_which_way_it_differs_and_not_which_is_better() -> None:
    few, many = LabelTotals(), LabelTotals()
    few.outcomes["amount"] = {group: [100, 100.0 + group % 7] for group in range(GROUPS)}
    many.outcomes["amount"] = {group: [100, 300.0 + group % 7] for group in range(GROUPS)}
    assert of(many, few)["amount"].verdict is ComparisonVerdict.HIGHER
    assert of(few, many)["amount"].verdict is ComparisonVerdict.LOWER


def test_what_is_not_known_yet_says_about_how_many_labels_more_it_takes() -> None:
    canary, control = labels(0, 0, 1000, 60), labels(0, 0, 1000, 50)
    found = of(canary, control)["false_positive_rate"]
    assert found.verdict is ComparisonVerdict.NOT_KNOWN
    assert found.more is not None
    times = 1 + found.more / 2000

    def after(part: float) -> ComparisonVerdict:
        """What is said when so much of it has come."""
        size, rate = 1000 * times * part, (0.06, 0.05)
        arms = [labels(0, 0, round(size), round(size * each)) for each in rate]
        return of(*arms)["false_positive_rate"].verdict

    assert (after(0.8), after(1.1)) == (ComparisonVerdict.NOT_KNOWN, ComparisonVerdict.WORSE)


def test_labels_that_a_rate_is_not_about_are_among_those_that_are_needed() -> None:
    """Whoever sends labels cannot choose what they say."""
    alone = of(labels(0, 0, 1000, 60), labels(0, 0, 1000, 50))["false_positive_rate"].more
    among_others = of(labels(9000, 900, 1000, 60), labels(9000, 900, 1000, 50))["false_positive_rate"].more
    assert alone is not None
    assert among_others == pytest.approx(10 * alone, abs=10)


@given(st.integers(200, 100_000), st.floats(0.01, 0.5), st.floats(-0.5, 0.5))
def test_what_is_needed_is_none_once_it_is_known_and_is_never_negative(size: int, rate: float, change: float) -> None:
    one = dict.fromkeys(range(GROUPS), (size / GROUPS, size / GROUPS * rate * (1 + change)))
    other = dict.fromkeys(range(GROUPS), (size / GROUPS, size / GROUPS * rate))
    found, more = compare(one, other, ALPHA, share=True), needed(one, other, ALPHA, share=True)
    assert found is not None
    known = found.lower > 0 or found.upper < 0
    assert more is None or (more == 0) == known
    assert not known or more == 0


def test_where_too_few_users_are_known_nothing_is_promised() -> None:
    few = LabelTotals({group: [0, 5, 95, 0] for group in range(4)})
    found = of(few, labels(0, 0, 1000, 50))["false_positive_rate"]
    assert (found.verdict, found.more, found.found.lower, found.found.upper) == (
        ComparisonVerdict.NOT_KNOWN,
        None,
        -inf,
        inf,
    )


def test_arms_without_labels_without_a_version_or_excluded_are_not_compared() -> None:
    some = labels(100, 5, 1000, 50)
    assert list(compared(epoch_of(), {"canary": some})) == []
    assert list(compared(epoch_of(), {"control": some, "excluded": some})) == []
    away = epoch_of(arms=[EXCLUDED, CONTROL, CANARY._replace(version="")])
    assert list(compared(away, {"control": some, "canary": some})) == []
    assert list(compared(epoch_of(arms=[]), {"control": some, "canary": some})) == []


def test_variants_are_each_compared_with_the_last() -> None:
    codes = arm_codes(["a", "b", "c"])
    epoch = epoch_of(arms=[EpochArm(code, arm, f"v-{arm}") for arm, code in codes.items() if arm in "abc"])
    control = control_of(epoch)
    assert control is not None
    assert control.arm == "c"
    some = labels(100, 5, 1000, 50)
    found = list(compared(epoch, dict.fromkeys("abc", some)))
    assert {(one.arm.arm, one.control.arm) for one in found} == {("a", "c"), ("b", "c")}
