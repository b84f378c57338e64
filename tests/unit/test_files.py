"""What is no regular file is none, and nobody waits for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from extproc.files import NotRegular, read_regular


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, Path.mkdir, bind, lambda path: path.symlink_to("/dev/zero")],
    ids=["pipe", "folder", "socket", "device"],
)
def test_what_is_no_regular_file_is_none(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(NotRegular):
        read_regular(tmp_path / "x", 10)


def test_a_file_is_read_along_links_and_no_further_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("x")
    assert read_regular(tmp_path / "link", 10) == b"0123456789"
    with pytest.raises(OSError, match="too large"):
        read_regular(tmp_path / "link", 9)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "nowhere", 9)
