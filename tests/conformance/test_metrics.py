"""Every provider of metrics keeps the contract of metric providers."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from extproc.adapters.prometheus.document import PROVIDER
from extproc.control.analysis.ports import MetricProvider, MetricQuery
from extproc.plugins import METRICS, open_adapter
from extproc.testing.metrics import PROVIDER as MEMORY
from extproc.testing.metrics import SUBJECT, MemoryMetrics, MemorySpec, MetricProviderContract
from tests.support.metrics import promql
from tests.systems.prometheus import ScrapingPrometheus


class TestMemory(MetricProviderContract):
    """The one in memory."""

    kind = MEMORY

    def make(self) -> MetricProvider:
        return MemoryMetrics({"one": 0.5, "several": [0.25, 0.75]})

    def make_unreachable(self) -> None:
        """It is always there."""

    def answers(self) -> list[tuple[MetricQuery, Any]]:
        return [(_question("one"), 0.5), (_question("several"), [0.25, 0.75])]

    def refused(self) -> list[MetricQuery]:
        return [_question("another")]


class TestPrometheus(MetricProviderContract):
    """A real Prometheus, which has scraped a page."""

    kind = PROVIDER

    @pytest.fixture(autouse=True)
    def _with(self, prometheus: ScrapingPrometheus) -> None:
        self.url = prometheus.url

    def make(self) -> MetricProvider:
        return open_adapter(METRICS, f"prometheus+{self.url}", "--metrics")

    def make_unreachable(self) -> MetricProvider:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            return open_adapter(METRICS, f"prometheus+http://127.0.0.1:{nobody.getsockname()[1]}", "--metrics")

    def answers(self) -> list[tuple[MetricQuery, Any]]:
        return [
            (promql("sort(errors)"), [0.25, 0.75]),
            (promql('errors{version="{{canary.version}}"}'), [0.75]),
            (promql('scalar(errors{version="{{control.version}}"})'), 0.25),
        ]

    def refused(self) -> list[MetricQuery]:
        return [promql("errors{"), promql("errors[5m]"), promql('"a text"'), promql("errors / on() errors")]


def _question(name: str) -> MetricQuery:
    return MetricQuery(MemorySpec(server="main", name=name), {}, SUBJECT)
