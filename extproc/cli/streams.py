"""Standard output and error as commands write them: to a terminal, to a file, to a pipe that nobody reads any more."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, Final, TextIO

CLOSED_PIPE_EXIT: Final = 141
"""How a command ends whose answer nobody reads to its end: as the shell says of any that SIGPIPE ended."""


class ClosedPipe(BaseException):
    """Nobody reads the answer any more. No ``Exception``, so that what a command expects to fail does not catch it."""


class _Answer(io.FileIO):
    """Standard output."""

    def write(self, data: Any, /) -> int:
        """As much as the system takes. Raises ``ClosedPipe``."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise ClosedPipe from None


class _Messages(io.FileIO):
    """Standard error. What nobody reads is dropped: it is no reason to end, for a server least of all."""

    def write(self, data: Any, /) -> int:
        """As much as the system takes."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def prepare() -> None:
    """Have both bear a pipe that closes, and print what a terminal's encoding lacks as an escape.

    Streams that somebody has put in their place are left as they are, but for the escapes.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.__stdout__ is not None and sys.stdout is sys.__stdout__:
        sys.stdout = _over(_Answer, sys.__stdout__)
    if sys.__stderr__ is not None and sys.stderr is sys.__stderr__:
        sys.stderr = _over(_Messages, sys.__stderr__)


def _over(kind: type[io.FileIO], stream: TextIO) -> TextIO:
    """A text stream that writes where ``stream`` does, and as it does."""
    raw = kind(stream.fileno(), "wb", closefd=False)
    line_by_line, at_once = bool(stream.line_buffering), bool(getattr(stream, "write_through", False))
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=line_by_line, write_through=at_once
    )


def drop_what_cannot_be_written() -> None:
    """Let the interpreter's own flush at exit succeed: its failure would be a second message and another code."""
    try:
        sys.stdout.flush()
    except (OSError, ClosedPipe):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
