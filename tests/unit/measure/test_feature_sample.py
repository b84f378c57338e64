"""Samples of features: those of the workers add up to that of all, and what is no value is missing."""

from __future__ import annotations

import json
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.measure.feature_sample import KEPT, LONGEST_TEXT, FeatureSample, counted_value
from extproc.measure.reference import BINS, MOST_CATEGORIES, ReferenceValues

SPREAD = 0x9E3779B97F4A7C15
"""Odd, so that its multiples are different hashes, and spread."""


def hash_of(user: int) -> int:
    return user * SPREAD % 2**50


def sample_of(users: dict[int, float]) -> FeatureSample:
    sample = FeatureSample(["risk"])
    for user, value in users.items():
        if sample.takes(hash_of(user)):
            sample.add(hash_of(user), (value,))
    return sample


@given(workers=st.lists(st.sets(st.integers(0, 6 * KEPT), max_size=50), max_size=4), crowd=st.integers(0, 5 * KEPT))
def test_samples_of_workers_add_up_to_the_sample_of_all_without_an_error(workers: list[set[int]], crowd: int) -> None:
    users = [set(range(worker, crowd, max(len(workers), 1))) | own for worker, own in enumerate(workers)]
    merged = FeatureSample(["risk"])
    for mine in users:
        merged.merge(sample_of({user: user / 7 for user in mine}))
    together = sample_of({user: user / 7 for user in sorted(set().union(*users))})
    assert merged.units() == together.units()
    assert len(merged.units()) == min(KEPT, len(set().union(*users)))


def test_what_is_told_and_read_again_is_the_same_sample() -> None:
    for count in (0, 5, 3 * KEPT):
        sample = sample_of({user: user / 3 for user in range(count)})
        again = FeatureSample.from_json(json.loads(json.dumps(sample.to_json())))
        assert (again.units(), again.names) == (sample.units(), ("risk",))
        assert [again.takes(2**50), sample.takes(2**50)] == [count < KEPT] * 2


def test_a_unit_has_the_values_of_its_last_decision() -> None:
    sample = FeatureSample(["risk"])
    assert sample.add(5, (0.1,))
    assert not sample.add(5, (0.1,))
    assert sample.add(5, (0.2,))
    newer = FeatureSample(["risk"])
    newer.add(5, (None,))
    sample.merge(newer)
    assert sample.units() == {5: (None,)}


def test_of_a_small_arm_no_more_counts_than_of_a_large_one() -> None:
    """A canary of a twentieth has its share in the sample of all, though its own sample reaches twenty times as far."""
    users = range(40 * KEPT)
    canary = sample_of({user: 1.0 for user in users if user % 20 == 0})
    control = sample_of({user: 0.0 for user in users if user % 20})
    together = FeatureSample.of_all([canary, control])
    assert len(together) >= KEPT
    assert sum(values == (1.0,) for values in together.values()) / len(together) == pytest.approx(0.05, abs=0.015)
    assert FeatureSample.of_all([]) == {}


@pytest.mark.parametrize(
    ("value", "counted"),
    [
        *((1, 1.0), (0.5, 0.5), (True, "true"), (False, "false"), ("de", "de"), ("", ""), (-0.0, 0.0)),
        *((nan, None), (inf, None), (-inf, None), (None, None), ([1.0], None), ({"a": 1}, None), (10**400, None)),
        ("x" * 5000, "x" * LONGEST_TEXT),
    ],
)
def test_numbers_truth_values_and_short_texts_are_values_and_everything_else_is_missing(
    value: Any, counted: float | str | None
) -> None:
    assert counted_value(value) == counted


# References


def test_numbers_fall_into_tenths_and_none_is_parted_from_its_equals() -> None:
    reference = ReferenceValues.of([float(number) for number in range(1000)])
    assert len(reference.by_bin()) == BINS
    assert reference.by_bin() == pytest.approx([100] * BINS, abs=1)
    assert reference.binned(reference.numbers) == reference.by_bin()
    tied = ReferenceValues.of([0.0] * 700 + [float(number) for number in range(1, 301)])
    assert tied.by_bin()[0] == 700
    assert sum(tied.by_bin()) == 1000
    assert tied.binned([-1.0, 0.0, 1e9, "text"]) == [2, *[0] * (len(tied.edges) - 1), 2]


def test_few_different_numbers_are_told_apart_like_texts_and_a_new_one_is_the_rest() -> None:
    reference = ReferenceValues.of([0.0, 1.0, 1.0, None])
    assert (reference.rows, reference.missing) == (4, 1)
    assert reference.by_bin() == [2, 1, 0]
    assert reference.binned([1, 0.0, 5.0]) == [1, 1, 1]


def test_the_most_frequent_texts_are_told_apart_and_the_others_are_one_rest() -> None:
    reference = ReferenceValues.of([f"t{number}" for number in range(100) for _ in range(number + 1)])
    assert len(reference.by_bin()) == MOST_CATEGORIES + 1
    assert reference.by_bin()[0] == 100
    assert reference.binned(["t99", "t0", "never seen", 3.0]) == [1, *[0] * (MOST_CATEGORIES - 1), 3]


def test_a_reference_of_one_value_or_none_is_constant() -> None:
    assert ReferenceValues.of([3.0, 3.0, None]).is_constant
    assert not ReferenceValues.of([3.0, 4.0]).is_constant
    assert ReferenceValues.of([None, None]).present == 0


@given(st.lists(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3)), max_size=200))
def test_every_value_of_a_reference_is_in_one_of_its_bins(values: list[float | str]) -> None:
    reference = ReferenceValues.of(values)
    assert sum(reference.by_bin()) == len(values) == reference.present
    assert reference.binned(values) == reference.by_bin()
