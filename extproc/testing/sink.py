"""The contract of a sink of decision events, and one in memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Final

from extproc.datapath.ports import EventSink
from extproc.datapath.sinks.event_queue import Event, EventQueue
from extproc.errors import DropoutError

_SECONDS: Final = 20.0


class MemorySink:
    """Keeps the events that it takes in ``taken``, a list that several may share."""

    def __init__(self, taken: list[bytes]) -> None:
        self.taken = taken

    def check(self) -> None:
        """Nothing can be wrong."""

    def write(self, events: Sequence[bytes]) -> int:
        """Keep them."""
        self.taken.extend(events)
        return 0

    def reopen(self) -> None:
        """Nothing was opened."""

    def close(self) -> None:
        """Nothing to let go of."""


class EventSinkContract:
    """What every sink does."""

    def make(self) -> EventSink:
        """A sink, as each worker has one; all of a test's deliver to the same place."""
        raise NotImplementedError

    def taken(self) -> list[bytes]:
        """All events that were delivered since the test began, in any order."""
        raise NotImplementedError

    def make_unreachable(self) -> EventSink | None:
        """A sink whose server or folder is not there; None where that cannot be."""
        raise NotImplementedError

    def test_every_event_is_delivered_once_and_as_it_is(self) -> None:
        """One event, many, a megabyte of them and a large one; whatever stands in them, byte by byte."""
        odd = '{"text":"ü\\u2028\\n\\r\\u0000, \u2028 and a \U0001f600"}'.encode()
        batches = [[odd], [_event(number) for number in range(1000)], [_event(1, 1 << 20)], [_event(2, 300_000)] * 3]
        with _closed(self.make()) as sink:
            sink.check()
            for batch in batches:
                assert sink.write(batch) == 0
        assert Counter(self.taken()) == Counter(event for batch in batches for event in batch)

    def test_workers_who_deliver_at_once_do_not_mix_their_events(self) -> None:
        """Each has a sink of its own, on a thread of its own."""

        def work(worker: int) -> list[bytes]:
            events = [_event(f"{worker}-{number}", 100 * number) for number in range(100)]
            with _closed(self.make()) as sink:
                for start in range(0, len(events), 7):
                    assert sink.write(events[start : start + 7]) == 0
            return events

        with ThreadPoolExecutor() as workers:
            delivered = [event for events in workers.map(work, range(4)) for event in events]
        assert Counter(self.taken()) == Counter(delivered)

    def test_opening_again_loses_nothing(self) -> None:
        """Before the first event, between two, and twice in a row."""
        with _closed(self.make()) as sink:
            for number in range(3):
                sink.reopen()
                sink.reopen()
                assert sink.write([_event(number)]) == 0
        assert Counter(self.taken()) == Counter(map(_event, range(3)))

    def test_behind_its_queue_it_gets_everything_on_a_thread_of_its_own(self) -> None:
        """As a worker has it: nothing is dropped, and it ends when it is told to."""
        queue = EventQueue("contract", self.make())
        events = [_event(number) for number in range(2000)]
        for number, event in enumerate(events):
            assert queue.admit()
            queue.put(Event(event))
            if number == 1000:
                queue.reopen()
        queue.close(_SECONDS)
        assert (queue.drops, queue.errors) == (0, 0)
        assert Counter(self.taken()) == Counter(events)

    def test_one_that_is_not_there_raises_and_does_not_hang(self) -> None:
        """Each time it is to deliver; when it is checked, only with a code that a person can look up. It closes."""
        sink = self.make_unreachable()
        if sink is None:
            return
        raised: list[Exception] = []

        def deliver() -> None:
            try:
                sink.write([_event(0)])
            except Exception as error:  # which is what the contract is about
                raised.append(error)
            sink.close()

        with suppress(DropoutError):
            sink.check()
        delivering = threading.Thread(target=deliver, daemon=True)
        delivering.start()
        delivering.join(_SECONDS)
        assert not delivering.is_alive()
        assert raised

    def test_one_that_was_never_asked_closes(self) -> None:
        """Twice, too."""
        with _closed(self.make()) as sink:
            sink.close()


def _event(number: int | str, size: int = 0) -> bytes:
    return f'{{"decision_id":"d-{number}","padding":"{"x" * size}"}}'.encode()


@contextmanager
def _closed(sink: EventSink) -> Iterator[EventSink]:
    try:
        yield sink
    finally:
        sink.close()
