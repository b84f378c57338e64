"""The demo's labeller: it tells the diagnosis of each answer, once, some seconds later, when somebody takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from extproc.demo.labeller import DELAY_SECONDS, MOST_LABELS, Labeller
from extproc.demo.traffic import ServedRequest


class FakeTraffic:
    """Answers, and a clock that a test sets."""

    def __init__(self) -> None:
        self.answers: list[ServedRequest] = []
        self.now = 0.0

    def answer(self, sent: float, version: str = "2", **more: Any) -> None:
        known = {"said_sick": True, "decision_id": f"id-{len(self.answers)}", **more}
        self.answers.append(ServedRequest(sent, "u", sick=False, version=version, **known))


def opened_for(traffic: FakeTraffic, port: int) -> Labeller:
    labeller = Labeller(traffic, port)  # type: ignore[arg-type]
    labeller.open("secret")
    return labeller


class Desk:
    """Takes labels over HTTP."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.batches: list[int] = []
        self.tokens: set[str] = set()
        self.status = "200 OK"

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b"":
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
            records = orjson.loads(await reader.readexactly(int(fields["content-length"])))["records"]
            self.tokens.add(fields["authorization"])
            if self.status.startswith("200"):
                self.records += records
                self.batches.append(len(records))
            said = {"counts": {"recorded": len(records)}, "code": "feedback_store_locked"}
            body = orjson.dumps(said)
            writer.write(f"HTTP/1.1 {self.status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)


@asynccontextmanager
async def opened(desk: Desk) -> AsyncIterator[int]:
    server = await asyncio.start_server(desk.take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_label_is_told_when_it_is_known_and_not_before() -> None:
    traffic, desk = FakeTraffic(), Desk()
    async with opened(desk) as port:
        labeller = opened_for(traffic, port)
        traffic.answer(1.0)
        traffic.answer(2.0, said_sick=False)
        traffic.now = 1.0 + DELAY_SECONDS
        await labeller.report()
        assert desk.records == [{"decision_id": "id-0", "prediction": True, "label": False}]
        traffic.now = 2.0 + DELAY_SECONDS
        await labeller.report()
        await labeller.close()
    assert desk.records[1:] == [{"decision_id": "id-1", "prediction": False, "label": False}]
    assert desk.tokens == {"Bearer secret"}
    assert labeller.facts()["codes"] == {"recorded": 2}


async def test_it_knows_nothing_of_answers_before_it_opened_or_without_a_diagnosis() -> None:
    traffic, desk = FakeTraffic(), Desk()
    traffic.answer(0.0)
    async with opened(desk) as port:
        labeller = opened_for(traffic, port)
        traffic.answer(1.0, said_sick=None, error="HTTP 500")
        traffic.answer(1.0, decision_id=None)
        traffic.now = 100.0
        await labeller.report()
        await labeller.close()
    assert desk.records == []


async def test_a_backlog_is_told_in_several_reports() -> None:
    traffic, desk = FakeTraffic(), Desk()
    async with opened(desk) as port:
        labeller = opened_for(traffic, port)
        for _ in range(MOST_LABELS + 1):
            traffic.answer(1.0)
        traffic.now = 100.0
        await labeller.report()
        await labeller.close()
    assert desk.batches == [MOST_LABELS, 1]


async def test_labels_wait_until_somebody_takes_them() -> None:
    traffic, desk = FakeTraffic(), Desk()
    desk.status = "503 Service Unavailable"
    async with opened(desk) as port:
        labeller = opened_for(traffic, port)
        traffic.answer(1.0, "3")
        traffic.now = 100.0
        await labeller.report()
        assert labeller.first_labels("3") is None
        desk.status = "200 OK"
        traffic.now = 101.0
        await labeller.report()
        await labeller.close()
    assert len(desk.records) == 1
    assert labeller.first_labels("3") == 101.0
    assert labeller.first_labels("4") is None


async def test_a_desk_that_is_closed_gets_them_later() -> None:
    traffic, desk = FakeTraffic(), Desk()
    async with opened(desk) as port:
        pass
    labeller = opened_for(traffic, port)
    traffic.answer(1.0)
    traffic.now = 100.0
    await labeller.report()
    assert labeller.reports == []
    server = await asyncio.start_server(desk.take, "127.0.0.1", port)
    await labeller.report()
    await labeller.close()
    server.close()
    assert len(desk.records) == 1
