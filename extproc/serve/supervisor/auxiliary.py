"""A process that ``serve`` runs beside its workers: replaced when it ends, and never in the way of serving.

It is started with the number of an inherited socket as its last argument, behind those of what else it has from the
start. Both sides send messages over it (``channel.Channel``); when it closes, the other side is gone, and an auxiliary
process ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, NamedTuple

from msgspec.json import Decoder

from extproc.serve.channel import Channel, In, Out
from extproc.serve.messages import Failed
from extproc.serve.supervisor.children import AuxiliaryCommand, Backoff, reap, start
from extproc.serve.tasks import Tasks
from extproc.trouble import Troubles

STOP_SECONDS: Final = 3.0
"""What it gets to end by itself after SIGTERM."""


class ProcessEnd(NamedTuple):
    """How a process ended, negative by a signal; and the bytes that it had in memory at most, 0 if nobody knows."""

    status: int
    peak: int


class Auxiliary(Generic[Out, In]):
    """Keeps one process of ``what`` running. Belongs to one event loop.

    ``warn`` is told when it ends and when another one works in its place. ``received`` gets its messages, of these
    ``kinds``, with the name of the life that sent them, ``ended`` the name of a life that is over. ``began`` is called
    when there is somebody to send to.
    """

    def __init__(
        self,
        what: AuxiliaryCommand,
        warn: Callable[[str], None],
        kinds: Decoder[In],
        received: Callable[[str, In], None],
        ended: Callable[[str], None],
        began: Callable[[], None] = lambda: None,
    ) -> None:
        self._what = what
        self._troubles = Troubles(warn)
        self._kinds = kinds
        self._received = received
        self._ended = ended
        self._began = began
        self._backoff = Backoff()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel[Out, In] | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._stopping = False
        self._gone = asyncio.Event()
        self._lives = Tasks(self._lost)
        self.last_end: ProcessEnd | None = None
        """How the life ended that did so last."""

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it. One that cannot be started is tried again, like one that ended."""
        self._restart = None
        try:
            process, ours = self._spawn()
        except OSError as error:
            self._again(0.0, f"cannot be started: {error.strerror}")
            return
        self._process = process
        self._gone.clear()
        self._lives.once(self._what.name, self._live(process, ours))

    def send(self, message: Out) -> bool:
        """Send a message; False when there is nobody to take it."""
        return self._channel is not None and self._channel.send(message)

    def replace(self) -> None:
        """End this life, which hangs or is of no use, and start the next."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def retire(self) -> None:
        """Let this life be the last."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()

    async def stop(self) -> None:
        """End it: gently, and then not."""
        self.retire()
        if self._process is not None:
            self._process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it now."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            self._process.wait()

    def _spawn(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                inherited = (*self._what.inherited, theirs.fileno())
                process = start([*self._what.command, *map(str, inherited)], inherited)
            except OSError:
                ours.close()
                raise
        return process, ours

    def _heard(self, life: str, message: In) -> None:
        if not isinstance(message, Failed):
            self._troubles.note(self._what.name)
        self._received(life, message)

    async def _live(self, process: subprocess.Popen[bytes], ours: socket.socket) -> None:
        """One life, from its start to what follows its end."""
        born, life = time.monotonic(), f"{self._what.name}/{process.pid}"
        loop = asyncio.get_running_loop()
        channel = Channel[Out, In](self._kinds, lambda message: self._heard(life, message), lambda: None)
        self._channel = channel
        await loop.create_unix_connection(lambda: channel, sock=ours)
        self._began()
        over = asyncio.Event()
        exit_fd = os.pidfd_open(process.pid)
        loop.add_reader(exit_fd, over.set)
        await over.wait()
        loop.remove_reader(exit_fd)
        os.close(exit_fd)
        peak = reap(process)
        status = process.returncode
        channel.close()
        self.last_end = ProcessEnd(status, peak)
        self._process = self._channel = None
        self._ended(life)
        self._gone.set()
        if not self._stopping:
            self._again(time.monotonic() - born, f"pid {process.pid} ended with status {status}")

    def _lost(self, _name: str) -> None:
        """A life that cannot be followed to its end ends here."""
        process, self._process, self._channel = self._process, None, None
        if process is not None:
            process.kill()
            process.wait()
        self._gone.set()
        if not self._stopping:
            self._again(0.0, "cannot be followed")

    def _again(self, lived: float, why: str) -> None:
        wait = self._backoff.after(lived)
        self._troubles.note(self._what.name, f"{why}; the next starts in {wait:g} s")
        self._restart = asyncio.get_running_loop().call_later(wait, self.start)
