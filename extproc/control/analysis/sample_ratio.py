"""Whether the arms got their shares of the units: if not, the split is broken, and nothing it measures can be trusted.

The usual test is chi-square over the different units of each arm, unhealthy at p < 0.001 (10.83 for two arms). Looked
at every tick as units come in, it would sooner or later call most healthy splits broken: one in sixteen by the time
there are ten million units, as the simulation in its tests shows. So the counts are judged by their Bayes factor
against a Dirichlet prior around the expected shares (Lindon, Malek, "Anytime-valid inference for multinomial count
data", NeurIPS 2022), whose inverse is a p-value that holds at all looks together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, lgamma, log
from typing import Final

FEWEST_UNITS: Final = 2000
"""With fewer units nothing is said."""

UNHEALTHY_BELOW: Final = 0.001
"""A healthy split has a p-value below this once in a thousand rollouts."""


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """How units fell into arms: their number, the number expected, chi-square, and the p-value over all looks."""

    units: Mapping[str, int]
    expected: Mapping[str, float]
    chi_square: float
    p: float

    @property
    def healthy(self) -> bool:
        """Whether the units may well have been split as they should be."""
        return self.p >= UNHEALTHY_BELOW

    def __str__(self) -> str:
        arms = ", ".join(
            f"{arm} {self.units[arm]} where {count:.0f} were expected" for arm, count in self.expected.items()
        )
        return f"units by arm: {arms} (chi-square {self.chi_square:.1f}, p {self.p:.2g})"


def sample_ratio(units: Mapping[str, int], shares: Mapping[str, int]) -> SampleRatio | None:
    """Compare the different ``units`` by arm (``UnitSample.counts()``) with the arms' ``shares``, as buckets say them.

    Units of other arms are left out, and so are arms without a share. None while there are too few units.
    """
    shares = {arm: share for arm, share in shares.items() if share > 0}
    counts = {arm: units.get(arm, 0) for arm in shares}
    total = sum(counts.values())
    if len(shares) < 2 or total < FEWEST_UNITS:
        return None
    likely = {arm: share / sum(shares.values()) for arm, share in shares.items()}
    expected = {arm: total * share for arm, share in likely.items()}
    chi_square = sum((counts[arm] - count) ** 2 / count for arm, count in expected.items())
    return SampleRatio(counts, expected, chi_square, min(1.0, exp(-_log_bayes_factor(counts, likely))))


def _log_bayes_factor(counts: Mapping[str, int], likely: Mapping[str, float]) -> float:
    """How much better other shares explain ``counts`` than those that are ``likely``, as a logarithm.

    The prior weighs as much as one unit for each arm: so wide that even a sample in which units were replaced, as
    ``UnitSample`` is beyond its limit, keeps the promise.
    """
    weight = float(len(counts))
    factor = lgamma(weight) - lgamma(weight + sum(counts.values()))
    for arm, count in counts.items():
        prior = weight * likely[arm]
        factor += lgamma(prior + count) - lgamma(prior) - count * log(likely[arm])
    return factor
