"""Whether units were split as they should be: said when they were not, and not sooner or later of every split."""

from __future__ import annotations

from functools import cache
from math import lgamma

import numpy as np
import pytest

from extproc.control.analysis.sample_ratio import FEWEST_UNITS, SampleRatio, sample_ratio
from extproc.measure.units import KEPT
from tests.support.simulation import Array, surely_below


def ratio_of(*counts: int, shares: tuple[int, ...] = (5000, 5000)) -> SampleRatio:
    names = ("canary", "control", "third")
    found = sample_ratio(dict(zip(names, counts, strict=False)), dict(zip(names, shares, strict=False)))
    assert found is not None
    return found


def test_an_even_split_is_healthy() -> None:
    found = ratio_of(2050, 2046)
    assert found.healthy
    assert found.p == 1.0
    assert found.chi_square == pytest.approx(0.0039, abs=1e-4)


@pytest.mark.parametrize(
    ("counts", "shares"),
    [((2300, 1796), (5000, 5000)), ((320, 3776), (500, 9500)), ((1200, 1200, 1696), (2500, 2500, 5000))],
)
def test_a_split_that_is_off_is_not(counts: tuple[int, ...], shares: tuple[int, ...]) -> None:
    found = ratio_of(*counts, shares=shares)
    assert not found.healthy
    assert found.chi_square > 10.83


def test_it_says_what_it_saw() -> None:
    assert str(ratio_of(2300, 1796)) == (
        "units by arm: canary 2300 where 2048 were expected, control 1796 where 2048 were expected "
        "(chi-square 62.0, p 1.6e-12)"
    )


def test_few_units_say_nothing() -> None:
    assert sample_ratio({"canary": FEWEST_UNITS - 1}, {"canary": 5000, "control": 5000}) is None
    assert sample_ratio({"canary": FEWEST_UNITS}, {"canary": 5000, "control": 5000}) is not None


def test_one_arm_is_no_split() -> None:
    assert sample_ratio({"canary": 0, "control": 9000}, {"canary": 0, "control": 10_000}) is None


def test_the_excluded_are_in_no_arm() -> None:
    units = {"canary": 2050, "control": 2046, "excluded": 3000}
    assert sample_ratio(units, {"canary": 5000, "control": 5000}) == ratio_of(2050, 2046)


# Looked at every tick, with units coming in one by one, and replaced by others once the sample is full


@cache
def table_of(likely: float, weight: float) -> Array:
    """What an arm that is so likely adds to the logarithm of the factor, by its units in a sample."""
    return np.array([lgamma(weight * likely + n) - n * np.log(likely) for n in range(KEPT + 1)])


def p_values(counts: Array, likely: list[float]) -> Array:
    """The p-values of many splits: ``counts`` by arm and run."""
    total, weight = int(counts[:, 0].sum()), float(len(likely))
    factor = lgamma(weight) - lgamma(weight + total) - sum(lgamma(weight * share) for share in likely)
    return np.minimum(
        1.0, np.exp(-(factor + sum(table_of(share, weight)[n] for share, n in zip(likely, counts, strict=True))))
    )


def test_the_simulation_says_what_the_function_says() -> None:
    counts = np.random.default_rng(1).multinomial(3000, [0.1, 0.3, 0.6], 20).T
    for run, p in enumerate(p_values(counts, [0.1, 0.3, 0.6])):
        assert ratio_of(*map(int, counts[:, run]), shares=(1000, 3000, 6000)).p == pytest.approx(p)


@pytest.mark.parametrize("likely", [[0.5, 0.5], [0.05, 0.95], [0.2, 0.3, 0.5]])
def test_a_healthy_split_is_called_broken_in_about_one_rollout_of_a_thousand_at_most(likely: list[float]) -> None:
    """From 2000 units to ten million: the sample grows to its limit, then the units in it are replaced by new ones."""
    generator = np.random.default_rng(2)
    runs, step = 8000, 128
    counts = generator.multinomial(FEWEST_UNITS, likely, runs).T
    broken, usual = np.zeros(runs, bool), np.zeros(runs, bool)
    renewals = int(np.log(10_000_000 / KEPT) * KEPT / step)
    for _ in range((KEPT - FEWEST_UNITS) // step + renewals):
        total = int(counts[:, 0].sum())
        broken |= p_values(counts, likely) < 0.001
        expected = total * np.array(likely)[:, None]
        usual |= ((counts - expected) ** 2 / expected).sum(axis=0) > (10.83, 13.82)[len(likely) - 2]
        if total + step > KEPT:
            counts = counts - leaving(generator, counts, step)
        counts = counts + generator.multinomial(step, likely, runs).T
    assert surely_below(int(broken.sum()), runs, 0.002)
    assert usual.mean() > 0.02


def leaving(generator: np.random.Generator, counts: Array, step: int) -> Array:
    """Which arms' units leave the sample: ``step`` of them in each run."""
    gone, left, kept = np.zeros_like(counts), np.full(counts.shape[1], step), counts.sum(axis=0)
    for arm in range(len(counts) - 1):
        kept = kept - counts[arm]
        gone[arm] = generator.hypergeometric(counts[arm], kept, left)
        left = left - gone[arm]
    gone[-1] = left
    return gone


@pytest.mark.parametrize(("likely", "real"), [([0.5, 0.5], [0.55, 0.45]), ([0.1, 0.9], [0.07, 0.93])])
def test_a_broken_split_is_found_in_one_sample(likely: list[float], real: list[float]) -> None:
    counts = np.random.default_rng(3).multinomial(KEPT, real, 500).T
    found = int((p_values(counts, likely) < 0.001).sum())
    assert surely_below(500 - found, 500, 0.2)
