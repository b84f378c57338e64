"""Decisions are taken note of when their replies are on the way, all of one turn of the event loop at once."""

from __future__ import annotations

import asyncio

from extproc.datapath.later import Later
from extproc.datapath.ports import Decided
from extproc.snapshot.model import NO_OVERLAY
from tests.support.decisions import make_decided, make_decision, make_facts, make_request


class Sink:
    def __init__(self, name: str, heard: list[tuple[str, str]]) -> None:
        self._name = name
        self._heard = heard

    def record(self, decided: Decided) -> None:
        _, request, facts, _, overlay = decided
        assert (request.path, facts, overlay) == (make_request().path, make_facts(), NO_OVERLAY)
        self._heard.append((self._name, decided.decision.decision_id))


def record(later: Later, *ids: str) -> None:
    for each in ids:
        later.record(make_decided(decision=make_decision(decision_id=each)))


def test_each_sink_hears_in_order_what_was_decided_in_a_turn_of_the_loop_and_not_before_it_ends() -> None:
    heard: list[tuple[str, str]] = []
    later = Later([Sink("metrics", heard), Sink("log", heard)])

    async def serve() -> None:
        record(later, "a", "b")
        assert heard == []
        await asyncio.sleep(0)
        assert heard == [("metrics", "a"), ("metrics", "b"), ("log", "a"), ("log", "b")]
        record(later, "c")
        await asyncio.sleep(0)
        assert heard[4:] == [("metrics", "c"), ("log", "c")]

    asyncio.run(serve())


def test_what_waits_when_the_worker_ends_is_handed_on_once() -> None:
    heard: list[tuple[str, str]] = []
    later = Later([Sink("log", heard)])

    async def serve() -> None:
        record(later, "a")
        later.flush()
        assert heard == [("log", "a")]
        await asyncio.sleep(0)

    asyncio.run(serve())
    assert heard == [("log", "a")]
