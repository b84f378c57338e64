"""What is no regular file is none, and nobody waits for it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from extproc.files import NotRegular, read_regular, why_not


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


WAYS_OUT = {
    errno.EACCES: "give this user the right to it and to its folder, or name another path",
    errno.EROFS: "name a path that can be written",
    errno.ENOSPC: "make room on its disk",
    errno.EISDIR: "name a file in it",
}


@pytest.mark.parametrize("number", WAYS_OUT, ids=errno.errorcode.get)
def test_what_the_system_says_of_a_path_comes_with_the_way_out(number: int, tmp_path: Path) -> None:
    error = OSError(number, os.strerror(number))
    assert why_not(error, tmp_path / "file") == f"{os.strerror(number)}; {WAYS_OUT[number]}"


def test_a_file_that_is_not_there_and_a_folder_that_is_not_there_are_told_apart(tmp_path: Path) -> None:
    error = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    assert why_not(error, tmp_path / "file") == "there is no such file"
    assert why_not(error, tmp_path / "folder" / "file") == "its folder is not there; make it first"
