"""What a worker holds of memory, what it may hold, and whether the rule that it ended in is to blame for it.

Nothing is measured on the request path. A worker notes with its heartbeat, which is between two evaluations, what it
holds; what it held at most the kernel tells the supervisor when it has ended, however it ended.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final, NamedTuple

GROWTH_BYTES: Final = 64 << 20
"""What an evaluation must have added to a worker before its end is the rule's doing."""

LEAST_MEMORY: Final = 256 << 20
"""A worker that has nothing to serve yet takes half of it, most of that room for the stacks of its threads."""

ALLOCATOR_SETTINGS: Final = {
    # The engine's allocator would otherwise take a GiB of address space to write to at once, which no limit sees again.
    "MIMALLOC_ARENA_EAGER_COMMIT": "0",
}

_STATM: Final = Path("/proc/self/statm")


class Memory(NamedTuple):
    """Bytes of a process: in memory now; private and writable, which is what is limited; in memory at most so far.

    ``peak`` begins with what its parent held when it started it: so the kernel counts.
    """

    resident: int = 0
    data: int = 0
    peak: int = 0


class MemoryGauge:
    """Reads what this process holds; one read of a file that stays open, and a call."""

    def __init__(self) -> None:
        self._statm = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
        self._page = resource.getpagesize()

    def read(self) -> Memory:
        """What it holds now."""
        pages = os.pread(self._statm, 256, 0).split()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Memory(int(pages[1]) * self._page, int(pages[5]) * self._page, peak)


def limit_memory(size: int) -> None:
    """Have this process get no more than ``size`` bytes of data; 0 is no limit.

    An allocation beyond it fails: in the engine and in gRPC that is an abort, in Python a ``MemoryError``. It is
    ``RLIMIT_DATA``: ``RLIMIT_AS`` counts what is only reserved, too, which is more than all else together.
    """
    if size:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (size if most == resource.RLIM_INFINITY else min(size, most), most))


def blame(before: Memory, peak: int, limit: int, *, crashed: bool) -> str | None:
    """What the rule that a worker ended in did to it; None if it merely happened to run.

    ``before`` is what the worker noted last before the evaluation, ``peak`` what it held at most in all its life, 0 if
    nobody knows. A worker that ``crashed`` when it was at its ``limit`` already would have done so in any rule.
    """
    # A peak that is no higher than before says nothing: it may be an old one. Before the first beat none is known.
    grown = peak - before.resident if peak > before.peak > 0 else 0
    if grown > GROWTH_BYTES:
        return f"had grown it by {grown >> 20} MB"
    if crashed and not (limit and before.data > limit - GROWTH_BYTES):
        return "crashed it"
    return None
