"""The leader's breaker: what all hosts saw of a canary together, held against the limits that each of them applies.

A host trips by what it saw itself, at once and without anybody's help. Where a canary's requests are spread over many
hosts each may have seen too few; what they summed up within a second adds up here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from extproc.assignment import BUCKETS
from extproc.control.active_rollouts import ActiveRollout
from extproc.errors import Unreachable
from extproc.measure.breaker import WatchedVersion
from extproc.measure.outcomes import End, Ends
from extproc.snapshot.compile import limits_of

RECENT_SECONDS: Final = 10.0
"""Summaries may come as late. After a longer time without ``collect``, what was counted meanwhile is of no second."""


MAX_KNOWN: Final = 100_000
"""Summaries that are remembered, 30 MB; with more of them the next tick is a first one again, which sees nothing new.

A source keeps fewer, or every tick would be that.
"""


class Summary(NamedTuple):
    """How an epoch's requests ended, by arm, since the run ``run`` of an observer began; what is missing failed."""

    run: str
    rollout: str
    epoch: int
    canary: Ends
    control: Ends


class SummarySource(Protocol):
    """What the observers of all hosts summed up."""

    def summaries(self, since: float) -> Iterable[Summary]:
        """Those that changed at ``since`` (Unix seconds) or later. Raises ``Unreachable``."""
        ...


@dataclass(slots=True)
class _Pair:
    """The two arms of a rollout as they are watched in an attempt, and why its canary is to be taken away."""

    attempt: int
    canary: WatchedVersion
    control: WatchedVersion
    broken: str = ""


class FleetBreaker:
    """Watches rollouts under way; the arms stand for the versions. What came before the first tick does not count."""

    def __init__(self, source: SummarySource, monotonic: Callable[[], float]) -> None:
        self._source = source
        self._monotonic = monotonic
        self._collected_at = float("-inf")
        self._known: dict[tuple[str, str, int], Summary] = {}
        self._new: dict[tuple[str, int], tuple[Ends, Ends]] = {}
        self._pairs: WeakKeyDictionary[ActiveRollout, _Pair] = WeakKeyDictionary()

    def collect(self, under_way: Iterable[ActiveRollout], now: float) -> None:
        """See what is new at ``now`` (Unix seconds) of the rollouts ``under_way``, once a tick.

        Observations that cannot be read say nothing: every host goes on watching by itself.
        """
        self._new.clear()
        anew = self._monotonic() - self._collected_at > RECENT_SECONDS or len(self._known) > MAX_KNOWN
        try:
            summaries = self._source.summaries(0.0 if anew else now - RECENT_SECONDS)
        except Unreachable:
            return
        self._collected_at = self._monotonic()
        if anew:
            self._known.clear()
        for summary in summaries:
            key = (summary.run, summary.rollout, summary.epoch)
            before = self._known.get(key)
            self._known[key] = summary
            if not anew:
                self._add(summary, before)
        for followed in under_way:
            self._weigh(followed, now)

    def broken(self, followed: ActiveRollout) -> str:
        """Why the canary is to be taken away, as a part of a sentence; empty if it is not.

        What was found stays so in its attempt, for as long as it cannot be acted upon.
        """
        pair = self._pairs.get(followed)
        return pair.broken if pair is not None and pair.attempt == followed.row.status.attempt else ""

    def _weigh(self, followed: ActiveRollout, now: float) -> None:
        breaker, status = followed.rollout.spec.breaker, followed.row.status
        if breaker is None or status.canary is None:
            return
        pair = self._pairs.get(followed)
        if pair is None or pair.attempt != status.attempt:
            watched = WatchedVersion(breaker.window), WatchedVersion(breaker.window)
            pair = self._pairs[followed] = _Pair(status.attempt, *watched)
        epoch, at = status.epoch_id_at(now), self._monotonic()
        if (new := self._new.get((followed.key, epoch))) is not None:
            # The canary's first: what stable got meanwhile belongs to the time of the canary's failures.
            _count(pair.canary, pair.control, epoch, new[0], at)
            _count(pair.control, None, epoch, new[1], at)
        alone = status.weight_at(now) == BUCKETS
        pair.broken = pair.broken or pair.canary.breach(limits_of(breaker), pair.control, at, alone=alone)

    def _add(self, summary: Summary, before: Summary | None) -> None:
        canary, control = self._new.get((summary.rollout, summary.epoch), (Ends(), Ends()))
        new = (summary.canary, summary.control)
        if before is not None:
            new = (summary.canary.since(before.canary), summary.control.since(before.control))
        self._new[summary.rollout, summary.epoch] = canary.plus(new[0]), control.plus(new[1])


def _count(watched: WatchedVersion, stable: WatchedVersion | None, epoch: int, new: Ends, now: float) -> None:
    """Count the successes last: in which order they came is not known, and a success ends what is a row."""
    outcomes, abandoned = new
    for end, count in (
        (End.FAILED, outcomes.failures),
        (End.ABANDONED, abandoned),
        (End.ANSWERED, outcomes.requests - outcomes.failures),
    ):
        if count > 0:
            watched.add(epoch, now, stable, end, count=count)
