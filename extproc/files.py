"""Reading a file that is there to be read: what is no regular file is none.

A pipe in its place would be read until somebody writes, and a device may do anything; the process that waits then is
one that others depend on. Files that a user names on a command line may be pipes, and are read without this.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


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
    if not stat.S_ISREG(path.stat().st_mode):  # before it is opened, which some devices take for an order
        raise NotRegular(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotRegular(path)
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content
