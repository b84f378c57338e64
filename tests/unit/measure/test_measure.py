"""What is counted is bounded, and two counts add up to the count of both."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.measure import ArmTotals, Confusion, EpochTotals, LabelTotals, LatencySketch, UnitSample
from extproc.measure.sketch import HIGHEST_MS, LOWEST_MS, RELATIVE_ERROR
from extproc.measure.units import KEPT

latencies = st.lists(st.floats(LOWEST_MS, HIGHEST_MS), min_size=1, max_size=200)
units = st.lists(st.tuples(st.integers(0, 2**50), st.sampled_from(["canary", "control"])), max_size=50)


def sketch_of(values: list[float]) -> LatencySketch:
    sketch = LatencySketch()
    for value in values:
        sketch.add(value)
    return sketch


def sample_of(drawn: list[tuple[int, str]]) -> UnitSample:
    sample = UnitSample()
    for unit, arm in drawn:
        sample.add(unit, arm)
    return sample


@given(latencies, st.floats(0, 1))
def test_a_quantile_is_within_the_stated_error_of_the_value_at_its_rank(values: list[float], share: float) -> None:
    exact = sorted(values)[int(share * (len(values) - 1))]
    found = sketch_of(values).quantile(share)
    assert found is not None
    assert abs(found - exact) <= exact * RELATIVE_ERROR * 1.0001


def test_a_sketch_of_nothing_has_no_quantile() -> None:
    assert LatencySketch().quantile(0.5) is None


@given(latencies, latencies)
def test_merged_sketches_are_the_sketch_of_all_values(some: list[float], others: list[float]) -> None:
    merged = sketch_of(some)
    merged.merge(sketch_of(others))
    assert merged.to_json() == sketch_of(some + others).to_json()


@given(st.lists(st.floats(0, 1e12), max_size=2000))
def test_a_sketch_stays_small_whatever_is_added(values: list[float]) -> None:
    assert len(sketch_of(values).to_json()) < 200


@given(units, units)
def test_merged_samples_are_the_sample_of_all_units(some: list[tuple[int, str]], others: list[tuple[int, str]]) -> None:
    arms: dict[int, str] = {}  # a unit draws the same arm wherever it is
    some = [(unit, arms.setdefault(unit, arm)) for unit, arm in some]
    others = [(unit, arms.setdefault(unit, arm)) for unit, arm in others]
    merged = sample_of(some)
    merged.merge(sample_of(others))
    assert merged.to_json() == sample_of(some + others).to_json()


def test_a_unit_that_comes_again_is_counted_once() -> None:
    sample = UnitSample()
    assert sample.add(7, "canary")
    assert not sample.add(7, "canary")
    assert sample.counts() == {"canary": 1}


def test_a_sample_of_many_units_is_bounded_and_shows_their_shares_in_any_order_of_arrival() -> None:
    draws = random.Random(5)
    drawn = [(draws.getrandbits(50), "canary" if draws.random() < 0.2 else "control") for _ in range(10 * KEPT)]
    one, two, other_way_round = sample_of(drawn[::2]), sample_of(drawn[1::2]), sample_of(drawn[::-1])
    one.merge(two)
    assert one.to_json() == other_way_round.to_json()
    counts = one.counts()
    assert sum(counts.values()) == KEPT
    assert 0.17 < counts["canary"] / KEPT < 0.23


@given(units)
def test_a_sample_survives_being_written_down(drawn: list[tuple[int, str]]) -> None:
    sample = sample_of(drawn)
    assert UnitSample.from_json(json.loads(json.dumps(sample.to_json()))).to_json() == sample.to_json()


def arm_totals(requests: int, group: int) -> ArmTotals:
    totals = ArmTotals(decided=requests + 1, requests=requests, failures=requests // 3)
    totals.fallbacks, totals.missing = requests // 5, requests // 7
    totals.latency.add(requests + 1.0)
    totals.groups[group] = [requests, requests // 3]
    for number in range(requests % 11):
        totals.abandon(group if number % 2 else None)
    return totals


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 3), st.integers(0, 3))
def test_totals_add_up_and_survive_being_written_down(some: int, more: int, group: int, other: int) -> None:
    merged = arm_totals(some, group)
    merged.merge(arm_totals(more, other))
    assert (merged.decided, merged.requests) == (some + more + 2, some + more)
    assert (merged.failures, merged.fallbacks) == (some // 3 + more // 3, some // 5 + more // 5)
    assert merged.missing == some // 7 + more // 7
    assert merged.latency.count == 2
    assert merged.abandoned == some % 11 + more % 11
    assert sum(merged.abandoned_groups.values()) == some % 11 // 2 + more % 11 // 2
    expected: Counter[int] = Counter()
    expected[group] += some
    expected[other] += more
    assert {key: counts[0] for key, counts in merged.groups.items()} == expected
    assert ArmTotals.from_json(json.loads(json.dumps(merged.to_json()))).to_json() == merged.to_json()


def test_totals_that_an_older_dropout_wrote_are_read() -> None:
    body = {key: value for key, value in arm_totals(9, 1).to_json().items() if not key.startswith("abandoned")}
    assert ArmTotals.from_json(body).requests == 9
    assert ArmTotals.from_json(body).abandoned == 0


def test_an_epochs_totals_add_up_arm_by_arm_and_are_as_old_as_the_latest() -> None:
    one, two = EpochTotals("payments/fraud", 3, 10.0), EpochTotals("payments/fraud", 3, 20.0)
    one.arm("canary").requests = 2
    two.arm("canary").requests = 3
    two.arm("control").requests = 5
    two.units.add(1, "canary")
    one.merge(two)
    assert {name: totals.requests for name, totals in one.arms.items()} == {"canary": 5, "control": 5}
    assert (one.updated_at, one.units.counts()) == (20.0, {"canary": 1})


@pytest.mark.parametrize(
    ("some", "other", "both"), [(None, None, None), (9.0, None, 9.0), (None, 9.0, 9.0), (9.0, 8.0, 8.0)]
)
def test_what_one_has_not_heard_of_both_have_not(some: float | None, other: float | None, both: float | None) -> None:
    one, two = EpochTotals("payments/fraud", 3, 10.0, some), EpochTotals("payments/fraud", 3, 20.0, other)
    one.merge(two)
    assert one.unheard_since == both


def test_error_rates_are_shares_of_what_is_true_and_precision_of_what_was_said() -> None:
    labels = LabelTotals({1: [6, 2, 10, 0], 9: [2, 1, 17, 2]}).total()
    assert labels == Confusion(8, 3, 27, 2)
    assert labels.labels == 40
    assert labels.false_positive_rate == 3 / 30
    assert labels.false_negative_rate == 2 / 10
    assert labels.precision == 8 / 11
    assert labels.recall == 8 / 10


def test_a_rate_of_nothing_is_none() -> None:
    nothing = LabelTotals().total()
    assert nothing.labels == 0
    rates = (nothing.false_positive_rate, nothing.false_negative_rate, nothing.precision, nothing.recall)
    assert rates == (None, None, None, None)
    assert LabelTotals().outcome("amount").mean is None
    only_negatives = Confusion(true_negatives=5, false_positives=5)
    assert (only_negatives.false_positive_rate, only_negatives.recall) == (0.5, None)


def test_an_outcome_is_the_mean_over_all_groups() -> None:
    outcome = LabelTotals(outcomes={"amount": {1: [2, 10.0], 7: [3, -4.0]}}).outcome("amount")
    assert (outcome.count, outcome.sum, outcome.mean) == (5, 6.0, 1.2)
