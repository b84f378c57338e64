"""How far the values of a feature are from those of a reference: PSI, Kolmogorov-Smirnov, and what chance makes of it.

PSI, the population stability index, is the symmetric divergence of Kullback and Leibler ("On information and
sufficiency", 1951) over bins, as credit scoring uses it (Yurdakul, Naranjo, "Statistical properties of the population
stability index", 2020)::

    psi = Σ over bins of (p - q) · ln(p / q),   p = (now + 1/2) / (all now + bins/2), q of the reference alike

The half counts keep an empty bin from making it infinite (Jeffreys' prior). Without any change it is about
``(bins - 1) · (1/n + 1/m)`` of n and m values, so with few values it is large by chance alone.

How likely it is that chance made the difference is said by a p-value that holds at all looks together, that of the
sample ratio: the inverse of a Bayes factor of the counts against the reference's shares (Lindon, Malek, "Anytime-valid
inference for multinomial count data", NeurIPS 2022). Those shares are known no better than from m values, so n counts
weigh as much as ``n m / (n + m)`` against shares that are known.

The Kolmogorov-Smirnov statistic is the largest difference of the two distribution functions. That of n values is no
further than ``eps`` from the true one with probability ``1 - alpha``: of the reference by the inequality of Dvoretzky,
Kiefer and Wolfowitz with Massart's constant ("The tight constant", 1990), ``eps = sqrt(ln(2 / alpha) / 2m)``, and of
what is looked at again and again by its uniform form (Howard, Ramdas, "Sequential estimation of quantiles", 2022)::

    eps = 0.85 · sqrt((ln ln(e n) + 0.8 ln(1612 / alpha)) / n)

Both hold with ties, where they are wider than they need be.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import e, inf, log, sqrt
from typing import NamedTuple

from extproc.control.analysis.sample_ratio import p_over_all_looks
from extproc.measure.reference import ReferenceValues


class Shift(NamedTuple):
    """The PSI, and the probability that chance alone makes it at any look."""

    psi: float
    p: float


def shift(values: Sequence[float | str], reference: ReferenceValues) -> Shift:
    """How ``values`` fall into the bins of ``reference``; there is at least one of each."""
    now, then = reference.binned(values), reference.by_bin()
    n, m = sum(now), sum(then)
    weight = m / (n + m)
    likely = _shares(then)
    p = p_over_all_looks([count * weight for count in now], likely)
    return Shift(sum((a - b) * log(a / b) for a, b in zip(_shares(now), likely, strict=True)), p)


def _shares(counts: Sequence[int]) -> list[float]:
    """The share of each bin, with half a count more of each."""
    total = sum(counts) + len(counts) / 2
    return [(count + 0.5) / total for count in counts]


class Distance(NamedTuple):
    """The Kolmogorov-Smirnov statistic, and what the distance of the two distributions is at least at any look."""

    ks: float
    lower: float


def distance(values: Sequence[float | str], reference: ReferenceValues, alpha: float) -> Distance:
    """How far ``values`` are from the numbers of ``reference``; a text is above all of them.

    ``alpha`` (0 to 1) is how often at most ``lower`` is wrong, half of it for either side.
    """
    now = sorted(inf if isinstance(value, str) else value for value in values)
    ks = kolmogorov_smirnov(now, reference.numbers)
    n, m = len(now), len(reference.numbers)
    uncertain = 0.85 * sqrt((log(log(e * n)) + 0.8 * log(1612 / (alpha / 2))) / n) + sqrt(log(4 / alpha) / (2 * m))
    return Distance(ks, max(0.0, ks - uncertain))


def kolmogorov_smirnov(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference of the distribution functions of two sorted samples (Smirnov 1939), ties or not."""
    largest, before = 0.0, 0.0
    for value in dict.fromkeys(one):
        here = bisect_right(one, value) / len(one)
        # Between two values of one sample the other's function only rises: it is furthest at either end.
        below, at = bisect_left(other, value) / len(other), bisect_right(other, value) / len(other)
        largest = max(largest, abs(before - below), abs(here - at))
        before = here
    return largest
