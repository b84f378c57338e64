"""The heartbeat in shared memory: what a worker leaves there for its supervisor to find.

An evaluation holds the interpreter: a policy that never ends stops the worker's loop, its pipe and its signal
handlers. What is left is memory that both processes see. The worker writes when its loop last ran, and which rule it
is evaluating since when; the supervisor reads, and tells a worker that evaluates from one that hangs elsewhere.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import time
from dataclasses import dataclass
from typing import Final

from extproc.serve.memory import Memory

BEAT_SECONDS: Final = 0.05
"""How often a worker writes its heartbeat, and how often the supervisor looks at it."""

_PAGE_BYTES: Final = 16384
_BEAT: Final = struct.Struct("<Q")  # at 0: monotonic ns of the last turn of the loop
_EVALUATION: Final = struct.Struct("<QI")  # at 8: monotonic ns since when (0: not) a rule is evaluated, its path
_MEMORY: Final = struct.Struct("<QQQ")  # at 24: what the worker held with its last heartbeat, a ``Memory``
_PATH_LENGTH: Final = struct.Struct("<H")
_EVALUATION_AT: Final = 8
_MEMORY_AT: Final = 24
_PATHS_AT: Final = 64
_MAX_PATH: Final = 1024

STACKS_SIGNAL: Final = signal.SIGUSR2
"""Has a worker write where each of its threads is, before it is ended for saying nothing."""

ANY_PATH: Final = "*"
"""Stands for every rule, when the one at fault could not be named."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What the page says: the last heartbeat and what the worker held at it, the evaluation under way (0: none) and its
    rule. Times are the worker's ns."""

    at: int
    evaluating_since: int
    path: str | None
    memory: Memory = Memory()  # noqa: RUF009 - immutable


class HeartbeatPage:
    """A page of memory that a worker writes and its supervisor reads.

    The times in it say only that something is new: the supervisor measures by its own clock.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _PAGE_BYTES)
        self._offsets: dict[str, int] = {}
        self._free = _PATHS_AT

    @classmethod
    def create(cls) -> HeartbeatPage:
        """A new page, all zero; ``fd`` is to be inherited by the worker."""
        fd = os.memfd_create("dropout-heartbeat")
        os.ftruncate(fd, _PAGE_BYTES)
        return cls(fd)

    def beat(self, memory: Memory = Memory()) -> None:  # noqa: B008 - immutable
        """The loop ran, and the worker holds ``memory``."""
        _BEAT.pack_into(self._memory, 0, time.monotonic_ns())
        _MEMORY.pack_into(self._memory, _MEMORY_AT, *memory)

    def begin(self, path: str) -> None:
        """The evaluation of the rule at ``path`` begins."""
        offset = self._offsets.get(path)
        if offset is None:
            offset = self._write_path(path)
        _EVALUATION.pack_into(self._memory, _EVALUATION_AT, time.monotonic_ns(), offset)

    def end(self) -> None:
        """It returned."""
        _EVALUATION.pack_into(self._memory, _EVALUATION_AT, 0, 0)

    def read(self) -> Beat:
        """What the worker wrote last."""
        (at,) = _BEAT.unpack_from(self._memory, 0)
        since, offset = _EVALUATION.unpack_from(self._memory, _EVALUATION_AT)
        memory = Memory(*_MEMORY.unpack_from(self._memory, _MEMORY_AT))
        return Beat(at, since, self._read_path(offset) if since else None, memory)

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()
        os.close(self.fd)

    def _write_path(self, path: str) -> int:
        encoded = path.encode()[:_MAX_PATH]
        if self._free + _PATH_LENGTH.size + len(encoded) > _PAGE_BYTES:
            self._offsets.clear()  # paths come from documents: a page full of them is years of edits
            self._free = _PATHS_AT
        offset = self._free
        _PATH_LENGTH.pack_into(self._memory, offset, len(encoded))
        start = offset + _PATH_LENGTH.size
        self._memory[start : start + len(encoded)] = encoded
        self._free = start + len(encoded)
        self._offsets[path] = offset
        return offset

    def _read_path(self, offset: int) -> str:
        if not _PATHS_AT <= offset < _PAGE_BYTES - _PATH_LENGTH.size:
            return ANY_PATH
        (length,) = _PATH_LENGTH.unpack_from(self._memory, offset)
        start = offset + _PATH_LENGTH.size
        try:
            return bytes(self._memory[start : start + length]).decode() or ANY_PATH
        except UnicodeDecodeError:
            return ANY_PATH
