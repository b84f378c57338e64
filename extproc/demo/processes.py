"""The processes that the demo starts: each with a log of its own, and none outlives the demo."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from extproc.errors import Refused, Unreachable

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.05
LONGEST_LINE: Final = 2**22
"""That a process may print, where somebody reads it."""
PR_SET_PDEATHSIG: Final = 1
PORTS: Final = range(20_000, 32_000)
"""Below those that Linux (from 32768 on) and macOS (from 49152 on) give to connections."""


class Processes:
    """Processes by name; their logs are in ``folder``."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(
        self, name: str, command: Sequence[str], *, pass_fds: Sequence[int] = (), piped: bool = False
    ) -> asyncio.subprocess.Process:
        """Start a process; what it prints is in its log, unless ``piped``: then the caller reads its stdout."""
        with (self._folder / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if piped else log,
                limit=LONGEST_LINE,
                stderr=log,
                pass_fds=pass_fds,
                # Ctrl-C is for the demo, which then ends the others in order; and none outlives it, however it ends.
                process_group=0,
                preexec_fn=_end_with_parent,
            )
        self._running[name] = process
        return process

    async def run(self, command: Sequence[str], shown: str) -> bytes:
        """What a command says until it ends.

        Raises:
            Refused: ``demo_command`` with what the command said, if it failed; it is called ``shown`` there.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            process_group=0,  # Ctrl-C is for the demo
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:  # nobody waits for it any more
                process.terminate()
                await process.wait()
        if process.returncode:
            raise Refused.of("demo_command", f"'{shown}' ended with {process.returncode}: {said.decode().strip()}")
        return said

    async def until(self, holds: Callable[[], Awaitable[bool]], name: str) -> None:
        """Wait until ``holds()``.

        Raises:
            Unreachable: ``demo_start`` with the last line of its log, if the process ``name`` ends or START_SECONDS
                pass first.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self.is_running(name) or time.monotonic() > deadline:
                log = self._folder / f"{name}.log"
                lines = log.read_text(errors="replace").strip().splitlines() or ["it says nothing"]
                raise Unreachable.of("demo_start", f"{name} did not start: {lines[-1]}", file=str(log))
            if await holds():
                return

    def is_running(self, name: str) -> bool:
        """Whether the process was started and has not ended."""
        return name in self._running and self._running[name].returncode is None

    def pid(self, name: str) -> int:
        """The process id of ``name``, which was started."""
        return self._running[name].pid

    async def end(self, *names: str) -> None:
        """End these processes, or without names all: politely, then not."""
        ending = [self._running.pop(name) for name in names or tuple(self._running) if name in self._running]
        running = [process for process in ending if process.returncode is None]
        for process in running:
            process.terminate()
        waits = [asyncio.ensure_future(process.wait()) for process in running]
        if waits:
            _, late = await asyncio.wait(waits, timeout=STOP_SECONDS)
            for process in running if late else ():
                if process.returncode is None:
                    process.kill()
            await asyncio.gather(*waits)


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in this environment."""
    return [sys.executable, "-P", "-m", module, *arguments]


def free_ports(count: int) -> list[int]:
    """Ports of loopback on which nobody listens, all different, in no order.

    They are taken later, some of them much later. A port that the kernel chooses could by then be the near end of
    anybody's connection, so none of those is drawn (``PORTS``).
    """
    return list(islice(filter(_is_free, random.sample(PORTS, len(PORTS))), count))


def _is_free(port: int) -> bool:
    try:
        check_port(port)
    except Unreachable:
        return False
    return True


def check_port(port: int) -> None:
    """Raise Unreachable (``port_in_use``) when somebody else listens on ``port``."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            message = f"Port {port} cannot be had: {error.strerror}. Name another, or none to get a free one."
            raise Unreachable.of("port_in_use", message, field="--envoy-port") from error


async def accepts(address: int | Path) -> bool:
    """Whether somebody listens on the port or the Unix socket."""
    try:
        if isinstance(address, Path):
            _, writer = await asyncio.open_unix_connection(address)
        else:
            _, writer = await asyncio.open_connection("127.0.0.1", address)
    except OSError:
        return False
    writer.close()
    return True


async def get(port: int, path: str) -> bytes | None:
    """The body of a 200, else None."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    except OSError:
        return None
    return body if b" 200 " in head.split(b"\r\n", 1)[0] else None


def children_of(parent: int) -> list[tuple[int, list[bytes]]]:
    """The living children of a process, and their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_bytes()
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        # The name, in brackets, may hold anything; state and parent follow it.
        state, ppid = stat.rpartition(b")")[2].split()[:2]
        if int(ppid) == parent and state != b"Z":
            found.append((int(entry.name), arguments))
    return found


def _end_with_parent() -> None:
    """In the child, before exec: let the kernel end it when the demo is killed without a chance to clean up."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
