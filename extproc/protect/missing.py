"""Decisions of which nothing is heard: what workers decided, against what the access log says came of it.

Workers count in the seconds of the wall clock in which they decide, and a decision's id says when it was made, a moment
before. So of what was made in a second, a little may be counted in the next one, never the other way round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

SLACK_SECONDS: Final = 0.75
"""How long counts and entries of a second may be on their way: workers, Envoy and pipes send them in batches."""

MAX_COUNTS: Final = 100_000
"""Kinds of decisions in all seconds that are waited for, some 30 MB."""


class Decisions(NamedTuple):
    """A rollout (``namespace/name``), an epoch, an arm and the version that it got."""

    rollout: str
    epoch: int
    arm: str
    version: str


class Settled(NamedTuple):
    """What had become of decisions of one kind and second when they could be waited for no longer.

    ``surplus`` are outcomes of this and of earlier seconds that no decision stands for, as far as they are new.
    """

    key: Decisions
    decided: int
    missing: int
    surplus: int = 0


class _Ahead(NamedTuple):
    """Outcomes beyond the decisions that were counted up to a second; ``surplus`` of them have been told of."""

    outcomes: int = 0
    surplus: int = 0


_NOTHING: Final = _Ahead()


class Missing:
    """Decisions by second and by ``Decisions``, until they are ``limit`` seconds old. Times are Unix seconds.

    Counts begin with the first whole second after ``start``: of decisions before that it heard only in part.
    ``dropped`` are counts that had no room; then nothing is known of that second.
    """

    def __init__(self, limit: float, start: float) -> None:
        self._limit = limit
        self._settled_until = int(start)
        self._seconds: dict[int, dict[Decisions, list[int]]] = {}
        self._size = 0
        self._ahead: dict[Decisions, _Ahead] = {}
        self.dropped = 0

    def decided(self, second: int, key: Decisions, count: int, now: float) -> None:
        """Workers decided ``count`` requests of a kind within ``second``."""
        self._count(second, key, 0, count, now)

    def seen(self, at: float, key: Decisions, now: float) -> bool:
        """A decision made at ``at`` came to something; False if that came too late to be waited for."""
        if now - at > self._limit + SLACK_SECONDS:
            return False
        self._count(int(at), key, 1, 1, now)
        return True

    def _count(self, second: int, key: Decisions, which: int, count: int, now: float) -> None:
        if not self._settled_until < second <= now + 1:
            return
        of_second = self._seconds.setdefault(second, {})
        counts = of_second.get(key)
        if counts is None:
            if self._size >= MAX_COUNTS:
                self.dropped += 1
                return
            counts = of_second[key] = [0, 0]
            self._size += 1
        counts[which] += count

    def settle(self, now: float) -> Iterator[tuple[int, list[Settled]]]:
        """Each second that is over and beyond the limit by now, the earliest first, and what became of it."""
        last = int(now - self._limit - SLACK_SECONDS) - 1
        if self._settled_until > now + 1:  # the clock was set back: what was counted then says nothing about now
            self._seconds.clear()
            self._size, self._ahead, self._settled_until = 0, {}, int(now)
        for second in sorted(second for second in self._seconds if second <= last):
            counts = self._seconds.pop(second)
            self._size -= len(counts)
            of_second = self._left_over(counts if second - 1 == self._settled_until else {})
            of_second += self._settled(counts)
            self._settled_until = second
            yield second, of_second
        if self._settled_until < last:
            self._settled_until = last
            if of_second := self._left_over({}):
                yield last, of_second

    def _left_over(self, counts: Collection[Decisions]) -> list[Settled]:
        """Outcomes of the second before that no decision was counted for in this one, whose ``counts`` there are."""
        over = [(key, ahead) for key, ahead in self._ahead.items() if key not in counts]
        for key, _ in over:
            del self._ahead[key]
        return [Settled(key, 0, 0, ahead.outcomes - ahead.surplus) for key, ahead in over]

    def _settled(self, counts: Mapping[Decisions, Sequence[int]]) -> list[Settled]:
        settled = []
        for key, (decided, seen) in counts.items():
            earlier = self._ahead.pop(key, _NOTHING)
            difference = decided - seen - earlier.outcomes
            # Of a second's outcomes some belong to decisions that are counted in the next one; what is more does not.
            surplus = max(0, -difference - seen - earlier.surplus)
            settled.append(Settled(key, decided, max(0, difference), surplus))
            if difference < 0:
                self._ahead[key] = _Ahead(-difference, min(-difference, earlier.surplus + surplus))
        return settled
