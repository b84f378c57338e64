"""The labeller, as a laboratory would be one: it learns of every answer, and some seconds later it tells who was right.

It names an answer by the id that Envoy gave to the user, and nothing else: which version answered is for Dropout to
know.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from extproc.demo.traffic import ServedRequest, Traffic, UserConnection

PATH: Final = "/v1/feedback"
DELAY_SECONDS: Final = 2.5
"""From an answer to its label."""
REPORT_SECONDS: Final = 0.5
"""From one report to the next."""
MOST_LABELS: Final = 500
"""In one report."""


@dataclass(frozen=True, slots=True)
class LabelBatch:
    """Labels that were sent together: when they had arrived (seconds of the traffic), and for which answers."""

    arrived: float
    answers: Sequence[ServedRequest]
    codes: Mapping[str, int]


class Labeller:
    """Reports the diagnoses of all answers since it opened. While nobody takes them, they wait."""

    def __init__(self, traffic: Traffic, port: int) -> None:
        self.reports: list[LabelBatch] = []
        self._traffic = traffic
        self._connection = UserConnection("127.0.0.1", port)
        self._host = f"127.0.0.1:{port}"
        self._headers: Mapping[str, str] = {}
        self._next = 0
        self._task: asyncio.Task[None] | None = None

    def open(self, token: str) -> None:
        """Take note of the answers from now on; who shows ``token`` may report."""
        self._headers = {
            "host": self._host,
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
        }
        self._next = len(self._traffic.answers)

    def go_on(self) -> None:
        """Report again and again."""
        self._task = asyncio.create_task(self._go_on())

    async def close(self) -> None:
        """Report no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._connection.close()

    def codes(self) -> dict[str, int]:
        """How many labels were answered with which code."""
        return dict(sum((Counter(report.codes) for report in self.reports), Counter()))

    def facts(self) -> dict[str, Any]:
        """What it reported, as ``build/demo.json`` has it."""
        codes = self.codes()
        return {"reported": sum(codes.values()), "codes": codes, "delay_seconds": DELAY_SECONDS}

    def first_labels(self, version: str) -> float | None:
        """When the first labels of answers by ``version`` had arrived (seconds of the traffic)."""
        return next(
            (report.arrived for report in self.reports if any(answer.version == version for answer in report.answers)),
            None,
        )

    async def report(self) -> None:
        """Tell what is known by now, as far as somebody takes it."""
        while answers := self._known():
            told = [answer for answer in answers if answer.said_sick is not None and answer.decision_id is not None]
            if told:
                codes = await self._send(told)
                if codes is None:
                    return
                self.reports.append(LabelBatch(self._traffic.now, told, codes))
            self._next += len(answers)

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await self.report()

    def _known(self) -> list[ServedRequest]:
        """The next answers whose diagnosis is known by now; an answer is noted when it ended, so they are in order."""
        until = self._traffic.now - DELAY_SECONDS
        waiting = self._traffic.answers[self._next : self._next + MOST_LABELS]
        return list(itertools.takewhile(lambda answer: answer.ended <= until, waiting))

    async def _send(self, answers: Sequence[ServedRequest]) -> Mapping[str, int] | None:
        """What became of the labels, by code; None if nobody could take them."""
        records = [
            {"decision_id": answer.decision_id, "prediction": answer.said_sick, "label": answer.sick}
            for answer in answers
        ]
        try:
            response = await self._connection.post(PATH, self._headers, orjson.dumps({"records": records}))
            said: dict[str, Any] = orjson.loads(response.body)
        except (OSError, EOFError, ValueError, TimeoutError):
            return None
        if response.status == 503:
            return None
        counts: dict[str, int] = said["counts"] if response.status == 200 else {said["code"]: len(answers)}
        return counts
