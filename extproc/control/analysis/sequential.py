"""Canary against control while it is looked at every tick: bounds that hold at all looks together.

The difference of two ratios (failures to requests, false alarms to labelled negatives, a sum to a count) is estimated
with bounds ``lower`` and ``upper`` that contain the true difference at every look of an epoch, with probability
``1 - alpha``. So one may stop whenever the bounds say something, and look as often as one likes.

The bounds are the asymptotic confidence sequence of a Gaussian mixture (Robbins, "Statistical methods related to the
law of the iterated logarithm", 1970; Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory
and asymptotic confidence sequences", 2024)::

    difference ± se · sqrt(2 (n rho² + 1) / (n rho²) · ln(sqrt(n rho² + 1) / alpha)),   n = n₁n₂ / (n₁ + n₂)

which is at its narrowest near ``n = TUNED_FOR`` with ``rho² = (-2 ln alpha + ln(1 - 2 ln alpha)) / TUNED_FOR``.

Users, not requests, were randomised, and a user's requests resemble each other. So ``se`` is not that of independent
requests: it is the jackknife over groups of users, each arm's ratio without one group after the other (Efron, "The
jackknife, the bootstrap and other resampling plans", 1982, chapter 3). A user who dominates an arm makes its group's
part of ``se`` large. Where few groups make up most of it, it rests on few observations, and the normal quantile above
gives way to Student's with as many degrees of freedom as Satterthwaite ("An approximate distribution of estimates of
variance components", 1946) gives a sum of unequal squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, copysign, inf, log, sqrt
from typing import Final, NamedTuple

TUNED_FOR: Final = 1000
"""The ``n`` at which the bounds are narrowest in relation to the standard error: two arms of 2000 requests each."""

FEWEST_GROUPS: Final = 8
"""With fewer groups of units in an arm nothing is said about it."""

MOST_NEEDED: Final = 10_000.0
"""A difference that would show only with more than so many times the counts is none that is waited for."""

_BISECTIONS: Final = 40

Groups = Mapping[int, Sequence[float]]
"""By group of units: how much was counted, and how much of it was what is looked for: [requests, failures]."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The canary's ratio minus the control's, and its bounds: infinite where too little is known."""

    difference: float
    lower: float
    upper: float


class _Arm(NamedTuple):
    """A ratio, of how many, and its variance: ``squares`` is the sum of the squares of the variance's parts."""

    ratio: float
    size: float
    variance: float
    squares: float


def ratio(canary: float, control: float) -> float:
    """How many times the control's value the canary's is: infinitely many where the control's is 0 and it is not."""
    if control == 0:
        return 1.0 if canary == 0 else copysign(inf, canary)
    return canary / control


def compare(canary: Groups, control: Groups, alpha: float, *, share: bool) -> Comparison | None:
    """Compare the ratios of two arms, which hold at least one count each; None if one holds none.

    ``alpha`` (0 to 1) is how often at most the bounds are wrong at any look. ``share``: the ratios are shares of 0 to 1
    of things that count 1 each, whose variance is known from below, so that not having seen any is no certainty.
    """
    arms = (_arm(canary, share), _arm(control, share))
    if arms[0] is None or arms[1] is None:
        return None
    difference = arms[0].ratio - arms[1].ratio
    width = _half_width(arms[0], arms[1], alpha)
    return Comparison(difference, difference - width, difference + width)


def needed(canary: Groups, control: Groups, alpha: float, *, share: bool) -> int | None:
    """About how many more counts, of both arms together, the bounds need to leave out 0 if the difference stays so.

    With ``f`` times as many of both, ``se`` is divided by ``sqrt(f)`` and ``n`` multiplied by ``f``: the smallest ``f``
    at which ``se / sqrt(f)`` times the boundary at ``f n`` is no wider than the difference, by bisection, gives
    ``(f - 1)`` times the counts that there are. None where nothing can be said: no difference, too few groups of units,
    or more than ``MOST_NEEDED`` times as many. 0: the bounds leave out 0 already. Arguments as for ``compare``.
    """
    arms = (_arm(canary, share), _arm(control, share))
    if arms[0] is None or arms[1] is None:
        return None
    difference = abs(arms[0].ratio - arms[1].ratio)
    if not _half_width(arms[0], arms[1], alpha, MOST_NEEDED) < difference:
        return None
    low, high = 1.0, 1.0
    while _half_width(arms[0], arms[1], alpha, high) >= difference:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        too_wide = _half_width(arms[0], arms[1], alpha, middle) >= difference
        low, high = (middle, high) if too_wide else (low, middle)
    return ceil((high - 1) * (arms[0].size + arms[1].size))


def _arm(groups: Groups, share: bool) -> _Arm | None:
    counts = [(size, part) for size, part in groups.values() if size > 0]
    if not counts:
        return None
    size, part = sum(size for size, _ in counts), sum(part for _, part in counts)
    ratio = part / size
    if len(counts) < FEWEST_GROUPS:
        return _Arm(ratio, size, inf, inf)
    left_out = (len(counts) - 1) / len(counts)
    parts = [left_out * ((p - ratio * s) / (size - s)) ** 2 for s, p in counts]
    variance = sum(parts)
    if share:
        # As if one more of each had been seen (Agresti, Caffo, "Simple and effective confidence intervals", 2000).
        likely = (part + 1) / (size + 2)
        variance = max(variance, likely * (1 - likely) / size)
    squares = max(sum(p * p for p in parts), variance * variance / len(counts))
    return _Arm(ratio, size, variance, squares)


def _half_width(one: _Arm, other: _Arm, alpha: float, times: float = 1.0) -> float:
    """How far the bounds are from the difference; infinite where a variance is unknown, or nothing varied.

    So little that its square is 0 is nothing. With so many ``times`` the counts; from how many users they come is taken
    to stay as it is.
    """
    variance, squares = one.variance + other.variance, one.squares + other.squares
    if not (squares > 0 and variance < inf):
        return inf
    normal = boundary(times * one.size * other.size / (one.size + other.size), alpha)
    return sqrt(variance / times) * _student(normal, variance * variance / squares)


def boundary(n: float, alpha: float) -> float:
    """The half width of the confidence sequence at ``n``, in standard errors."""
    rho_squared = (-2 * log(alpha) + log(1 - 2 * log(alpha))) / TUNED_FOR
    grown = n * rho_squared
    return sqrt(2 * (grown + 1) / grown * log(sqrt(grown + 1) / alpha))


def _student(normal: float, freedom: float) -> float:
    """The quantile of Student's distribution where the normal one's is ``normal``.

    Fisher and Cornish's expansion (Abramowitz, Stegun, "Handbook of mathematical functions", 26.7.5).
    """
    z = normal
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
