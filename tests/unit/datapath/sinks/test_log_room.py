"""A full decision log: who waits for room and for how long, and who is not exposed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from extproc.datapath.model import Request
from extproc.datapath.pipeline import Pipeline
from extproc.datapath.ports import DecisionRecord
from extproc.datapath.sinks import log_room
from extproc.datapath.sinks.event_queue import Event, EventQueue
from extproc.datapath.sinks.log_room import StableIfFull, WaitIfFull
from extproc.names import ARM_EXCLUDED, Reason
from tests.support.clock import FakeClock
from tests.support.ids import make_ids
from tests.unit.datapath.sinks.test_event_queue import Moody, put, queue_before, wait_for
from tests.unit.datapath.test_replay import canary, snapshot

LONG = 60.0


@pytest.fixture
def sink() -> Moody:
    """One that is stuck until it is set free."""
    made = Moody()
    made.free.clear()
    return made


def full(sink: Moody, **changes: Any) -> EventQueue:
    """A queue with room for three events, one of which is in the sink's hands."""
    queue = queue_before(sink, max_events=3, **changes)
    put(queue, b"in its hands")
    wait_for(lambda: sink.asked)
    put(queue, b"waits", b"waits")
    return queue


def ended(sink: Moody, queue: EventQueue) -> None:
    sink.free.set()
    queue.close(LONG)


async def test_what_is_noted_and_not_yet_queued_takes_room_too(sink: Moody) -> None:
    queue, noted = queue_before(sink, max_events=3), 0
    room = StableIfFull([queue], lambda: noted)
    assert await room.may_expose(LONG)
    noted = 2
    assert await room.may_expose(LONG)
    noted = 3
    assert not await room.may_expose(LONG)
    ended(sink, queue)


async def test_the_fullest_sink_counts_and_what_the_sink_may_give_back(sink: Moody) -> None:
    queues = [full(sink), queue_before(Moody())]
    assert not await StableIfFull(queues, lambda: 0).may_expose(LONG)
    assert await StableIfFull(queues[1:], lambda: 0).may_expose(LONG)
    for queue in queues:
        ended(sink, queue)


async def test_a_queue_of_large_events_has_no_room_either(sink: Moody) -> None:
    queue = queue_before(sink, max_bytes=10)
    put(queue, b"x")
    wait_for(lambda: sink.asked)
    put(queue, b"y" * 10)
    assert not await StableIfFull([queue], lambda: 0).may_expose(LONG)
    ended(sink, queue)


async def test_decisions_wait_for_room_in_the_order_in_which_they_came(sink: Moody) -> None:
    queue = full(sink)
    room = WaitIfFull([queue], lambda: 0)
    went_on: list[int] = []

    async def decide(number: int) -> None:
        assert await room.may_expose(LONG)
        went_on.append(number)
        assert queue.admit()
        queue.put(Event(b"%d" % number))

    decisions = [asyncio.create_task(decide(number)) for number in range(7)]
    await asyncio.sleep(0)
    assert went_on == []
    sink.free.set()
    await asyncio.gather(*decisions)
    queue.close(LONG)
    assert went_on == list(range(7))
    assert sink.taken[3:] == [b"%d" % number for number in range(7)]
    assert queue.drops == 0


async def test_who_waited_in_vain_goes_on_and_its_event_is_dropped(sink: Moody) -> None:
    queue = full(sink)
    room = WaitIfFull([queue], lambda: 0)
    assert await room.may_expose(0.0)
    put(queue, b"as many as it may give back", b"finds none")
    assert queue.drops == 1
    ended(sink, queue)
    assert await room.may_expose(LONG)  # nobody stands in the way of who comes later


async def test_a_request_that_is_gone_leaves_its_turn_to_the_next(sink: Moody) -> None:
    queue = full(sink)
    room = WaitIfFull([queue], lambda: 0)
    first, second = (asyncio.create_task(room.may_expose(LONG)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    sink.free.set()
    assert await second
    assert first.cancelled()
    queue.close(LONG)


async def test_as_many_wait_as_may(sink: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_room, "MAX_WAITING", 1)
    queue = full(sink)
    room = WaitIfFull([queue], lambda: 0)
    waits = asyncio.create_task(room.may_expose(LONG))
    await asyncio.sleep(0)
    assert await room.may_expose(LONG)  # at once, though nothing has room
    assert not waits.done()
    ended(sink, queue)
    assert await waits


@pytest.mark.parametrize(("exposes", "version", "reason", "arm"), [
    (True, "4", Reason.WEIGHT, "canary"),
    (False, "3", Reason.LOG_FULL, ARM_EXCLUDED),
])  # fmt: skip
async def test_what_cannot_be_logged_is_not_exposed(exposes: bool, version: str, reason: Reason, arm: str) -> None:
    asked: list[float] = []

    async def may_expose(within: float) -> bool:
        asked.append(within)
        return exposes

    recorded: list[DecisionRecord] = []
    holder = SimpleNamespace(current=snapshot(canary(10_000)))
    pipeline = Pipeline(
        holder,
        SimpleNamespace(current=None),
        None,
        make_ids(),
        FakeClock(),
        SimpleNamespace(record=recorded.append),
        3.0,
        SimpleNamespace(may_expose=may_expose),
    )
    await pipeline.process(Request("POST", "/v1/models/fraud-detector", "models", "http", {"x-user-id": b"alice"}))
    decision = recorded[0].decision
    assert (decision.version, decision.reason, decision.arm) == (version, reason, arm)
    await pipeline.process(Request("POST", "/elsewhere", "models", "http", {}))
    assert recorded[1].decision.reason == Reason.NO_MATCH
    assert all(0 < within <= 3.0 for within in asked)
    assert len(asked) == 2
