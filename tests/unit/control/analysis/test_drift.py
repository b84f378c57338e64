"""PSI and Kolmogorov-Smirnov: as they are computed by hand and by others, and how often chance is taken for drift."""

from __future__ import annotations

import random
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.control.analysis.drift import distance, kolmogorov_smirnov, shift
from extproc.measure.reference import ReferenceValues

LOOKS = (200, 400, 700, 1000, 2000, 4000)
ALPHA = 0.05


def test_psi_by_hand() -> None:
    reference = ReferenceValues.of(["de"] * 60 + ["fr"] * 30 + ["it"] * 10)
    found = shift(["de"] * 30 + ["fr"] * 30 + ["it"] * 30 + ["es"] * 10, reference)
    now = [count / 102 for count in (30.5, 30.5, 30.5, 10.5)]
    then = [count / 102 for count in (60.5, 30.5, 10.5, 0.5)]
    assert found.psi == pytest.approx(sum((a - b) * log(a / b) for a, b in zip(now, then, strict=True)))
    assert found.psi == pytest.approx(0.2014 + 0 + 0.2091 + 0.2985, abs=0.0001)


def test_what_is_the_same_has_no_psi_and_an_empty_bin_makes_none_infinite() -> None:
    reference = ReferenceValues.of([float(number) for number in range(1000)])
    same = shift(reference.numbers, reference)
    assert same.psi == pytest.approx(0, abs=1e-12)
    assert same.p == 1
    gone = shift([5000.0] * 1000, reference)
    assert 5 < gone.psi < 20
    assert gone.p < 1e-9


VECTORS = [
    ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.0),
    ([1.0, 2.0], [3.0, 4.0], 1.0),
    ([1.0, 1.0, 1.0, 2.0], [1.0, 2.0, 2.0, 2.0], 0.5),
    ([0.0, 0.0, 5.0], [0.0, 5.0, 5.0, 5.0, 7.0], 2 / 3 - 1 / 5),
    ([1.0, 4.0], [2.0, 3.0], 0.5),
]
"""Two samples and their statistic, by hand; with ties, which other implementations get wrong or refuse."""


@pytest.mark.parametrize(("one", "other", "ks"), VECTORS)
def test_kolmogorov_smirnov_by_hand(one: list[float], other: list[float], ks: float) -> None:
    assert kolmogorov_smirnov(one, other) == pytest.approx(ks)
    assert kolmogorov_smirnov(other, one) == pytest.approx(ks)


FEW = st.lists(st.one_of(st.integers(0, 9).map(float), st.floats(-5, 15)), min_size=1, max_size=60).map(sorted)


@given(FEW, FEW)
def test_kolmogorov_smirnov_is_the_largest_difference_anywhere(one: list[float], other: list[float]) -> None:
    def share(sample: list[float], value: float) -> float:
        return sum(seen <= value for seen in sample) / len(sample)

    largest = max(abs(share(one, value) - share(other, value)) for value in one + other)
    assert kolmogorov_smirnov(one, other) == pytest.approx(largest)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@given(FEW, FEW)
def test_kolmogorov_smirnov_is_that_of_scipy(one: list[float], other: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed: the vectors by hand are compared alone")
    assert kolmogorov_smirnov(one, other) == pytest.approx(stats.ks_2samp(one, other, method="asymp").statistic)


def test_a_text_where_the_reference_has_numbers_is_above_all_of_them() -> None:
    reference = ReferenceValues.of([float(number) for number in range(1000)])
    values: list[float | str] = [*(float(number) for number in range(500)), *["broken"] * 500]
    assert distance(values, reference, ALPHA).ks == pytest.approx(0.5, abs=0.01)
    assert shift(values, reference).p < 1e-9


def drawn(randomness: random.Random, kind: str, moved: float) -> float | str:
    if kind == "normal":
        return randomness.gauss(moved, 1)
    if kind == "tied":
        return 0.0 if randomness.random() < 0.6 - moved / 3 else float(int(randomness.expovariate(0.2)))
    return "abcdefghijklmnopqrstuvwxyz"[min(25, int(randomness.expovariate(0.3) + 2 * moved))]


def alarms(randomness: random.Random, kind: str, moved: float) -> set[str]:
    """Which of the conditions that the page recommends were ever true, over all looks of a rollout."""
    reference = ReferenceValues.of([drawn(randomness, kind, 0) for _ in range(2000)])
    values: list[float | str] = []
    said = set()
    for look in LOOKS:
        values += [drawn(randomness, kind, moved) for _ in range(look - len(values))]
        found = shift(values, reference)
        said |= {"psi"} if found.psi > 0.1 and found.p < 0.001 else set()
        said |= {"p"} if found.p < ALPHA else set()
        if reference.numbers and distance(values, reference, ALPHA).lower > 0:
            said.add("ks")
    return said


@pytest.mark.parametrize("kind", ["normal", "tied", "text"])
def test_a_hundred_rollouts_without_drift_raise_no_alarm_and_one_with_drift_does(kind: str) -> None:
    """At all looks together chance is taken for drift by ``p`` and ``lower`` in at most ``ALPHA`` of the rollouts."""
    randomness = random.Random(kind)
    said = [alarms(randomness, kind, 0.0) for _ in range(100)]
    assert sum("psi" in one for one in said) == 0
    assert sum("p" in one for one in said) <= 100 * ALPHA
    assert sum("ks" in one for one in said) <= 100 * ALPHA
    assert all({"psi", "p"} <= alarms(randomness, kind, 1.0) for _ in range(10))
