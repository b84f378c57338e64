"""Logs are read as they lie there: packed or not, whole or not, from a file or a pipe."""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from extproc.cli import logs
from extproc.cli.logs import lines_of
from extproc.errors import InvalidInput

LINES = [b'{"a": %d}\n' % number for number in range(1000)]


def read(path: Path, content: bytes) -> list[bytes]:
    path.write_bytes(content)
    return list(lines_of(path))


def test_a_log_may_be_packed(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(LINES))
    assert read(tmp_path / "log", packed) == LINES
    assert read(tmp_path / "log", packed + packed) == LINES + LINES
    assert read(tmp_path / "log", b"") == []


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: packed[:-300] + b"x" * 300])
def test_of_one_that_is_packed_and_not_whole_the_rest_is_a_line_that_is_none(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    *lines, last = read(tmp_path / "log", damage(gzip.compress(b"".join(LINES))))
    assert lines == LINES[: len(lines)]
    assert last == b"-"


def test_a_log_may_come_by_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"".join(LINES), gzip.compress(b"".join(LINES))):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(content))))  # type: ignore[arg-type]
        assert list(lines_of(Path("-"))) == LINES


def test_a_line_of_any_length_is_no_more_than_a_line_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_LINE_BYTES", 50)
    long = b"x" * 120
    assert read(tmp_path / "log", b"\n".join([long, b"a", long, b"b", long])) == [b"-", b"a\n", b"-", b"b\n", b"-"]


def test_a_folder_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="log_unreadable"):
        list(lines_of(tmp_path))
