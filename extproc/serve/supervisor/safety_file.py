"""The file beside the store in which a host's kills and trips stand: no full disk keeps them from being written.

It has a fixed size, whose blocks are taken when it is made, and is overwritten in place and synced. There are two
slots; a write goes to the older one, so that one that is torn leaves what was there before it. Every ``serve`` of a
store on this host shares the file: who writes holds its lock, reads what stands there, and adds what it knows.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from extproc.errors import Unreachable
from extproc.files import why_not
from extproc.key_files import belongs_here
from extproc.snapshot.held import Held, HeldEntry, HeldKey, from_rows, joined, to_rows

SLOT_BYTES: Final = 1 << 19
FILE_BYTES: Final = 2 * SLOT_BYTES
"""Room for 1 500 entries of usual length."""

LOCK_SECONDS: Final = 1.0
"""How long another process may hold the lock."""

MODE: Final = 0o600

_MAGIC: Final = b"drsafe01"
_HEAD: Final = struct.Struct("<8sQI16s")
_LOOSE: Final = 0o077


class SafetySlot(NamedTuple):
    """What a slot holds: the number of its write, and the entries."""

    number: int
    held: dict[HeldKey, HeldEntry]


class Contents(NamedTuple):
    """What stands in the file. ``left_out`` are entries for which there was no room."""

    held: Held
    left_out: frozenset[HeldKey] = frozenset()


def packed(number: int, rows: list[list[Any]]) -> tuple[bytes, int]:
    """The bytes of a slot with as many of ``rows`` as fit, the first of them, and how many those are."""
    parts, length = [], 2
    for row in rows:
        part = orjson.dumps(row)
        if _HEAD.size + length + len(part) + 1 > SLOT_BYTES:
            break
        parts.append(part)
        length += len(part) + 1
    payload = b"[" + b",".join(parts) + b"]"
    return _HEAD.pack(_MAGIC, number, len(payload), _digest(number, payload)) + payload, len(parts)


def unpacked(slot: bytes) -> SafetySlot | None:
    """What a slot holds; None if that is not what was written."""
    if len(slot) < _HEAD.size:
        return None
    magic, number, length, digest = _HEAD.unpack_from(slot)
    payload = slot[_HEAD.size : _HEAD.size + length]
    if magic != _MAGIC or digest != _digest(number, payload):
        return None
    try:
        return SafetySlot(number, from_rows(orjson.loads(payload)))
    except (ValueError, TypeError, OverflowError):
        return None


def newest(content: bytes) -> SafetySlot | None:
    """The slot that was written last and whole, of the bytes of a file."""
    slots = [unpacked(content[start : start + SLOT_BYTES]) for start in (0, SLOT_BYTES)]
    return max((slot for slot in slots if slot is not None), key=lambda slot: slot.number, default=None)


def place_of(number: int) -> int:
    """Where the slot of the write ``number`` begins: writes take turns."""
    return (number % 2) * SLOT_BYTES


def _digest(number: int, payload: bytes) -> bytes:
    return hashlib.blake2b(struct.pack("<Q", number) + payload, digest_size=16).digest()


class SafetyFile:
    """The file at ``path``. Every call blocks, and comes from one thread at a time.

    ``warn`` is told, in a line, of a file that was no good and is made anew. Raises ``Unreachable`` with
    ``safety_file_unusable`` when the file can be neither read nor made.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path = path
        self._warn = warn
        self._fd = -1
        self._seen = b""
        self._opened = False

    def read(self) -> Held:
        """What stands there; the file is made if there is none."""
        return self.update({}, ()).held

    def read_if_changed(self) -> Held | None:
        """What stands there, if anybody wrote since this was last asked or written."""
        with suppress(OSError):
            if self._fd >= 0 and self._is_file() and _heads(self._fd) == self._seen:
                return None
        return self.read()

    def update(self, changes: Mapping[HeldKey, HeldEntry | None], known: Iterable[HeldEntry]) -> Contents:
        """Put ``changes`` into what stands there, None taking an entry out; what stands there then has been synced.

        A file that is another one than before, or made anew, gets all that is ``known``.
        """
        with self._locked() as fd:
            content = os.pread(fd, FILE_BYTES + 1, 0)
            found = newest(content)
            held = dict(found.held) if found is not None else {}
            if found is None and content.strip(b"\0"):
                self._warn(f"{self.path} is damaged: it is made anew, with what is known here")
            if self._opened or found is None:
                held = _changed(held, {entry.key: entry for entry in known})
            after = _changed(held, changes)
            self._opened = False
            if found is not None and after == found.held and len(content) == FILE_BYTES:
                self._seen = _heads(fd)
                return Contents(after)
            return self._write(fd, found.number + 1 if found is not None else 1, after)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, fd: int, number: int, held: Held) -> Contents:
        rows = to_rows(held.values())
        slot, kept = packed(number, rows)
        if os.fstat(fd).st_size != FILE_BYTES:
            _take_blocks(fd)
        if os.pwrite(fd, slot, place_of(number)) != len(slot):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
        self._seen = _heads(fd)
        within = from_rows(rows[:kept])
        return Contents(held, frozenset(held.keys() - within.keys()))

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, open and locked: the one that the path leads to, and nobody else's."""
        try:
            fd = self._lock()
            try:
                yield fd
            finally:
                with suppress(OSError):
                    fcntl.flock(fd, fcntl.LOCK_UN)
        except OSError as error:
            self.close()
            message = f"kills and trips of this host cannot be kept: {why_not(error, self.path)}"
            raise Unreachable.of("safety_file_unusable", message, file=str(self.path)) from error

    def _lock(self) -> int:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            if self._fd < 0:
                self._fd, self._opened = self._open(), True
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
                continue
            if self._is_file():
                return self._fd
            self.close()  # somebody removed it, or put another one there

    def _is_file(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), self.path.lstat())
        except FileNotFoundError:
            return False

    def _open(self) -> int:
        while True:
            self._remove_what_is_no_file_of_ours()
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                self._make()
                continue
            if stat.S_IMODE(os.fstat(fd).st_mode) & _LOOSE:
                self._warn(f"{self.path} was open to others: its mode is put right")
                os.fchmod(fd, MODE)
            return fd

    def _remove_what_is_no_file_of_ours(self) -> None:
        """What another user put there, or a link, must not say what is in force here."""
        if _is_there(self.path) and not _is_trusted(self.path):
            self._warn(f"{self.path} is no file of this user's: it is made anew")
            self.path.unlink()

    def _make(self) -> None:
        """Have a whole file appear under the name: of several processes that make one, the first one's counts."""
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        try:
            _take_blocks(fd)
            os.pwrite(fd, packed(1, [])[0], place_of(1))
            os.fsync(fd)
            with suppress(FileExistsError):
                os.link(draft, self.path)
        finally:
            os.close(fd)
            draft.unlink()


def _changed(held: Held, changes: Mapping[HeldKey, HeldEntry | None]) -> dict[HeldKey, HeldEntry]:
    after = dict(held)
    for key, entry in changes.items():
        if entry is None:
            after.pop(key, None)
        else:
            after[key] = joined(after.get(key), entry)
    return after


def _take_blocks(fd: int) -> None:
    """Give the file its size, in blocks of its own: what is only reserved may still need room when it is written."""
    before = os.fstat(fd).st_size
    try:
        os.posix_fallocate(fd, 0, FILE_BYTES)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot: it is written all the same
            raise
    os.ftruncate(fd, FILE_BYTES)
    if before < FILE_BYTES:
        os.pwrite(fd, bytes(FILE_BYTES - before), before)
    os.fsync(fd)


def peek(path: Path) -> Held:
    """What stands in the file at ``path``, for who does not write there; nothing if there is no good one."""
    try:
        content = path.read_bytes() if _is_trusted(path) else b""
    except OSError:
        return {}
    found = newest(content)
    return found.held if found is not None else {}


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _is_trusted(path: Path) -> bool:
    """Whether it is a file, no link, of somebody who is trusted with the keys as well."""
    found = path.lstat()
    return stat.S_ISREG(found.st_mode) and belongs_here(found, path.parent.stat())


def _heads(fd: int) -> bytes:
    """What tells whether anybody wrote."""
    return os.pread(fd, _HEAD.size, 0) + os.pread(fd, _HEAD.size, SLOT_BYTES)
