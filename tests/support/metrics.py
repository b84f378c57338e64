"""Metric servers that tests own: what documents say to them, and answers that come when a test gives them."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from importlib.metadata import EntryPoint
from queue import Queue
from typing import Any

import pytest

from extproc.adapters.prometheus.document import PrometheusSpec
from extproc.control.analysis.ports import MetricQuery, Reading
from extproc.resources.providers import table
from extproc.testing.metrics import SUBJECT
from tests.support.process import PATIENCE
from tests.support.templates import metric


def install_memory(patched: pytest.MonkeyPatch) -> None:
    """Somebody installed a plug-in that brings the provider ``memory``."""
    entry = EntryPoint("memory", "extproc.testing.metrics:PROVIDER", "dropout.metric_documents")
    patched.setattr(table, "_others", lambda: {entry.name: entry})


def number_of(server: str, **changes: Any) -> dict[str, Any]:
    """A metric called ``remote`` that must be below 1."""
    asked = {"provider": {"memory": {"server": server, "name": "n"}}, "failureCondition": "result >= 1.0"}
    return metric({"name": "remote", **asked}, **changes)


def promql(query: str, **args: str) -> MetricQuery:
    """An instant query of a Prometheus."""
    return MetricQuery(PrometheusSpec(server="main", query=query), args, SUBJECT)


class AskedServer:
    """A server whose answers the test gives: ``next`` is the next question, with the answer to be set."""

    provider = "memory"

    def __init__(self) -> None:
        self.given_up = 0
        self._asked: Queue[tuple[MetricQuery, Future[Reading]]] = Queue()

    async def measure(self, question: MetricQuery, within: float) -> Reading:
        answer: Future[Reading] = Future()
        self._asked.put((question, answer))
        try:
            return await asyncio.wrap_future(answer)
        except asyncio.CancelledError:
            self.given_up += 1
            raise

    async def close(self) -> None:
        """There are no connections."""

    def next(self) -> tuple[MetricQuery, Future[Reading]]:
        """The next question that nobody has seen yet."""
        return self._asked.get(timeout=PATIENCE)

    def answer_all(self, reading: Reading) -> None:
        """Answer what was asked and is not given up."""
        while not self.is_quiet:
            _, answer = self.next()
            if answer.set_running_or_notify_cancel():
                answer.set_result(reading)

    @property
    def is_quiet(self) -> bool:
        """Whether no question came that nobody has seen."""
        return self._asked.empty()
