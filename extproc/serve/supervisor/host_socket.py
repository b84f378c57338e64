"""Where a ``serve`` takes kills by itself, so that an operator can stop a version when no store can be written.

It says there too what it lacks of what rollouts ask for, which the controller makes known.

Each has a socket in a folder of the state, for its own user and root alone; the system says who connects. One
question a connection, a JSON object on a line, and one answer. Whoever connects is bounded in number, size and time, so
that nobody holds up the supervisor, and a socket that somebody removed is made again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final, assert_never

import msgspec
import orjson

from extproc.control.unmet import Lack
from extproc.errors import DropoutError
from extproc.net.credentials import peer_of
from extproc.net.endpoints import prepare_folder, private_sockets
from extproc.serve.channel import UNREADABLE
from extproc.serve.supervisor.safety import HostSafety
from extproc.snapshot.held import HeldKill
from extproc.store.ports import POLL_SECONDS
from extproc.trouble import Troubles

logger = logging.getLogger(__name__)

SUFFIX: Final = ".sock"
ROOT: Final = 0

MAX_CONNECTIONS: Final = 16
"""Connections at a time; one more is closed at once."""

MAX_BYTES: Final = 16384
REQUEST_SECONDS: Final = 3.0
"""What a question and its answer may take in all."""

CHECK_SECONDS: Final = 0.5

RESTORED_SECONDS: Final = 1.5 * POLL_SECONDS
"""What the store has of a restore every worker has read after as long, and it is not yet in force."""

BoundedName = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Instant = Annotated[float, msgspec.Meta(gt=0, lt=1e12)]
"""Unix seconds."""


class _Asked(msgspec.Struct, frozen=True, tag_field="do"):
    rollout: BoundedName


class KillHere(_Asked, frozen=True, tag="kill"):
    """Leave only stable of a rollout on this host; ``stored``: the store has it already."""

    id: BoundedName
    actor: BoundedName
    at: Instant
    stored: bool = False


class KillsHere(_Asked, frozen=True, tag="kills"):
    """Which kills of a rollout are in force on this host?"""


class RestoreHere(_Asked, frozen=True, tag="restore"):
    """End kills on this host, by their ids; ``stored``: the store has it already that they are over."""

    kills: list[BoundedName]
    actor: BoundedName
    at: Instant
    stored: bool = False


class UnmetHere(msgspec.Struct, frozen=True, tag_field="do", tag="unmet"):
    """What do rollouts ask for that it does not have?"""


class UnmetThere(msgspec.Struct, frozen=True):
    """The answer to ``UnmetHere``: what is lacking on ``host``; None before it is known."""

    host: str
    unmet: tuple[Lack, ...] | None


HostQuestion = KillHere | KillsHere | RestoreHere | UnmetHere

_read: Final[Callable[[bytes], HostQuestion]] = msgspec.json.Decoder(HostQuestion).decode


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
    """The socket of one ``serve`` in ``folder``, behind which are ``safety`` and what it ``lacks``, if it knows that.

    Belongs to one event loop.
    """

    def __init__(
        self,
        folder: Path,
        safety: HostSafety,
        lacks: Callable[[], Sequence[Lack] | None],
        warn: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._safety = safety
        self._lacks = lacks
        self._warn = warn
        self._troubles = Troubles(warn)
        self._name = f"{secrets.token_hex(8)}{SUFFIX}"
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._connections = 0

    async def run(self) -> None:
        """Be there to be found, until cancelled."""
        while True:
            if not self._is_found():
                await self._listen()
            await asyncio.sleep(CHECK_SECONDS)

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
        try:
            self._make_state_folder()
            prepare_folder(self._folder, "--state")
            with reachable(self._folder) as folder:
                _remove_leftovers(folder)
                await self._bind(folder)
        except DropoutError as error:
            self._note(error.faults[0].message)
        except OSError as error:
            self._note(f"{self._folder}: {error.strerror}")
        else:
            self._troubles.note("state folder")

    def _make_state_folder(self) -> None:
        """Where the state folder was taken away, nobody else is to read the next one either."""
        with suppress(OSError):
            self._folder.parent.mkdir(mode=0o700)
            self._warn(f"state folder: {self._folder.parent} was not there any more and is made anew, almost empty")

    def _note(self, fault: str) -> None:
        self._troubles.note("state folder", f"no kill can be taken without the store: {fault}")

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
            return await self._answer(_read(line))
        except UNREADABLE as error:
            return {"error": f"this is no question: {error}"}

    async def _answer(self, asked: HostQuestion) -> Mapping[str, Any]:
        match asked:
            case KillHere():
                kill = HeldKill(asked.id, asked.rollout, asked.actor, asked.at, stored=asked.stored)
                held, kept = await self._safety.kill(kill)
                return {"kills": [list(held)], "kept": kept}
            case KillsHere():
                kills = self._safety.kills(asked.rollout)
                return {"kills": [list(kill) for kill in kills], "kept": self._safety.is_kept()}
            case RestoreHere():
                if asked.stored:
                    await asyncio.sleep(RESTORED_SECONDS)
                ended = self._safety.end_kills(asked.rollout, asked.kills, asked.actor, asked.at)
                return {"ended": await ended, "kept": self._safety.is_kept()}
            case UnmetHere():
                return {"host": socket.gethostname(), "unmet": self._lacks()}
            case _:
                assert_never(asked)


def _remove_leftovers(folder: str) -> None:
    """Remove the sockets of those that are gone without a word."""
    for name in os.listdir(folder):  # noqa: PTH208 - by the descriptor of the folder
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.setblocking(False)
            try:
                probe.connect(f"{folder}/{name}")
            except ConnectionRefusedError:
                os.unlink(f"{folder}/{name}")  # noqa: PTH108
