"""From a store's URL to the store."""

from __future__ import annotations

from pathlib import Path

from extproc.adapters.sqlite_store import WAIT_SECONDS, SqliteStore
from extproc.errors import InvalidInput
from extproc.snapshot.store import RolloutStore


def open_store(url: str, *, create: bool = False, wait: float = WAIT_SECONDS) -> RolloutStore:
    """Open the store at ``url``: ``sqlite:PATH``.

    Only ``create`` makes one where there is none. ``wait`` bounds, in seconds, how long an operation waits for
    another process.

    Raises:
        InvalidInput: ``store_url``, when the URL names no kind of store that there is.
        Unreachable: as ``RolloutStore`` says.
    """
    return SqliteStore(_path(url), create=create, wait=wait)


def beside(url: str, suffix: str) -> Path:
    """The file that belongs to the store at ``url`` and is called as it is, with ``suffix`` behind.

    There are ``.key`` (for pseudonyms), ``.ids`` (keys of decision ids), ``.feedback`` and ``.token`` (for feedback),
    ``.safety`` (kills and trips of this host) and the folder ``.serving`` (sockets that take kills).

    Raises:
        InvalidInput: ``store_url``, as ``open_store``.
    """
    path = _path(url)
    return path.with_name(f"{path.name}{suffix}")


def _path(url: str) -> Path:
    scheme, _, path = url.partition(":")
    if scheme != "sqlite" or not Path(path).name:
        raise InvalidInput.of("store_url", f"{url!r} is not a store; write sqlite:PATH", field="--store")
    return Path(path)
