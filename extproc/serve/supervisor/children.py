"""Starting a worker: exec, a pipe, a page of shared memory. Imports next to nothing, because it runs first.

Workers spend most of their start in imports, so they are started before the supervisor imports what it needs itself,
and are told what to do once it knows.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.memory import ALLOCATOR_SETTINGS

GRPC_SETTINGS: Final = {
    # gRPC's own log writes a line for every garbled byte that a client sends; errors of ours are raised, not logged.
    "GRPC_VERBOSITY": "NONE",
    # The older listener costs a fifth less CPU per request. Read once, when grpc is imported.
    "GRPC_EXPERIMENTS": "-event_engine_listener",
}

_A_TERMINALS: Final = (signal.SIGINT, signal.SIGHUP)

CRASHES: Final = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
"""Signals that a process ends by through its own doing. SIGKILL is somebody else's."""


@dataclass(frozen=True, slots=True)
class AuxiliaryCommand:
    """What to run beside the workers, and what it is called in messages; the descriptors that it has from the start."""

    name: str
    command: Sequence[str]
    inherited: Sequence[int] = ()


def reap(process: subprocess.Popen[bytes]) -> int:
    """Take note of how a process ended, once it has; the bytes that it had in memory at most, 0 if nobody knows."""
    try:
        _, status, used = os.wait4(process.pid, 0)
    except ChildProcessError:  # whoever sent it a signal had to look whether it was still there
        process.wait()
        return 0
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_maxrss * 1024


@dataclass(slots=True)
class Child:
    """One life of a worker process, as its supervisor sees it.

    ``pipe`` is the supervisor's end; ``exit_fd`` becomes readable when the process ends. ``peak`` are the bytes that it
    had in memory at most, known when it has ended.
    """

    index: int
    process: subprocess.Popen[bytes]
    pipe: socket.socket
    page: HeartbeatPage
    exit_fd: int
    peak: int = 0
    born: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    @property
    def life(self) -> str:
        """A name for this life of the worker, not for its slot."""
        return f"{self.index}/{self.pid}"

    def reap(self) -> None:
        """Take note of how it ended, once it has."""
        self.peak = reap(self.process)

    def crashed(self) -> bool:
        """Whether it ended by its own doing."""
        return -(self.process.returncode or 0) in CRASHES

    def kill(self) -> None:
        """End it now, stopped or hung as it may be."""
        if self.process.returncode is None:
            self.process.kill()


def start(command: Sequence[str], inherited: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a process of ours that keeps the descriptors ``inherited``.

    What a terminal tells its whole group, Ctrl-C and that it closes, it does not hear, from its first instant on: what
    that means is the supervisor's to say.

    Raises:
        OSError: when the system has no process to give.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _A_TERMINALS)
    try:
        return subprocess.Popen(  # noqa: S603  # our own interpreter and module
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=inherited,
            env={**GRPC_SETTINGS, **ALLOCATOR_SETTINGS, **os.environ},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def spawn(index: int, command: Sequence[str], inherited: Sequence[int] = ()) -> Child:
    """Start worker ``index``; ``command`` gets the numbers of the two inherited descriptors as arguments.

    It keeps those of ``inherited``, too.

    Raises:
        OSError: when the system has no process or no descriptor to give; nothing is left behind.
    """
    with ExitStack() as undo:
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        with theirs:
            page = HeartbeatPage.create()
            undo.callback(page.close)
            process = start([*command, str(theirs.fileno()), str(page.fd)], (theirs.fileno(), page.fd, *inherited))
        undo.callback(process.wait)
        undo.callback(process.kill)
        child = Child(index, process, ours, page, os.pidfd_open(process.pid))
        undo.pop_all()
        return child


QUEUE_BYTES: Final = 1 << 20
"""Asked for; the system gives no more than net.core.wmem_max, some hundred kilobytes."""


def message_pair() -> tuple[socket.socket, socket.socket]:
    """Where messages are written and where they are read, each whole; the system bounds what is in between.

    Both ends stay the caller's: whoever of its children is replaced finds the other one there.
    """
    writing, reading = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    writing.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
    return writing, reading


@dataclass(slots=True)
class Backoff:
    """How long to wait before a worker is started again: not at all the first time, then longer and longer.

    A worker that lived for ``healthy`` seconds starts from the beginning.
    """

    first: float = 0.1
    most: float = 5.0
    healthy: float = 10.0
    _next: float = 0.0

    def after(self, lived: float) -> float:
        """Seconds to wait after a life of ``lived`` seconds."""
        if lived >= self.healthy:
            self._next = 0.0
        wait = self._next
        self._next = min(self.most, max(self.first, 2 * wait))
        return wait
