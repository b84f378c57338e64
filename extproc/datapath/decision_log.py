"""The decision log: one OPA decision-log event per decision, as JSON lines, written off the loop.

The loop makes a decision a line and puts it into a bounded queue; a thread appends whole lines, one write per batch,
so that several workers share one file. What the disk cannot keep up with is dropped and counted, never waited for.
Rotation is from outside: rename the file, then ``reopen``.

The loop makes the line soon (``later``), while what it is made of may still be in the processor's caches. A thread that
made it would find it cold, and would hold up the loop for as long, since only one of them can run Python at a time. Its
time is that at which it is made.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from extproc.clock import Clock
from extproc.datapath.decision_event import EventEncoder, Reads
from extproc.datapath.ports import Decided
from extproc.errors import Unreachable

logger = logging.getLogger(__name__)

MAX_QUEUE: Final = 10_000
MAX_QUEUE_BYTES: Final = 64 << 20
"""Ordinary decisions reach the other limit first."""

FLUSH_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 1.0

_MAX_WRITE_BYTES: Final = 1 << 20


class DecisionLog:
    """Writes decisions to the file at ``path``; a ``DecisionSink``.

    ``labels`` identify the writer, ``key`` makes pseudonyms of units, ``reads`` tells what a policy reads. The file
    is made with mode 0600. At most ``max_queue`` lines wait to be written, and none is added to ``max_queue_bytes`` of
    them; at most one batch waits to be written again after an error. ``drops`` counts decisions that were left out,
    ``errors`` failed attempts to write; neither ever reaches the caller of ``record``.
    """

    def __init__(
        self,
        path: Path,
        labels: Mapping[str, str],
        key: bytes,
        clock: Clock,
        *,
        reads: Reads,
        max_queue: int = MAX_QUEUE,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        flush_seconds: float = FLUSH_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self.drops = 0
        self.errors = 0
        self._clock = clock
        self._max_queue = max_queue
        self._max_queue_bytes = max_queue_bytes
        self._bytes_in = self._bytes_out = 0  # each counted by one thread alone, so without a lock
        self._flush_seconds = flush_seconds
        self._queue: deque[bytes] = deque()
        self._encoder = EventEncoder(labels, key, reads)
        self._refused = False
        self._file = _LogFile(path)
        self._retry_seconds = retry_seconds
        self._idle = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._reopen = False
        self._thread = threading.Thread(target=self._write_for_ever, name="decision-log", daemon=True)
        self._thread.start()

    def record(self, decided: Decided) -> None:
        """Queue one decision, or drop it when the queue is full."""
        if len(self._queue) >= self._max_queue or self._bytes_in - self._bytes_out >= self._max_queue_bytes:
            self.drops += 1
            return
        try:
            line = self._encoder.line(self._clock.now(), decided)
        except Exception:
            self._refuse()
            return
        self._bytes_in += len(line)
        self._queue.append(line)
        if self._idle:
            self._idle = False
            self._wake.set()

    def _refuse(self) -> None:
        """A bug that may meet every request: told once."""
        self.drops += 1
        if not self._refused:
            self._refused = True
            logger.exception("A decision could not be written as JSON; others like it are only counted.")

    def reopen(self) -> None:
        """Let go of the file and open it again by name: what comes now goes to the new file."""
        self._reopen = True
        self._wake.set()

    def close(self, timeout: float = 5.0) -> None:
        """Write what is queued, wait for that at most ``timeout`` seconds, and close the file."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)

    def _write_for_ever(self) -> None:
        batch: list[bytes] = []
        while True:
            closing = self._closing.is_set()
            if self._reopen:
                self._reopen = False
                self._file.close()
            written = self._drain(batch)
            if closing:
                self.drops += len(batch) + len(self._queue)
                self._file.close()
                return
            self._sleep(batch, written=written)

    def _sleep(self, batch: list[bytes], *, written: bool) -> None:
        """Until there is a batch's worth of time to write; without a wake-up while there is nothing."""
        if not written:
            self._closing.wait(self._retry_seconds)
            return
        if not self._queue and not batch:
            self._wake.clear()
            self._idle = True
            if not self._queue and not self._closing.is_set() and not self._reopen:
                self._wake.wait()
            self._idle = False
        if not self._reopen:
            self._closing.wait(self._flush_seconds)

    def _drain(self, batch: list[bytes]) -> bool:
        """Write the batch left over and all that is queued; whether all of it could be written."""
        while batch or self._queue:
            if not batch:
                self._take(batch)
            try:
                self._file.write(batch)
            except OSError as error:
                self.errors += 1
                if self._file.first_failure:
                    logger.warning("The decision log cannot be written: %s", error)
                return False
        return True

    def _take(self, batch: list[bytes]) -> None:
        size = 0
        while self._queue and size < _MAX_WRITE_BYTES:
            line = self._queue.popleft()
            batch.append(line)
            size += len(line)
        self._bytes_out += size


class _LogFile:
    """An append-only file that is opened when needed. ``first_failure`` is true at the first of a row of errors."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._failing = False
        self.first_failure = False

    def write(self, lines: list[bytes]) -> None:
        """Append all of ``lines`` in one write and empty the list.

        Raises:
            OSError: when they could not all be written; what is left of them stays in ``lines``.
        """
        try:
            self._write(lines)
        except OSError:
            self.first_failure = not self._failing
            self._failing = True
            raise
        self._failing = False

    def _write(self, lines: list[bytes]) -> None:
        if self._descriptor is None:
            self._descriptor = open_log(self._path)
        data = b"".join(lines)
        # Another worker must not go on in the middle of a line that did not fit.
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            written = os.write(self._descriptor, data)
            if written == len(data):
                lines.clear()
                return
            # A full disk takes a part: whole lines are done, the torn one is taken back and written again.
            while lines and written >= len(lines[0]):
                written -= len(lines.pop(0))
            if written:
                os.ftruncate(self._descriptor, os.lseek(self._descriptor, 0, os.SEEK_CUR) - written)
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        raise OSError(f"only a part of the batch fitted into {self._path}")

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def open_log(path: Path) -> int:
    """A descriptor that appends to ``path``, made with mode 0600 if it is not there.

    Opened without waiting: a pipe that nobody reads is an error, and not a log that stands still until somebody does.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    os.set_blocking(descriptor, True)
    return descriptor


def check_log_path(path: Path) -> None:
    """Make sure, before serving, that the log can be written.

    Raises:
        Unreachable: ``decision_log_unwritable``.
    """
    try:
        os.close(open_log(path))
    except OSError as error:
        raise Unreachable.of(
            "decision_log_unwritable", f"The decision log cannot be written: {error.strerror}.", file=str(path)
        ) from error
