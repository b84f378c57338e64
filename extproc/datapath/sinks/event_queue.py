"""What stands before an ``EventSink``: a bounded queue, and a thread that hands events on in batches.

The event loop puts an event into the queue and goes on; whatever the sink does, and however long, it does on the
thread. What it cannot keep up with is dropped and counted, never waited for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from extproc.datapath.ports import EventSink, Pace
from extproc.trouble import Troubles

logger = logging.getLogger(__name__)

MAX_EVENTS: Final = 10_000
MAX_BYTES: Final = 64 << 20
"""Ordinary events reach the other limit first."""

MAX_BATCH_BYTES: Final = 1 << 20
"""A batch ends with the event that reaches it."""

MAX_PLANS: Final = 20_000
"""Plans that are known to be told; with more, they are told again."""

GATHER_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 1.0

_LOOK_SECONDS: Final = 0.1
"""How often is looked whether there is enough to hand on, while events are gathered for longer."""


class SteadyPace(NamedTuple):
    """The ``Pace`` of a sink that has none of its own: little is gathered, and failures are as far apart."""

    gather: float
    retry: float
    enough_bytes: int = MAX_BATCH_BYTES

    def gather_seconds(self) -> float:
        """Always the same."""
        return self.gather

    def retry_seconds(self, failures: int) -> float:
        """Always the same."""
        return self.retry


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event as JSON, and the plan that it refers to, an event of its own; None where nothing was planned.

    Thousands may wait: the garbage collector goes through none of them.
    """

    body: bytes
    plan: bytes | None = None


class EventQueue:
    """Hands events on to ``sink``, which ``name`` is what the log calls.

    A plan goes before the first event that refers to it, once until the sink is opened again: whatever was opened in
    between stands alone.

    At most ``max_events`` wait, and none is added to ``max_bytes`` of them; beside them one batch is in the sink's
    hands. A batch that the sink failed to take is handed to it again after ``retry_seconds``, for as long as it takes,
    or as long as ``close`` waits. A sink that is a ``Pace``, or ``pace``, says when instead.
    ``drops`` counts events that were left out, ``errors`` what the sink failed to do; neither reaches who puts events
    in. ``admit``, ``put``, ``reopen`` and ``close`` belong to the event loop. ``on_room`` is told, on the thread, that
    there may be ``room`` again.
    """

    def __init__(
        self,
        name: str,
        sink: EventSink,
        *,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
        gather_seconds: float = GATHER_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        pace: Pace | None = None,
    ) -> None:
        self.name = name
        self.errors = 0
        self.on_room: Callable[[], None] | None = None
        self._sink = sink
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._pace = pace or (sink if isinstance(sink, Pace) else SteadyPace(gather_seconds, retry_seconds))
        self._failures = 0
        self._until = 0.0  # when closing has had its time
        self._queue: deque[Event] = deque()
        self._taken: list[Event] = []
        self._batch: list[bytes] = []  # of what is taken, with the plans
        self._told: set[bytes] = set()
        self._bytes_in = self._bytes_out = 0  # each counted by one thread alone, so without a lock
        self._turned_away = self._unmade = self._lost = 0  # the same
        self._told_drops = 0
        self._troubles, self._full = Troubles(logger.warning), Troubles(logger.warning)
        self._idle = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._reopen = False
        self._thread = threading.Thread(target=self._hand_on_for_ever, name=f"sink-{name}", daemon=True)
        self._thread.start()

    @property
    def drops(self) -> int:
        """Events that were left out."""
        return self._turned_away + self._unmade + self._lost

    def admit(self) -> bool:
        """Whether there is room for one more event; if there is none, one more is dropped."""
        if len(self._queue) < self._max_events and self._bytes_in - self._bytes_out < self._max_bytes:
            return True
        self._turned_away += 1
        return False

    @property
    def room(self) -> int:
        """For how many more events there is room, those counted in that the sink has in hand and may give back."""
        if self._bytes_in - self._bytes_out >= self._max_bytes:
            return 0
        return self._max_events - len(self._queue) - len(self._taken)

    def put(self, event: Event) -> None:
        """Queue an event that was admitted."""
        self._bytes_in += len(event.body)
        self._queue.append(event)
        if self._idle:
            self._idle = False
            self._wake.set()

    def drop(self) -> None:
        """Count an event that was admitted and cannot be made."""
        self._unmade += 1

    def reopen(self) -> None:
        """Have the sink open again what it opened by name, before it takes what comes now."""
        self._reopen = True
        self._wake.set()

    def close(self, within: float) -> None:
        """Hand on what is queued and close the sink; wait for that at most ``within`` seconds, and drop the rest."""
        self._until = time.monotonic() + within
        self._closing.set()
        self._wake.set()
        self._thread.join(within)
        if self._thread.is_alive():
            self._turned_away += len(self._taken) + len(self._queue)

    def _hand_on_for_ever(self) -> None:
        while True:
            closing = self._closing.is_set()
            if self._reopen:
                self._reopen = False
                self._attempt(self._sink.reopen)
                self._put_back()
            drained = self._drain()
            self._tell_drops()
            if closing and (drained or not self._pause_before_the_end()):
                self._lost += len(self._taken) + len(self._queue)
                self._attempt(self._sink.close)
                return
            if not closing:
                self._sleep(drained=drained)

    def _sleep(self, *, drained: bool) -> None:
        """Until there is a batch's worth to hand on; without a wake-up while there is nothing."""
        if not drained:
            self._closing.wait(self._pace.retry_seconds(self._failures))
            return
        if not self._queue:
            self._wake.clear()
            self._idle = True
            if not self._queue and not self._closing.is_set() and not self._reopen:
                self._wake.wait()
            self._idle = False
        self._gather()

    def _gather(self) -> None:
        """Wait for more, until there is enough, or half of the room is used up."""
        now = time.monotonic()
        until = now + self._pace.gather_seconds()
        while now < until and not self._reopen and not self._has_enough():
            if self._closing.wait(min(until - now, _LOOK_SECONDS)):
                return
            now = time.monotonic()

    def _has_enough(self) -> bool:
        waiting = self._bytes_in - self._bytes_out
        return waiting >= min(self._pace.enough_bytes, self._max_bytes // 2) or 2 * len(self._queue) >= self._max_events

    def _pause_before_the_end(self) -> bool:
        """Wait to hand on once more what was not taken, unless the time is up before."""
        pause = self._pace.retry_seconds(self._failures)
        if time.monotonic() + pause >= self._until:
            return False
        time.sleep(pause)
        return True

    def _drain(self) -> bool:
        """Hand on the batch left over and all that is queued; whether all of it was taken."""
        while self._batch or self._queue:
            if not self._batch:
                self._take()
            if not self._attempt(self._write):
                return False
        return True

    def _tell_drops(self) -> None:
        """That decisions found no room since it was last looked, and that they do again."""
        drops = self._turned_away
        found = (f"decisions are dropped: more than {self._max_events} events or {self._max_bytes} bytes wait",)
        self._full.note(f"sink {self.name}, room", *(found if drops > self._told_drops else ()))
        self._told_drops = drops

    def _take(self) -> None:
        size = 0
        while self._queue and size < MAX_BATCH_BYTES:
            event = self._queue.popleft()
            self._taken.append(event)
            self._bytes_out += len(event.body)
            if event.plan is not None and event.plan not in self._told:
                self._remember(event.plan)
                self._batch.append(event.plan)
                size += len(event.plan)
            self._batch.append(event.body)
            size += len(event.body)

    def _remember(self, plan: bytes) -> None:
        if len(self._told) >= MAX_PLANS:
            self._told.clear()
        self._told.add(plan)

    def _put_back(self) -> None:
        """Begin anew: what comes now may stand elsewhere, where no plan is told yet."""
        self._queue.extendleft(reversed(self._taken))
        self._bytes_out -= sum(len(event.body) for event in self._taken)
        self._taken, self._batch = [], []
        self._told.clear()

    def _write(self) -> None:
        self._lost += self._sink.write(self._batch)
        self._taken, self._batch = [], []
        if self.on_room is not None:
            self.on_room()

    def _attempt(self, call: Callable[[], None]) -> bool:
        """Whether the sink did it. Of failures in a row the first is told, with its own words, and their end."""
        try:
            call()
        except Exception as error:  # somebody else's code, perhaps: whatever it raises, the thread lives on
            self.errors += 1
            self._failures += 1
            if not self._troubles.subjects:
                why = f"events wait, because they cannot be taken: {type(error).__name__}: {error}"
                self._troubles.note(f"sink {self.name}", why)
            return False
        self._failures = 0
        self._troubles.note(f"sink {self.name}")
        return True
