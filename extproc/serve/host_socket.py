"""Where a ``serve`` takes kills by itself, so that an operator can stop a version when no store can be written.

Each has a socket in the folder beside the store, for its own user and root alone; the system says who connects. One
question a connection, a JSON object on a line, and one answer. Whoever connects is bounded in number, size and time, so
that nobody holds up the supervisor, and a socket that somebody removed is made again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import orjson

from extproc.errors import DropoutError
from extproc.serve.credentials import peer_of
from extproc.serve.endpoints import prepare_folder, private_sockets
from extproc.serve.safety import HostSafety
from extproc.snapshot.held import HeldKill
from extproc.snapshot.store import POLL_SECONDS

logger = logging.getLogger(__name__)

SUFFIX: Final = ".sock"
ROOT: Final = 0

MAX_CONNECTIONS: Final = 16
"""Connections at a time; one more is closed at once."""

MAX_BYTES: Final = 16384
REQUEST_SECONDS: Final = 3.0
"""What a question and its answer may take in all."""

LOOK_SECONDS: Final = 0.5

RESTORED_SECONDS: Final = 1.5 * POLL_SECONDS
"""What the store has of a restore every worker has read after as long, and it is not yet in force."""

_MAX_NAME: Final = 512


@contextmanager
def reachable(folder: Path) -> Iterator[str]:
    """The folder by a name so short that the path of a socket in it is never too long.

    Raises:
        OSError: as opening it does.
    """
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


class HostSocket:
    """The socket of one ``serve`` in ``folder``, behind which is ``safety``. Belongs to one event loop."""

    def __init__(self, folder: Path, safety: HostSafety, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._safety = safety
        self._say = say
        self._name = f"{secrets.token_hex(8)}{SUFFIX}"
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._connections = 0
        self._fault = ""

    async def run(self) -> None:
        """Be there to be found, until cancelled."""
        while True:
            if not self._is_found():
                await self._listen()
            await asyncio.sleep(LOOK_SECONDS)

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
            if self._is_found():
                with suppress(OSError):
                    (self._folder / self._name).unlink()

    def _is_found(self) -> bool:
        with suppress(OSError):
            return self._inode != 0 and (self._folder / self._name).lstat().st_ino == self._inode
        return False

    async def _listen(self) -> None:
        fault = ""
        try:
            prepare_folder(self._folder, "--store")
            with reachable(self._folder) as folder:
                _remove_leftovers(folder)
                await self._bind(folder)
        except DropoutError as error:
            fault = error.faults[0].message
        except OSError as error:
            fault = f"{self._folder}: {error.strerror}"
        if fault and fault != self._fault:
            self._say(f"no kill can be taken without the store: {fault}")
        self._fault = fault

    async def _bind(self, folder: str) -> None:
        """Listen under a name that nobody looks for, then take the one that they do."""
        if self._server is not None:
            self._server.close()
        listener = socket.socket(socket.AF_UNIX)
        hidden = f"{folder}/.{self._name}"
        try:
            with private_sockets():
                listener.bind(hidden)
            self._server = await asyncio.start_unix_server(self._connected, sock=listener, limit=MAX_BYTES)
        except OSError:
            listener.close()
            raise
        self._inode = os.lstat(hidden).st_ino
        os.rename(hidden, f"{folder}/{self._name}")  # noqa: PTH104

    # -- who asks

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            peer = peer_of(writer.get_extra_info("socket"))
            if self._connections <= MAX_CONNECTIONS and peer.uid in (os.geteuid(), ROOT):
                async with asyncio.timeout(REQUEST_SECONDS):
                    writer.write(orjson.dumps(await self._answered(await reader.readuntil(b"\n"))) + b"\n")
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # it is gone, too slow or says too much
        finally:
            self._connections -= 1
            writer.close()

    async def _answered(self, line: bytes) -> Mapping[str, Any]:
        try:
            asked = _Asked(orjson.loads(line))
            return await self._answer(asked)
        except (ValueError, TypeError, KeyError) as error:
            return {"error": f"this is no question: {error}"}

    async def _answer(self, asked: _Asked) -> Mapping[str, Any]:
        rollout = asked.text("rollout")
        match asked.text("do"):
            case "kill":
                kill = HeldKill(
                    asked.text("id"), rollout, asked.text("actor"), asked.instant("at"), stored=asked.flag("stored")
                )
                held, kept = await self._safety.kill(kill)
                return {"kills": [list(held)], "kept": kept}
            case "kills":
                return {"kills": [list(kill) for kill in self._safety.kills(rollout)], "kept": self._safety.is_kept()}
            case "restore":
                if asked.flag("stored"):
                    await asyncio.sleep(RESTORED_SECONDS)
                ended = self._safety.end_kills(rollout, asked.texts("kills"), asked.text("actor"), asked.instant("at"))
                return {"ended": await ended, "kept": self._safety.is_kept()}
            case other:
                raise ValueError(f"{other!r} is nothing to do")


class _Asked:
    """A question. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for one that is none."""

    def __init__(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise TypeError("it is no object")
        self._body = body

    def text(self, name: str) -> str:
        return _text(name, self._body[name])

    def texts(self, name: str) -> list[str]:
        return [_text(name, value) for value in self._body[name]]

    def flag(self, name: str) -> bool:
        return self._body.get(name) is True

    def instant(self, name: str) -> float:
        value = self._body[name]
        if type(value) not in (int, float) or not 0 < value < 1e12 or not math.isfinite(value):
            raise TypeError(f"{name} is no time")
        return float(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME:
        raise TypeError(f"{name} is no name")
    return value


def _remove_leftovers(folder: str) -> None:
    """Remove the sockets of those that are gone without a word."""
    for name in os.listdir(folder):  # noqa: PTH208 - by the descriptor of the folder
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.setblocking(False)
            try:
                probe.connect(f"{folder}/{name}")
            except ConnectionRefusedError:
                os.unlink(f"{folder}/{name}")  # noqa: PTH108
