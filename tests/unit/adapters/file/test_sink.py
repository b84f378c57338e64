"""The decision log as a file: whole lines, whatever the disk does, and a new file when it is opened again."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from extproc.adapters.file import sink as file_sink
from extproc.adapters.file.sink import FileSink, open_append
from extproc.errors import InvalidInput, Unreachable
from extproc.plugins import SINK, open_adapter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


def test_the_file_is_for_its_owner_only(path: Path) -> None:
    FileSink(path).write([b"{}"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"{}\n"


def test_after_a_rename_and_reopen_events_go_to_a_new_file(path: Path) -> None:
    sink = FileSink(path)
    sink.write([b"1"])
    old = path.rename(path.with_suffix(".1"))
    sink.write([b"2"])
    sink.reopen()
    sink.write([b"3"])
    sink.close()
    assert (old.read_bytes(), path.read_bytes()) == (b"1\n2\n", b"3\n")


def test_a_batch_that_was_cut_off_is_taken_back_and_another_worker_goes_on(path: Path) -> None:
    first, second = FileSink(path), FileSink(path)
    write = os.write
    batch = [b"a line", b"another line"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_sink.os, "write", lambda descriptor, data: write(descriptor, data[:12]))
        with pytest.raises(OSError, match="only a part"):
            first.write(batch)
    second.write([b"of another worker"])
    first.write(batch)
    assert path.read_bytes() == b"of another worker\na line\nanother line\n"
    first.close()
    second.close()


def test_a_full_disk_is_an_error_and_keeps_what_was_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    sink = FileSink(path)
    sink.write([b"1"])
    monkeypatch.setattr(file_sink.os, "write", no_space)
    with pytest.raises(OSError, match="No space left"):
        sink.write([b"2"])
    sink.close()
    assert path.read_bytes() == b"1\n"


def test_a_file_that_cannot_be_opened_is_an_error_before_serving(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing" / "decisions.jsonl", tmp_path, tmp_path / "pipe"):  # which nobody reads
        with pytest.raises(Unreachable) as raised:
            FileSink(path).check()
        assert raised.value.code == "decision_log_unwritable"


def test_a_pipe_is_written_like_a_file_and_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer = open_append(tmp_path / "pipe")
    assert os.get_blocking(writer)
    os.write(writer, b"line\n")
    assert os.read(reader, 100) == b"line\n"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("url", ["file:", "file", "decisions.jsonl", "file:/"])
def test_what_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        open_adapter(SINK, url, "--sink")
    assert refused.value.code == "sink_url"
