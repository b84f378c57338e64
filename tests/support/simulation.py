"""Runs of a canary against its control, many at a time, looked at every tick: what ``sequential.compare`` would say.

``bounds`` is that function once more, over arrays of runs; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb, log
from typing import Any

import numpy as np

from extproc.control.analysis.sequential import FEWEST_GROUPS, TUNED_FOR
from extproc.measure import UNIT_GROUPS

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Population:
    """The units of one arm, a group each, in every run: their shares of the traffic and their rates of failure."""

    traffic: Array
    rates: Array


@dataclass
class Looks:
    """What the looks of all runs found: whether the canary seemed worse, or better, and at how many of its requests."""

    worse: Array
    better: Array
    found_at: Array


def even(runs: int, rate: float) -> Population:
    """Units that are all alike."""
    shape = (runs, UNIT_GROUPS)
    return Population(np.full(shape, 1 / UNIT_GROUPS), np.full(shape, rate))


def differing(random: np.random.Generator, runs: int, rate: float, alike: float) -> Population:
    """Units whose rates differ (beta, the more the smaller ``alike``), and of which few send most (Zipf)."""
    shape = (runs, UNIT_GROUPS)
    traffic = random.permuted(np.tile(1 / np.arange(1, UNIT_GROUPS + 1), (runs, 1)), axis=1)
    rates = random.beta(rate * alike, (1 - rate) * alike, shape)
    return Population(traffic / traffic.sum(axis=1, keepdims=True), rates)


def with_one_large(population: Population, which: Array, share: float, rate: float) -> Population:
    """In the runs ``which`` one more user sends ``share`` of the arm's traffic, with a rate of its own."""
    traffic, rates = population.traffic.copy(), population.rates.copy()
    traffic[which] *= 1 - share
    traffic[which, 0] += share
    rates[which, 0] = rate
    return Population(traffic, rates)


def looked_at(
    random: np.random.Generator,
    canary: Population,
    control: Population,
    *,
    share: float,
    requests: float,
    ticks: int,
    bounds: Callable[[Array, Array], tuple[Array, Array]],
    at_least: int = 100,
) -> Looks:
    """Look at each of ``ticks`` in every run, from ``at_least`` requests in each arm on.

    A tick brings about ``requests``, of which the canary gets ``share``.
    """
    runs = len(canary.traffic)
    counts = np.zeros((2, 2, runs, UNIT_GROUPS))
    worse, better, found = np.zeros(runs, bool), np.zeros(runs, bool), np.full(runs, np.inf)
    for _ in range(ticks):
        for arm, population, expected in ((0, canary, requests * share), (1, control, requests * (1 - share))):
            seen = random.poisson(expected * population.traffic)
            counts[arm] += seen, random.binomial(seen, population.rates)
        enough = counts[:, 0].sum(axis=2).min(axis=0) >= at_least
        if not enough.any():
            continue
        lower, upper = bounds(counts[0], counts[1])
        seems_worse = enough & (lower > 0)
        found = np.where(seems_worse & ~worse, counts[0, 0].sum(axis=1), found)
        worse |= seems_worse
        better |= enough & (upper < 0)
    return Looks(worse, better, found)


def always_valid(alpha: float, *, share: bool = True) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The bounds of ``sequential.compare``."""

    def bounds(canary: Array, control: Array) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            (ratio, size, variance, squares), other = _arm(canary, share), _arm(control, share)
            both = variance + other[2]
            width = np.sqrt(both) * _student(
                _boundary(size * other[1] / (size + other[1]), alpha), both**2 / (squares + other[3])
            )
        width = np.where((both > 0) & (both < np.inf), width, np.inf)
        difference = ratio - other[0]
        return difference - width, difference + width

    return bounds


def naive(canary: Array, control: Array) -> tuple[Array, Array]:
    """What is often done: requests as if they were independent, and each look as if it were the only one."""
    sizes, parts = zip(*(arm.sum(axis=2) for arm in (canary, control)), strict=True)
    ratios = [part / np.maximum(size, 1) for size, part in zip(sizes, parts, strict=True)]
    variances = [ratio * (1 - ratio) / np.maximum(size, 1) for ratio, size in zip(ratios, sizes, strict=True)]
    width = 1.96 * np.sqrt(variances[0] + variances[1])
    return ratios[0] - ratios[1] - width, ratios[0] - ratios[1] + width


def _arm(counts: Array, share: bool) -> tuple[Array, Array, Array, Array]:
    sizes, parts = counts
    size, part = sizes.sum(axis=1), parts.sum(axis=1)
    ratio, groups = part / size, (sizes > 0).sum(axis=1)
    influence = (parts - ratio[:, None] * sizes) / (size[:, None] - sizes)
    terms = ((groups - 1) / groups)[:, None] * influence**2
    variance = terms.sum(axis=1)
    if share:
        likely = (part + 1) / (size + 2)
        variance = np.maximum(variance, likely * (1 - likely) / size)
    variance = np.where(groups < FEWEST_GROUPS, np.inf, variance)
    return ratio, size, variance, np.maximum((terms**2).sum(axis=1), variance**2 / groups)


def _boundary(n: Array, alpha: float) -> Array:
    grown = n * (-2 * log(alpha) + log(1 - 2 * log(alpha))) / TUNED_FOR
    return np.asarray(np.sqrt(2 * (grown + 1) / grown * np.log(np.sqrt(grown + 1) / alpha)))


def _student(z: Array, freedom: Array) -> Array:
    return (
        z
        + (z**3 + z) / 4 / freedom
        + (5 * z**5 + 16 * z**3 + 3 * z) / 96 / freedom**2
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / freedom**3
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160 / freedom**4
    )


def surely_below(found: int, runs: int, rate: float) -> bool:
    """Whether ``found`` of ``runs`` are so few that a true ``rate`` would give as few once in a hundred times."""
    return sum(comb(runs, k) * rate**k * (1 - rate) ** (runs - k) for k in range(found + 1)) < 0.01
