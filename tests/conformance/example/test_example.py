"""What their author would write to test them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from dropout_example import FIXED, ExampleFeatures, FixedMetrics, FixedSpec, GzipSink

from extproc.control.analysis.ports import MetricQuery
from extproc.testing.features import FeatureStoreContract, Values
from extproc.testing.metrics import SUBJECT, MetricProviderContract
from extproc.testing.sink import EventSinkContract


class TestExample(FeatureStoreContract):
    """It keeps the contract of a feature store."""

    def make(self, values: Values) -> ExampleFeatures:
        return ExampleFeatures(values)

    def make_unreachable(self) -> None:
        """It is always there."""


class TestGzip(EventSinkContract):
    """It keeps the contract of a sink."""

    @pytest.fixture(autouse=True)
    def _with(self, tmp_path: Path) -> None:
        self.file = tmp_path / "decisions.jsonl.gz"

    def make(self) -> GzipSink:
        return GzipSink(self.file)

    def taken(self) -> list[bytes]:
        return gzip.decompress(self.file.read_bytes()).split(b"\n")[:-1]

    def make_unreachable(self) -> GzipSink:
        return GzipSink(self.file.parent / "nowhere" / self.file.name)


class TestFixed(MetricProviderContract):
    """It keeps the contract of a metric provider."""

    kind = FIXED

    def make(self) -> FixedMetrics:
        return FixedMetrics({"a": 0.25, "b": 0.75})

    def make_unreachable(self) -> None:
        """It is always there."""

    def answers(self) -> list[tuple[MetricQuery, float]]:
        return [(_question("a"), 0.25), (_question("b"), 0.75)]

    def refused(self) -> list[MetricQuery]:
        return [_question("c")]


def _question(name: str) -> MetricQuery:
    return MetricQuery(FixedSpec(server="main", number=name), {}, SUBJECT)
