"""Logs as commands read them: a file, one that gzip packed, or standard input."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, cast

from extproc.errors import InvalidInput
from extproc.files import why_not

MAX_LINE_BYTES: Final = 64 * 1_048_576
"""Of a line that is read at all: a packed file of kilobytes can hold one of gigabytes."""

_GZIP: Final = b"\x1f\x8b"
_NO_EVENT: Final = b"-"
"""Stands for what is not read: a line that is no event."""


def lines_of(log: Path) -> Iterator[bytes]:
    """The lines of a log; ``-`` is standard input. Raises ``InvalidInput``: ``log_unreadable``."""
    try:
        if str(log) == "-":
            yield from _unpacked(sys.stdin.buffer)
            return
        with log.open("rb") as lines:
            yield from _unpacked(lines)
    except OSError as error:
        raise InvalidInput.of(
            "log_unreadable", f"the log cannot be read: {why_not(error, log)}", file=str(log)
        ) from error


def _unpacked(stream: IO[bytes]) -> Iterator[bytes]:
    lines = cast("io.BufferedReader", stream)
    if not lines.peek(len(_GZIP)).startswith(_GZIP):
        yield from _bounded(lines)
        return
    try:
        yield from _bounded(gzip.GzipFile(fileobj=lines))
    except (EOFError, zlib.error, gzip.BadGzipFile):
        yield _NO_EVENT  # cut off, as a log is that is packed right now


def _bounded(lines: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while line := lines.readline(MAX_LINE_BYTES):
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = lines.readline(MAX_LINE_BYTES)
        yield _NO_EVENT
