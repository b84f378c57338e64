"""Assignment: the hash, the buckets and the ranges that own them."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.assignment import (
    BUCKETS,
    BucketRange,
    bucket_of,
    canary_range,
    holdout_bucket,
    layer_bucket,
    parse_percent,
    policy_bucket,
    shadow_bucket,
    variant_ranges,
)
from tests.support.paths import vectors

VECTORS = vectors("assignment-v1")
POLICY_DRAWS = vectors("policy-draw-v1")

weights = st.lists(st.integers(1, 100), min_size=2, max_size=6).map(
    lambda parts: (
        [part * BUCKETS // sum(parts) for part in parts[:-1]]
        + [BUCKETS - sum(part * BUCKETS // sum(parts) for part in parts[:-1])]
    )
)


def test_there_are_five_hundred_vectors() -> None:
    assert len(VECTORS) == 500


def test_every_vector_falls_into_its_bucket() -> None:
    wrong = []
    for vector in VECTORS:
        unit = bytes.fromhex(vector["unitHex"]) if "unitHex" in vector else vector["unit"].encode()
        if bucket_of(vector["seed"].encode(), unit) != vector["bucket"]:
            wrong.append(vector)
    assert wrong == []


def test_the_layer_holdout_and_shadow_draws_are_hashes_under_a_prefix_of_their_own() -> None:
    assert holdout_bucket(b"global-2026", b"u") == bucket_of(b"holdout:global-2026", b"u")
    assert layer_bucket(b"checkout", b"u") == bucket_of(b"layer:checkout", b"u")
    assert policy_bucket(b"fraud", b"u") == bucket_of(b"policy:fraud", b"u")
    assert shadow_bucket(b"fraud", b"u") == bucket_of(b"shadow:fraud", b"u")


def test_every_vector_of_a_policys_draw_has_its_bucket() -> None:
    drawn = [policy_bucket(vector["seed"].encode(), vector["unit"].encode()) for vector in POLICY_DRAWS]
    assert drawn == [vector["draw"] for vector in POLICY_DRAWS]


def test_a_policys_draw_says_nothing_about_the_arm() -> None:
    canaries = [unit for unit in map(b"user-%d".__mod__, range(40_000)) if bucket_of(b"fraud", unit) < 5000]
    tenth = sum(policy_bucket(b"fraud", unit) < 1000 for unit in canaries)
    assert tenth / len(canaries) == pytest.approx(0.1, abs=0.005)


def test_buckets_are_even_enough_for_one_percent_to_be_one_percent() -> None:
    drawn = sum(bucket_of(b"even", str(unit).encode()) < 100 for unit in range(100_000))
    assert 900 < drawn < 1100


@given(st.binary(max_size=64), st.integers(0, BUCKETS), st.integers(0, BUCKETS))
def test_raising_a_canary_never_takes_a_unit_out_of_it(unit: bytes, one: int, other: int) -> None:
    low, high = sorted((one, other))
    bucket = bucket_of(b"seed", unit)
    assert bucket not in canary_range(low) or bucket in canary_range(high)


@given(weights, st.integers(0, BUCKETS), st.integers(0, BUCKETS), st.integers(0, BUCKETS - 1))
def test_raising_coverage_never_moves_an_enrolled_unit(parts: list[int], one: int, other: int, bucket: int) -> None:
    low, high = sorted((one, other))
    before = [bucket in owned for owned in variant_ranges(parts, low)]
    after = [bucket in owned for owned in variant_ranges(parts, high)]
    assert not any(before) or before == after


@given(weights)
def test_full_coverage_gives_every_bucket_to_exactly_one_variant(parts: list[int]) -> None:
    ranges = variant_ranges(parts, BUCKETS)
    assert ranges[0].start == 0
    assert ranges[-1].end == BUCKETS
    assert all(left.end == right.start for left, right in pairwise(ranges))


def test_a_variant_owns_coverage_times_its_weight_from_its_cumulated_full_weight() -> None:
    assert variant_ranges([5000, 5000], 2000) == (BucketRange(0, 1000), BucketRange(5000, 6000))


@given(st.integers(0, BUCKETS))
def test_a_percentage_with_two_decimals_is_read_exactly(hundredths: int) -> None:
    percent = Decimal(hundredths) / 100
    assert parse_percent(str(percent)) == hundredths
    assert parse_percent(float(percent)) == hundredths


@pytest.mark.parametrize("value", [-1, 100.01, "1.234", "many", "NaN", "Infinity", True, "1e400"])
def test_a_percentage_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_percent(value)  # type: ignore[arg-type]
