"""Decisions are taken note of when their replies are on the way, several at once."""

from __future__ import annotations

import asyncio

import pytest

from extproc.datapath.ports import DecisionRecord
from extproc.datapath.sinks import batching_sink
from extproc.datapath.sinks.batching_sink import BatchingSink
from extproc.snapshot.model import NO_OVERLAY
from tests.support.decisions import make_decided, make_decision, make_facts, make_request


class Sink:
    def __init__(self, name: str, heard: list[tuple[str, str]]) -> None:
        self._name = name
        self._heard = heard

    def record(self, decided: DecisionRecord) -> None:
        _, request, facts, _, overlay = decided
        assert (request.path, facts, overlay) == (make_request().path, make_facts(), NO_OVERLAY)
        self._heard.append((self._name, decided.decision.decision_id))


def record(noted: BatchingSink, *ids: str) -> None:
    for each in ids:
        noted.record(make_decided(decision=make_decision(decision_id=each)))


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_each_sink_hears_in_order_what_was_decided_when_a_decision_has_waited_for_long_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[tuple[str, str]] = []
    noted = BatchingSink([Sink("metrics", heard), Sink("log", heard)])
    monkeypatch.setattr(batching_sink, "LONGEST_SECONDS", 0.0)

    async def serve() -> None:
        record(noted, "a", "b")
        assert heard == []
        await turns()
        assert heard == [("metrics", "a"), ("metrics", "b"), ("log", "a"), ("log", "b")]
        record(noted, "c")
        await turns()
        assert heard[4:] == [("metrics", "c"), ("log", "c")]

    asyncio.run(serve())


def test_many_decisions_wait_for_no_more_and_all_of_a_turn_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, str]] = []
    monkeypatch.setattr(batching_sink, "LONGEST_SECONDS", 3600.0)
    noted = BatchingSink([Sink("log", heard)])
    ids = [str(number) for number in range(batching_sink.MANY + 2)]

    async def serve() -> None:
        record(noted, *ids[: batching_sink.MANY - 1])
        await turns()
        assert heard == []
        record(noted, *ids[batching_sink.MANY - 1 :])
        assert heard == []
        await turns()
        assert [each for _, each in heard] == ids

    asyncio.run(serve())


def test_what_waits_when_the_worker_ends_is_handed_on_once(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, str]] = []
    noted = BatchingSink([Sink("log", heard)])
    monkeypatch.setattr(batching_sink, "LONGEST_SECONDS", 0.0)

    async def serve() -> None:
        record(noted, *"abc")
        noted.flush()
        assert heard == [("log", "a"), ("log", "b"), ("log", "c")]
        noted.flush()
        await turns()

    asyncio.run(serve())
    assert len(heard) == 3


def test_an_earlier_time_is_not_that_of_what_comes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, str]] = []
    noted = BatchingSink([Sink("log", heard)])

    async def serve() -> None:
        for before in (noted.flush, lambda: record(noted, *"x" * (batching_sink.MANY - 1))):
            monkeypatch.setattr(batching_sink, "LONGEST_SECONDS", 0.0)
            record(noted, "early")
            before()
            noted.flush()
            heard.clear()
            monkeypatch.setattr(batching_sink, "LONGEST_SECONDS", 3600.0)
            record(noted, "late")
            await turns()
            assert heard == []
            noted.flush()

    asyncio.run(serve())
