"""Which decisions the log has told of: an event counts once, whoever tells of it again.

Whoever may write to the access log can write whatever ends he likes, but not for ids of his own making: they open with
our keys alone. So what he can do is bounded by how often one id counts, and it counts once.

**What an id's end says first, wins.** Envoy tells of an end as it comes, so the first is the true one unless somebody
is faster than Envoy's own buffer, with an id whose answer he has just been given. If the worst won, each id ever seen
could be turned into a failure for as long as it is remembered, and what was counted would have to be taken back from
windows, rows and sketches, which do not keep it one by one.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final

from extproc.protect.bounded import Bounded

REMEMBERED_SECONDS: Final = 300.0
"""For how long an id that ended is remembered. One that is older when its end is told is taken only if it was known to
go on: with ``access_log_flush_interval`` Envoy tells of every request that does."""

LIMITS_REMEMBERED: Final = 2.0
"""As many times the limit of outcomes are remembered if that is longer: what is missing may still come."""

PARTS: Final = 8
MAX_REMEMBERED: Final = 1 << 20
"""Ids at most, some 100 MB with the sets that they are in; room for 17 s of 60 000 entries a second, which is more than
an observer takes. Memory follows the traffic: 500 requests a second are 14 MB."""

MAX_GOING_ON: Final = 65_536
"""Requests that are known to be under way, and answered; some 10 MB."""


class News(StrEnum):
    """What is known of a decision whose id the log names."""

    FIRST = "first"
    GOING_ON = "going_on"
    REPEATED = "repeated"
    EXPIRED = "expired"


# An attribute of an Enum, and its hash, cost more than all that is looked up here.
FIRST: Final = News.FIRST
GOING_ON: Final = News.GOING_ON
REPEATED: Final = News.REPEATED
EXPIRED: Final = News.EXPIRED


class HeardDecisions:
    """The decisions of which the log told. Keys are those of ``decision_id.Opened``, times are Unix seconds.

    Ids are remembered by when they were told, in parts that are forgotten whole; what is older than what was forgotten
    does not count. So each counts once, in bounded space: with more traffic than there is room for, what is told late
    is lost, and nothing is counted twice. What was decided before ``start`` does not count either, because an observer
    before this one may have counted it.

    Of ids from the future, which there are while a clock is set back, each counts once in the time that is remembered.
    """

    def __init__(self, limit: float, start: float) -> None:
        self._window = max(REMEMBERED_SECONDS, LIMITS_REMEMBERED * limit)
        self._parts: deque[tuple[float, set[bytes]]] = deque()
        self._part: set[bytes] = set()
        self._began = start
        self._forgotten = int(start * 1000) / 1000  # ids count in milliseconds
        self._going_on: Bounded[bytes, bool] = Bounded(MAX_GOING_ON)

    @property
    def dropped(self) -> int:
        """Requests that go on and had no room."""
        return self._going_on.dropped

    def news(self, key: bytes, at: float, now: float) -> News:
        """What is known of the decision ``key``, made at ``at``."""
        if self._going_on.find(key) is not None:
            return GOING_ON
        if at < now - self._window or at < self._forgotten <= now:
            return EXPIRED
        if key in self._part:
            return REPEATED
        for _, part in self._parts:
            if key in part:
                return REPEATED
        return FIRST

    def goes_on(self, key: bytes) -> None:
        """Its answer has begun, and has not ended."""
        self._going_on.use(key, _yes)

    def ended(self, key: bytes, now: float) -> None:
        """Its end was told."""
        self._going_on.forget(key)
        self._part.add(key)
        if len(self._part) >= MAX_REMEMBERED // PARTS or now - self._began >= self._window / PARTS:
            self._turn(now)

    def _turn(self, now: float) -> None:
        """Begin another part, and forget those that are too old or too many.

        What a part holds was made before the part ended, so whatever is older than that may be in it.
        """
        self._parts.append((now, self._part))
        self._part, self._began = set(), now
        while len(self._parts) >= PARTS or self._parts[0][0] < now - self._window:
            self._forgotten, _ = self._parts.popleft()


def _yes() -> bool:
    return True
