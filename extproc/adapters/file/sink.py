"""Events as lines of a file, ``file:PATH``, which several workers share.

Rotation is from outside: rename the file, then have it opened again (SIGHUP).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from extproc.errors import InvalidInput, Unreachable
from extproc.files import why_not
from extproc.plugins import SINK, Plugin
from extproc.urls import path_in


class FileSink:
    """An ``EventSink``: an append-only file that is made with mode 0600, and opened when there is something for it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def check(self) -> None:
        """See that the file can be opened.

        Raises:
            Unreachable: ``decision_log_unwritable``.
        """
        try:
            os.close(open_append(self._path))
        except OSError as error:
            raise Unreachable.of(
                "decision_log_unwritable",
                f"the decision log cannot be written: {why_not(error, self._path)}",
                file=str(self._path),
            ) from error

    def write(self, events: Sequence[bytes]) -> int:
        """Append all of ``events`` in one write, or nothing.

        Raises:
            OSError: when the file does not take them.
        """
        if self._descriptor is None:
            self._descriptor = open_append(self._path)
        data = b"\n".join((*events, b""))
        # Another worker must not go on in the middle of a line that did not fit.
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            written = os.write(self._descriptor, data)
            if written == len(data):
                return 0
            if written:  # a full disk takes a part
                os.ftruncate(self._descriptor, os.lseek(self._descriptor, 0, os.SEEK_CUR) - written)
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        raise OSError(f"only a part of the batch fitted into {self._path}")

    def reopen(self) -> None:
        """Let go of the file; it is opened again by name."""
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_append(path: Path) -> int:
    """A descriptor that appends to ``path``, made with mode 0600 if it is not there.

    Opened without waiting: a pipe that nobody reads is an error, and not a log that stands still until somebody does.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    os.set_blocking(descriptor, True)
    return descriptor


def open_sink(url: str, flag: str) -> FileSink:
    """The sink at ``file:PATH``; all behind the colon is the path.

    Raises:
        InvalidInput: ``sink_url``, when there is no path.
    """
    path = path_in(url, "file")
    if path is None:
        raise InvalidInput.of("sink_url", f"{flag} names no file: use file:PATH", field=flag)
    return FileSink(path)


PLUGIN: Final = Plugin(SINK.version, open_sink)
