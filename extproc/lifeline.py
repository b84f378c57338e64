"""A helper's life hangs on the process that started it: when that one ends, in whatever way, the kernel ends it too.

A helper evaluates policies, and an evaluation without end holds the interpreter: it reads no pipe, runs no thread and
handles no signal. So it is not asked to notice. The starter keeps one end of a pipe that nobody ever writes to, and
the helper has the kernel send SIGKILL when that end closes. (PR_SET_PDEATHSIG would mean the thread that started it.)

Workers serve on for a while without a supervisor, so theirs is the dead man's switch.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from types import TracebackType
from typing import Self


class Lifeline:
    """The starter's side. ``fd`` is to be inherited by one helper, which is told its number.

    The helper lives until this is closed, by its owner or with the process.
    """

    def __init__(self) -> None:
        self.fd, self._held = os.pipe()

    def close(self) -> None:
        """End the helper, if it has not ended."""
        os.close(self._held)
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def hang_on(fd: int) -> None:
    """Have the kernel end this process, a helper, when the other end of ``fd`` closes; now, if it has."""
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([fd], [], [], 0)[0]:
        os.kill(os.getpid(), signal.SIGKILL)


def arm_dead_man_switch(seconds: float) -> None:
    """Have the kernel end this process unless this is called again before it has used so many seconds of a processor.

    With 0 it may use all it likes. The last resort, for an evaluation without end, when the supervisor is dead as well:
    SIGPROF's default action needs no interpreter. Time in which a process does not run is not counted: all workers of a
    container that was paused would end the moment it goes on.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
