"""When a version is taken away: it fails, or its clients give up, beyond its limit and more than stable's do.

Pure: from counts and a clock's reading to a verdict. Stable is never tripped; it is what others are compared with, and
only within one epoch: while the ranges stay, whatever befalls both befalls each by its share, at whatever time. Over a
change of weights even an outage of both would weigh more on the one that grew.
"""

from __future__ import annotations

from math import exp, inf, lgamma
from typing import Final, NamedTuple

from extproc.measure.outcomes import Counts, End, Window
from extproc.snapshot.model import BreakerLimits

LEVEL: Final = 1e-6
"""The probability below which a difference to stable is no chance.

So small because it is asked at every failure for as long as an outage lasts. In a simulation of outages that hit both
alike (20 requests a second, 15 to 100 % of them failing, 5 to 90 % of them the canary's) it was wrong once in 250
hours. The price: of two versions with as many requests, one that fails always is told after some 12 of each.
"""

ABANDONED_LEVEL: Final = 1e-9
"""The same for clients that gave up. Outages end; that some users do not wait is so every day.

In a simulation of two versions alike that 15 to 90 % of clients do not wait for, at 20 requests a second, a level of
1e-4 was wrong eight times in 60 hours. Beside a stable that always answers, a canary that never does is told after some
17 requests of each.
"""

FEWEST_ALONE: Final = 20
"""With nothing to compare with, as many requests at least must have been abandoned, and none answered."""


def chance_of(version: Counts, stable: Counts, enough: float = 1.0) -> float:
    """The probability that so many of the failures, or more, fall to ``version`` if it fails no more than ``stable``.

    One that reaches ``enough`` is not reckoned to its end: it is as great at least.

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
        if chance >= enough or term <= chance * 1e-9:
            break
        term *= (failed - k) * (n1 - k) / ((k + 1) * (total - failed - n1 + k + 1))
        chance += term
    return min(1.0, chance)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def beyond_limit(limits: BreakerLimits, counts: Counts, in_a_row: int, what: str = "failed") -> str:
    """Which limit is crossed, as a part of a sentence; empty if none is. ``what`` is what requests did."""
    if counts.requests >= limits.min_requests and counts.rate > limits.error_rate:
        return f"{counts.failures} of {counts.requests} requests within {limits.window:g} s {what}"
    if in_a_row >= limits.consecutive:
        return f"{in_a_row} requests in a row {what}"
    return ""


def excess(ours: Counts, theirs: Counts) -> float:
    """Of those that were well with stable, the share that is not with the version: 0.25 if 40 % fail beside 20 %."""
    return (ours.rate - theirs.rate) / (1 - theirs.rate) if theirs.rate < 1 else 0.0


class _Mark(NamedTuple):
    """What had been counted of both when the version went beyond its limit."""

    version: Counts
    stable: Counts


class _Series:
    """Requests of one kind of trouble: which of them were it, and what stable had when that began.

    ``what`` is what those requests did, in words. The version's share must be beyond stable's by more than chance, of
    a probability below ``level``, would have it.
    """

    __slots__ = ("_crossed", "_level", "_row_began", "_what", "window")

    def __init__(self, seconds: float, what: str, level: float) -> None:
        self._what = what
        self._level = level
        self.window = Window(seconds)
        self._row_began = Counts()  # what stable had in total
        self._crossed: _Mark | None = None

    def add(self, now: float, stable: _Series | None, *, bad: bool, count: int, since: float | None) -> None:
        """Count ``count`` of one kind; ``stable`` is the same of stable's, in the same epoch, if there is any."""
        if bad and self.window.row.length == 0:
            self._row_began = _total_of(stable)
        self.window.add(now, failed=bad, count=count, since=since)

    def beyond(self, limits: BreakerLimits, stable: _Series | None, now: float) -> str:
        """Which limit is crossed now; empty if none is, and then the next time is the first again."""
        crossed = beyond_limit(limits, self.window.counts(now), self.window.row.length, self._what)
        if not crossed:
            self._crossed = None
        elif self._crossed is None:
            self._crossed = _Mark(self.window.total, _total_of(stable))
        return crossed

    def worse(self, stable: _Series, now: float, margin: float) -> str:
        """What it is of stable's, if the version is worse by more than ``margin`` (see ``excess``); else empty.

        Beyond its limit it is compared with stable in three ways: within the window, during its present row, and since
        it went beyond the limit, which tells in the end even where stable gets hardly a request. A row is all of one
        kind, so no margin is asked of it.
        """
        window, total = self.window, stable.window.total
        mark = self._crossed or _Mark(window.total, total)
        row = Counts(window.row.length, window.row.length)
        for ours, theirs, least in (
            (window.counts(now), stable.window.counts(now), margin),
            (row, total.since(self._row_began), 0.0),
            (window.total.since(mark.version), total.since(mark.stable), margin),
        ):
            if excess(ours, theirs) > least and chance_of(ours, theirs, self._level) < self._level:
                return f"of stable's {theirs.failures} of {theirs.requests}"
        return ""


def _total_of(stable: _Series | None) -> Counts:
    return stable.window.total if stable is not None else Counts()


class WatchedVersion:
    """The outcomes of one version in its present ``epoch``, and when they are to be held against it.

    ``errors`` are requests that came to an outcome, some of which failed; ``left`` are all, of which some were
    abandoned. ``heard_at`` is when (monotonic seconds) the last came, of any epoch.
    """

    __slots__ = ("_seconds", "epoch", "errors", "heard_at", "left")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.epoch = 0
        self.heard_at = -inf
        self._begin()

    def _begin(self) -> None:
        self.errors = _Series(self._seconds, "failed", LEVEL)
        self.left = _Series(self._seconds, "were abandoned", ABANDONED_LEVEL)

    def add(
        self,
        epoch: int,
        now: float,
        stable: WatchedVersion | None,
        end: End,
        *,
        count: int = 1,
        since: float | None = None,
    ) -> None:
        """Count ``count`` requests that ended so, unless they are of an earlier epoch; a later one begins anew.

        ``stable`` are those of the rollout's stable, if there are any; ``since`` as in ``Row.add``.
        """
        self.heard_at = now
        if epoch > self.epoch:
            self.epoch = epoch
            self._begin()
        if epoch < self.epoch:
            return
        stable = self._comparable(stable)
        errors, left = (None, None) if stable is None else (stable.errors, stable.left)
        if end is not End.ABANDONED:
            self.errors.add(now, errors, bad=end is End.FAILED, count=count, since=since)
        self.left.add(now, left, bad=end is End.ABANDONED, count=count, since=since)

    def breach(self, limits: BreakerLimits, stable: WatchedVersion | None, now: float, *, alone: bool = False) -> str:
        """Why the version is to be taken away, as a part of a sentence; empty if it is not.

        It is compared with stable; the limit alone counts if stable had no request for a whole window, or is to have
        none (``alone``). How long clients wait is theirs: some give up whatever the version, so what was abandoned
        counts by as much as it exceeds stable's, and with nothing to compare with only if nobody at all was answered.
        """
        waits = not alone and stable is not None and now - stable.heard_at < limits.window
        stable = self._comparable(stable)
        errors, left = (None, None) if stable is None else (stable.errors, stable.left)
        for ours, theirs, margin, tells_alone in (
            (self.errors, errors, 0.0, True),
            (self.left, left, limits.error_rate, self._answered_nobody(limits, now)),
        ):
            crossed = ours.beyond(limits, theirs, now)
            if not crossed:
                continue
            if theirs is not None and theirs.window.counts(now).requests:
                if found := ours.worse(theirs, now, margin):
                    return f"{crossed}; {found}"
            elif tells_alone and not waits:
                return f"{crossed}; stable had none to compare with"
        return ""

    def _answered_nobody(self, limits: BreakerLimits, now: float) -> bool:
        """Whether there were many requests in the window, and no answer."""
        outcomes, requests = self.errors.window.counts(now), self.left.window.counts(now).requests
        return requests >= max(limits.min_requests, FEWEST_ALONE) and outcomes.requests == outcomes.failures

    def _comparable(self, stable: WatchedVersion | None) -> WatchedVersion | None:
        """Stable's, if they are of the same epoch."""
        return stable if stable is not None and stable.epoch == self.epoch else None
