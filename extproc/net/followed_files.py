"""Files that are read again when they change, by whoever needs what they say; no thread and no timer looks at them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from extproc.errors import DropoutError
from extproc.trouble import Troubles

logger = logging.getLogger(__name__)

CHECK_SECONDS: Final = 0.5
"""How old what is known may be."""

FileStamps = tuple[tuple[int, int, int], ...]

_T = TypeVar("_T")


class FollowedFiles(Generic[_T]):
    """What ``read`` made of the files in ``paths``; what they say when they are wrong is not taken.

    Raises:
        DropoutError: as ``read``, the first time.
        OSError: when a file is not there, the first time.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        read: Callable[[], _T],
        what: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = paths
        self._read = read
        self._what = what
        self._troubles = Troubles(logger.warning, monotonic)
        self._monotonic = monotonic
        self._checked_at = monotonic()
        self._refused: FileStamps | None = None
        self._stamp: FileStamps = ()
        self.value = read()
        """What was last read."""
        self._stamp = self._now()

    def fresh(self) -> bool:
        """Look whether the files changed, and read them again if they did; whether ``value`` is new. Never raises."""
        now = self._monotonic()
        if now - self._checked_at < CHECK_SECONDS:
            return False
        self._checked_at = now
        stamp: FileStamps = ()
        try:
            stamp = self._now()
            if stamp in (self._stamp, self._refused):
                return False
            self.value = self._read()
        except (DropoutError, OSError) as error:
            if stamp != self._refused:  # once for each state of the files
                self._refused = stamp
                self._troubles.note(self._what, f"what changed is not used: {error}")
            return False
        self._stamp, self._refused = stamp, None
        self._troubles.note(self._what)
        logger.info("%s read again from %s", self._what, self._paths[0])
        return True

    def _now(self) -> FileStamps:
        """What changes when a file does."""
        return tuple(
            (found.st_mtime_ns, found.st_size, found.st_ino) for found in (path.stat() for path in self._paths)
        )
