"""The sockets of workers while they are served: only a name leads to one, and names can be taken away."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from extproc.errors import DropoutError
from extproc.net.endpoints import FolderLock, TcpEndpoint, UnixEndpoint, prepare_folder

PRIVATE: Final = 0o600


class _Identity(NamedTuple):
    device: int
    inode: int


class SocketWatch:
    """Knows the socket that each worker bound, and sees when a path leads there no more."""

    def __init__(self, lock: FolderLock | None) -> None:
        self._lock = lock
        self._bound: dict[Path, _Identity] = {}

    def bound(self, endpoint: UnixEndpoint | TcpEndpoint) -> None:
        """A worker serves at ``endpoint`` from now on."""
        if isinstance(endpoint, UnixEndpoint) and (found := _lstat(endpoint.path)) is not None:
            self._bound[endpoint.path] = _identity(found)

    def lost(self, endpoint: UnixEndpoint | TcpEndpoint) -> bool:
        """Whether nobody finds the worker any more at ``endpoint``; a port is not lost. A mode is put right."""
        if not isinstance(endpoint, UnixEndpoint):
            return False
        found = _lstat(endpoint.path)
        if found is None or _identity(found) != self._bound.get(endpoint.path):
            return True
        if stat.S_IMODE(found.st_mode) != PRIVATE:
            with suppress(OSError):  # gone in this moment: seen the next time
                endpoint.path.chmod(PRIVATE)
        return False

    def make_room(self, endpoint: UnixEndpoint | TcpEndpoint, workers: Iterable[int]) -> str | None:
        """See that there is a folder to bind in again, and that the lock in it is ours; why not, in a sentence.

        ``workers`` are the processes that a successor must know of.
        """
        try:
            if isinstance(endpoint, UnixEndpoint):
                prepare_folder(endpoint.path.parent)
            if self._lock is not None and self._lock.renew():
                self._lock.note(workers)
        except DropoutError as error:
            return error.faults[0].message
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
        return None


def _lstat(path: Path) -> os.stat_result | None:
    with suppress(OSError):
        return path.lstat()
    return None


def _identity(found: os.stat_result) -> _Identity:
    return _Identity(found.st_dev, found.st_ino)
