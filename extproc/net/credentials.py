"""Who is at the other end of a Unix socket, by the word of the system (SO_PEERCRED)."""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

_CREDENTIALS: Final = struct.Struct("3i")


class Peer(NamedTuple):
    """A process at the other end: its user and its id, when it connected."""

    uid: int
    pid: int


def peer_of(connection: socket.socket) -> Peer:
    """Who made the connection, or listens at its other end."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(uid, pid)
