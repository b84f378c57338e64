"""Every sink keeps the contract of sinks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.datapath.ports import EventSink
from extproc.plugins import SINK, open_adapter
from extproc.testing.sink import EventSinkContract, MemorySink
from tests.support.collector import Collector


class TestMemory(EventSinkContract):
    """The one that unit tests use."""

    @pytest.fixture(autouse=True)
    def _with(self) -> None:
        self.list: list[bytes] = []

    def make(self) -> EventSink:
        return MemorySink(self.list)

    def taken(self) -> list[bytes]:
        return self.list

    def make_unreachable(self) -> None:
        """It is always there."""


class TestOpaLogs(EventSinkContract):
    """A service that takes what OPAs upload."""

    @pytest.fixture(autouse=True)
    def _with(self) -> Iterator[None]:
        with Collector() as self.collector:
            yield

    def make(self) -> EventSink:
        query = "min-delay-seconds=0&max-delay-seconds=0"
        return open_adapter(SINK, f"opa+http://{self.collector.address}/base?{query}", "--sink")

    def taken(self) -> list[bytes]:
        return [text.encode() for text in self.collector.texts]

    def make_unreachable(self) -> EventSink:
        with Collector() as gone:
            return open_adapter(SINK, f"opa+http://{gone.address}", "--sink")


class TestFile(EventSinkContract):
    """A file of lines."""

    @pytest.fixture(autouse=True)
    def _with(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self) -> EventSink:
        return open_adapter(SINK, f"file:{self.folder}/100% sure?.jsonl", "--sink")

    def taken(self) -> list[bytes]:
        return (self.folder / "100% sure?.jsonl").read_bytes().split(b"\n")[:-1]

    def make_unreachable(self) -> EventSink:
        return open_adapter(SINK, f"file:{self.folder}/nowhere/decisions.jsonl", "--sink")
