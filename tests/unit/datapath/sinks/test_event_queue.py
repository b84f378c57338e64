"""The queue before a sink: what is put in comes out on a thread of its own, and what cannot is dropped and counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from extproc.datapath.sinks.event_queue import MAX_BATCH_BYTES, Event, EventQueue
from extproc.testing.sink import MemorySink


class Moody(MemorySink):
    """A sink that fails while ``away``, waits while ``stuck``, and refuses what begins with a minus."""

    def __init__(self) -> None:
        super().__init__([])
        self.away = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.asked: list[list[bytes]] = []
        self.threads = set[int]()
        self.reopened = threading.Event()

    def write(self, events: Sequence[bytes]) -> int:
        self.threads.add(threading.get_ident())
        self.asked.append(list(events))
        self.free.wait()
        self._fail()
        kept = [event for event in events if not event.startswith(b"-")]
        super().write(kept)
        return len(events) - len(kept)

    def reopen(self) -> None:
        self.threads.add(threading.get_ident())
        self.reopened.set()
        self._fail()

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self._fail()

    def _fail(self) -> None:
        if self.away.is_set():
            raise ConnectionError("nobody is there")


def queue_before(sink: Moody, **changes: Any) -> EventQueue:
    return EventQueue("moody", sink, **{"gather_seconds": 0.0, "retry_seconds": 0.0, **changes})


def put(queue: EventQueue, *events: bytes) -> None:
    for event in events:
        if queue.admit():
            queue.put(Event(event))


def wait_for(condition: Callable[[], object]) -> None:
    """The thread has its own pace: look again until it got there, a minute at most."""
    pause = threading.Event()
    for _ in range(12_000):
        if condition():
            return
        pause.wait(0.005)
    pytest.fail("the thread never got there")


def test_closing_hands_on_what_is_queued_in_order_and_in_batches() -> None:
    sink = Moody()
    sink.free.clear()
    queue = queue_before(sink)
    put(queue, b"first")
    wait_for(lambda: sink.asked)
    events = [b"%d" % number + b" " * (MAX_BATCH_BYTES // 4) for number in range(6)]
    put(queue, *events)
    sink.free.set()
    queue.close(5.0)
    assert sink.taken == [b"first", *events]
    assert [len(batch) for batch in sink.asked] == [1, 4, 2]
    assert (queue.drops, queue.errors) == (0, 0)
    assert threading.get_ident() not in sink.threads
    assert len(sink.threads) == 1


def test_a_full_queue_drops_and_counts() -> None:
    sink = Moody()
    sink.away.set()
    queue = queue_before(sink, max_events=10, retry_seconds=60.0)
    put(queue, b"in the sink's hands")
    wait_for(lambda: queue.errors == 1)
    put(queue, *[b"x"] * 25)
    assert queue.drops == 15
    queue.close(5.0)
    assert queue.drops == 26


def test_drops_are_told_once_and_so_is_their_end(caplog: pytest.LogCaptureFixture) -> None:
    sink = Moody()
    sink.free.clear()
    queue = queue_before(sink, max_events=2)
    put(queue, b"in its hands")
    wait_for(lambda: sink.asked)
    put(queue, *[b"x"] * 5)
    sink.free.set()
    wait_for(lambda: len(caplog.messages) == 1)
    put(queue, b"y")
    queue.close(60.0)
    told, over = caplog.messages
    assert told.startswith("sink moody, room: decisions are dropped: more than 2 events or ")
    assert over.startswith("sink moody, room: well again after ")


def test_a_queue_is_full_of_a_few_large_events_too() -> None:
    sink = Moody()
    sink.away.set()
    queue = queue_before(sink, max_bytes=250_000, retry_seconds=0.001)
    put(queue, b"x")
    wait_for(lambda: queue.errors)
    put(queue, *[b"y" * 100_000] * 3)
    assert queue.drops == 0
    put(queue, b"y" * 100_000, b"x")
    assert queue.drops == 2
    sink.away.clear()
    wait_for(lambda: len(sink.taken) == 4)
    put(queue, b"y" * 100_000)
    queue.close(5.0)
    assert queue.drops == 2


def test_a_sink_that_comes_back_gets_what_was_kept_and_its_failure_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Moody()
    sink.away.set()
    queue = queue_before(sink, retry_seconds=0.001)
    put(queue, b"kept")
    wait_for(lambda: queue.errors > 2)
    put(queue, b"queued")
    sink.away.clear()
    wait_for(lambda: len(sink.taken) == 2)
    queue.close(5.0)
    assert sink.taken == [b"kept", b"queued"]
    assert queue.drops == 0
    told, over = caplog.messages
    assert over.startswith("sink moody: well again after ")
    assert told == "sink moody: events wait, because they cannot be taken: ConnectionError: nobody is there"


def test_a_sink_that_hangs_holds_up_neither_who_puts_in_nor_the_end() -> None:
    sink = Moody()
    sink.free.clear()
    queue = queue_before(sink, max_events=2)
    put(queue, b"in its hands")
    wait_for(lambda: sink.asked)
    put(queue, b"waits", b"waits", b"finds no room")
    queue.close(0.0)
    assert (sink.taken, queue.drops) == ([], 4)
    sink.free.set()


def test_what_a_sink_refuses_for_good_is_dropped_and_holds_up_nothing() -> None:
    sink = Moody()
    queue = queue_before(sink)
    put(queue, b"a", b"-too large", b"b")
    queue.close(5.0)
    assert (sink.taken, queue.drops, queue.errors) == ([b"a", b"b"], 1, 0)


def test_a_sink_that_cannot_be_opened_again_or_closed_loses_nothing_else() -> None:
    sink = Moody()
    sink.away.set()
    queue = queue_before(sink)
    queue.reopen()
    wait_for(lambda: queue.errors == 1)
    sink.away.clear()
    put(queue, b"a")
    wait_for(lambda: sink.taken)
    sink.away.set()
    queue.close(5.0)
    assert (sink.taken, queue.drops, queue.errors) == ([b"a"], 0, 2)


def test_a_plan_goes_before_the_first_event_of_it_and_again_when_the_sink_was_opened_again() -> None:
    sink = Moody()
    queue = queue_before(sink)
    of_plan = [Event(b"%d" % number, plan) for number, plan in enumerate((b"p", b"p", None, b"q", b"p"))]
    for event in of_plan[:3]:
        queue.put(event)
    wait_for(lambda: sink.taken == [b"p", b"0", b"1", b"2"])
    sink.away.set()
    queue.put(of_plan[3])
    wait_for(lambda: queue.errors)  # it waits in a batch, and is handed on after the sink was opened again
    queue.reopen()
    wait_for(sink.reopened.is_set)
    queue.put(of_plan[4])
    sink.away.clear()
    queue.close(5.0)
    assert sink.taken[4:] == [b"q", b"3", b"p", b"4"]


def test_a_batch_has_a_megabyte_with_the_plans_that_are_told_in_it() -> None:
    sink = Moody()
    sink.free.clear()
    queue = queue_before(sink)
    put(queue, b"first")
    wait_for(lambda: sink.asked)
    for number in range(40):
        queue.put(Event(b"%d" % number, b"%d" % number + b" " * (MAX_BATCH_BYTES // 10)))
    sink.free.set()
    queue.close(5.0)
    assert max(sum(map(len, batch)) for batch in sink.asked) < 1.2 * MAX_BATCH_BYTES


class Paced(Moody):
    """A sink that would gather for ever, or until there are 100 bytes, and notes how often in a row it failed."""

    enough_bytes = 100

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[int] = []

    def gather_seconds(self) -> float:
        return 1e6

    def retry_seconds(self, failures: int) -> float:
        self.failures.append(failures)
        return 0.001


@pytest.mark.parametrize("events", [[b"x" * 100], [b"y"] * 5], ids=["enough bytes", "half of the room"])
def test_a_sink_with_a_pace_of_its_own_gathers_until_there_is_enough_or_half_of_the_room_is_used(
    events: list[bytes],
) -> None:
    sink = Paced()
    queue = EventQueue("paced", sink, max_events=10)
    put(queue, b"few", b"few")
    assert sink.taken == []
    put(queue, *events)
    wait_for(lambda: len(sink.taken) == 2 + len(events))
    put(queue, b"few")
    queue.close(60.0)
    assert sink.taken[-1] == b"few"
    assert queue.drops == 0


def test_a_sink_is_told_how_often_it_failed_in_a_row() -> None:
    sink = Paced()
    queue = EventQueue("paced", sink, max_events=2)
    sink.away.set()
    put(queue, b"a")
    wait_for(lambda: len(sink.failures) >= 3)
    sink.away.clear()
    wait_for(lambda: sink.taken == [b"a"])
    before = len(sink.failures)
    sink.away.set()
    put(queue, b"b")
    wait_for(lambda: len(sink.failures) >= before + 3)
    sink.away.clear()
    queue.close(60.0)
    assert sink.failures == [*range(1, before + 1), *range(1, len(sink.failures) - before + 1)]


def test_at_the_end_a_sink_that_is_away_is_waited_for_as_long_as_there_is_time() -> None:
    sink = Moody()
    sink.away.set()
    queue = queue_before(sink, retry_seconds=0.001)
    put(queue, b"a", b"b")
    ending = threading.Thread(target=queue.close, args=(60.0,))
    ending.start()
    wait_for(lambda: queue.errors > 3)
    sink.away.clear()
    ending.join()
    assert (sink.taken, queue.drops) == ([b"a", b"b"], 0)

    sink.away.set()
    queue = queue_before(sink, retry_seconds=0.001)
    put(queue, b"c")
    queue.close(0.05)
    assert queue.drops == 1
