"""Decisions of which nothing is heard: what workers decided, against what the access log says came of it.

Workers count in the seconds of the wall clock in which they decide, and a decision's id says when it was made, a moment
before. So of what was made in a second, a little may be counted in the next one, never the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from extproc.protect.bounded import Bounded

SLACK_SECONDS: Final = 0.75
"""How long counts and entries of a second may be on their way: workers, Envoy and pipes send them in batches."""

MAX_COUNTS: Final = 100_000
"""Kinds of decisions in all seconds that are waited for, some 30 MB."""


MAX_GOING_ON: Final = 65_536
"""Requests that are known to be under way, and answered; some 10 MB."""


class Key(NamedTuple):
    """A rollout (``namespace/name``), an epoch, an arm and the version that it got."""

    rollout: str
    epoch: int
    arm: str
    version: str


class Settled(NamedTuple):
    """What had become of decisions of one kind and second when they could be waited for no longer."""

    key: Key
    decided: int
    missing: int


class Missing:
    """Decisions by second and by ``Key``, until they are ``limit`` seconds old. Times are Unix seconds.

    Counts begin with the first whole second after ``start``: of decisions before that it heard only in part.
    ``dropped`` are counts, and requests that go on, that had no room; then nothing is known of that second.
    """

    def __init__(self, limit: float, start: float) -> None:
        self._limit = limit
        self._settled_until = int(start)
        self._seconds: dict[int, dict[Key, list[int]]] = {}
        self._size = 0
        self._ahead: Mapping[Key, int] = {}
        self._going_on: Bounded[str, bool] = Bounded(MAX_GOING_ON)
        self._without_room = 0

    @property
    def dropped(self) -> int:
        """See above."""
        return self._without_room + self._going_on.dropped

    def decided(self, second: int, key: Key, count: int, now: float) -> None:
        """Workers decided ``count`` requests of a kind within ``second``."""
        self._count(second, key, 0, count, now)

    def goes_on(self, decision_id: str, at: float, key: Key, now: float) -> None:
        """The request of a decision made at ``at`` is answered and goes on: it is not missing, whenever it ends."""
        if self._going_on.find(decision_id) is not None or self.seen(at, key, now):
            self._going_on.use(decision_id, lambda: True)

    def ended(self, decision_id: str, at: float, key: Key, now: float) -> bool:
        """The outcome of a decision made at ``at`` came; False if it came too late to be waited for."""
        return self._going_on.forget(decision_id) or self.seen(at, key, now)

    def seen(self, at: float, key: Key, now: float) -> bool:
        """A decision made at ``at`` came to something; False if that came too late to be waited for."""
        if now - at > self._limit + SLACK_SECONDS:
            return False
        self._count(int(at), key, 1, 1, now)
        return True

    def _count(self, second: int, key: Key, which: int, count: int, now: float) -> None:
        if not self._settled_until < second <= now + 1:
            return
        of_second = self._seconds.setdefault(second, {})
        counts = of_second.get(key)
        if counts is None:
            if self._size >= MAX_COUNTS:
                self._without_room += 1
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
            ahead = self._ahead if second - 1 == self._settled_until else {}
            self._settled_until = second
            differences = {key: decided - seen - ahead.get(key, 0) for key, (decided, seen) in counts.items()}
            self._ahead = {key: -difference for key, difference in differences.items() if difference < 0}
            yield second, [Settled(key, decided, max(0, differences[key])) for key, (decided, _) in counts.items()]
        self._settled_until = max(self._settled_until, last)
