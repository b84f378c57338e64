"""What ``dropout rollout watch`` prints where there is no terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from extproc.adapters.sqlite.store import SqliteStore
from extproc.cli.watching import show
from extproc.store.records import Write
from extproc.store.status import Status
from tests.support.rollouts import CANARY, document


def test_what_reads_the_same_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A measurement, and a new version of the row, is a change that a line does not show."""
    store = SqliteStore(tmp_path / "dropout.db", create=True)
    store.write([Write("payments", "fraud-detector", None, document(CANARY), Status(stable="3", canary="4"))])
    row = store.get("payments", "fraud-detector")
    store.close()
    assert row is not None
    measured = replace(row, resource_version=row.resource_version + 1)
    moved = replace(measured, status=replace(row.status, message="moved"))
    show([row, measured, moved, measured], "text")
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("moved") for line in lines] == [False, True, False]
    show([row, measured], "json")
    assert len(capsys.readouterr().out.splitlines()) == 2
