"""When a version is taken away: it fails beyond its limit, and it fails more than stable does.

Pure: from counts and a clock's reading to a verdict. Stable is never judged; it is what others are compared with, and
only within one epoch: while the ranges stay, whatever befalls both befalls each by its share, at whatever time. Over a
change of weights even an outage of both would weigh more on the one that grew.
"""

from __future__ import annotations

from math import exp, inf, lgamma
from typing import Final, NamedTuple

from extproc.measure.outcomes import Counts, Window
from extproc.snapshot.model import Breaker

LEVEL: Final = 1e-6
"""The probability below which a difference to stable is no chance.

So small because it is asked at every failure for as long as an outage lasts. In a simulation of outages that hit both
alike (20 requests a second, 15 to 100 % of them failing, 5 to 90 % of them the canary's) it was wrong once in 250
hours. The price: of two versions with as many requests, one that fails always is told after some 12 of each.
"""


def chance_of(version: Counts, stable: Counts) -> float:
    """The probability that so many of the failures, or more, fall to ``version`` if it fails no more than ``stable``.

    Fisher's exact test, one-sided (R. A. Fisher, "The Design of Experiments", 1935, chapter II). Of N = n1 + n0
    requests K = x1 + x0 failed. If the failures fall evenly, the number X of those among the version's n1 requests is
    hypergeometric, and

        P(X >= x1) = sum over k from x1 to min(K, n1) of C(K, k) C(N - K, n1 - k) / C(N, n1).
    """
    (n1, x1), (n0, x0) = version, stable
    total, failed = n1 + n0, x1 + x0
    if x1 == 0 or n0 == 0:
        return 1.0
    term = chance = exp(_log_choose(failed, x1) + _log_choose(total - failed, n1 - x1) - _log_choose(total, n1))
    for k in range(x1, min(failed, n1)):
        if term <= chance * 1e-9:
            break
        term *= (failed - k) * (n1 - k) / ((k + 1) * (total - failed - n1 + k + 1))
        chance += term
    return min(1.0, chance)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def beyond_limit(limits: Breaker, counts: Counts, in_a_row: int) -> str:
    """Which limit is crossed, as a part of a sentence; empty if none is."""
    if counts.requests >= limits.min_requests and counts.rate > limits.error_rate:
        return f"{counts.failures} of {counts.requests} requests within {limits.window:g} s failed"
    if in_a_row >= limits.consecutive:
        return f"{in_a_row} requests in a row failed"
    return ""


class _Mark(NamedTuple):
    """What had been counted of both when the version went beyond its limit."""

    version: Counts
    stable: Counts


class Watched:
    """The outcomes of one version in its present ``epoch``, and when they are to be held against it.

    ``heard_at`` is when (monotonic seconds) the last outcome came, of any epoch.
    """

    __slots__ = ("_crossed", "_row_began", "_seconds", "epoch", "heard_at", "window")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.epoch = 0
        self.heard_at = -inf
        self._begin()

    def _begin(self) -> None:
        self.window = Window(self._seconds)
        self._row_began = Counts()  # what stable had in total
        self._crossed: _Mark | None = None

    def add(
        self,
        epoch: int,
        now: float,
        stable: Watched | None,
        *,
        failed: bool,
        count: int = 1,
        since: float | None = None,
    ) -> None:
        """Count ``count`` outcomes of one kind, unless they are of an earlier epoch; a later one begins anew.

        ``stable`` are those of the rollout's stable, if there are any; ``since`` as in ``Row.add``.
        """
        self.heard_at = now
        if epoch > self.epoch:
            self.epoch = epoch
            self._begin()
        if epoch < self.epoch:
            return
        if failed and self.window.row.length == 0:
            self._row_began = self._total_of(stable)
        self.window.add(now, failed=failed, count=count, since=since)

    def judge(self, limits: Breaker, stable: Watched | None, now: float, *, alone: bool = False) -> str:
        """Why the version is to be taken away, as a part of a sentence; empty if it is not.

        Beyond its limit it is compared with stable in three ways: within the window, during its present failures in a
        row, and since it went beyond the limit, which tells in the end even where stable gets hardly a request. The
        limit alone counts if stable had no request for a whole window, or is to have none (``alone``).
        """
        window = self.window
        counts = window.counts(now)
        crossed = beyond_limit(limits, counts, window.row.length)
        if not crossed:
            self._crossed = None
            return ""
        total = self._total_of(stable)
        mark = self._crossed = self._crossed or _Mark(window.total, total)
        compared = stable.window.counts(now) if stable is not None and stable.epoch == self.epoch else Counts()
        if compared.requests == 0:
            waits = not alone and stable is not None and now - stable.heard_at < limits.window
            return "" if waits else f"{crossed}; stable had none to compare with"
        for ours, theirs in (
            (counts, compared),
            (Counts(window.row.length, window.row.length), total.since(self._row_began)),
            (window.total.since(mark.version), total.since(mark.stable)),
        ):
            if ours.rate > theirs.rate and chance_of(ours, theirs) < LEVEL:
                return f"{crossed}; of stable's {theirs.failures} of {theirs.requests}"
        return ""

    def _total_of(self, stable: Watched | None) -> Counts:
        """All of stable's in the same epoch."""
        return stable.window.total if stable is not None and stable.epoch == self.epoch else Counts()
