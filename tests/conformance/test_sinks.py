"""Every sink keeps the contract of sinks."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.datapath.ports import EventSink
from extproc.plugins import SINK, open_adapter
from extproc.testing.sink import EventSinkContract, MemorySink


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
