"""Files that are whole: what is read is a regular file, what is written appears at once.

A pipe in its place would be read until somebody writes, and a device may do anything; the process that waits then is
one that others depend on. Files that a user names on a command line may be pipes, and are read without this.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_LET = "give this user the right to it and to its folder, or name another path"

_WAYS_OUT: Final = {
    errno.EACCES: _LET,
    errno.EPERM: _LET,
    errno.EROFS: "name a path that can be written",
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room on its disk",
    errno.EISDIR: "name a file in it",
    errno.ENOTDIR: "name another path",
}
"""What helps, by the number of the system's error."""


class NotRegular(OSError):
    """There is something under this name, and it is no regular file."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "this is not a regular file", str(path))


def read_regular(path: Path, most: int) -> bytes:
    """The content of the regular file ``path``, links followed; never waits for anybody.

    Raises:
        NotRegular: when it is something else.
        OSError: when it cannot be read, ``EFBIG`` when it has more than ``most`` bytes.
    """
    content = read_head(path, most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def read_head(path: Path, most: int) -> bytes:
    """The first ``most`` bytes of the regular file ``path``; as ``read_regular``, but no file has too many."""
    if not stat.S_ISREG(path.stat().st_mode):  # before it is opened, which some devices take for an order
        raise NotRegular(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotRegular(path)
        return file.read(most)


def why_not(error: OSError, path: Path) -> str:
    """Why ``path`` cannot be made, opened or written, and the way out, for people."""
    if error.errno == errno.ENOENT:
        missing = not os.path.isdir(path.parent)  # noqa: PTH112 - Path.is_dir raises where it may not be asked
        return "its folder is not there; make it first" if missing else "there is no such file"
    way_out = _WAYS_OUT.get(error.errno or 0)
    return (error.strerror or str(error)) + (f"; {way_out}" if way_out else "")


def write_whole(file: Path, content: bytes, mode: int = 0o644) -> None:
    """Put a file in the place of what is there in one rename: nobody, and no crash, sees a part of it.

    Its bits are those of ``mode`` that the one before has too, and its group is the same. Raises ``OSError``.
    """
    group = None
    with suppress(FileNotFoundError):
        before = file.stat()
        if stat.S_ISREG(before.st_mode):
            mode &= before.st_mode
            group = before.st_gid
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            if group is not None:
                with suppress(PermissionError):  # a group that we are not in; it then reads nothing
                    os.fchown(stream.fileno(), -1, group)
            os.fchmod(stream.fileno(), mode)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
