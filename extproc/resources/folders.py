"""The one way to look at a folder of files, of documents and of policies alike: names and stamps, nothing is read."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Stamp(NamedTuple):
    """What tells one state of a file from another without reading it; ``real`` is its path without any link."""

    real: str
    inode: int
    mtime_ns: int
    ctime_ns: int
    size: int


class FolderIdentity(NamedTuple):
    """What tells a folder from another that took its place: a volume was mounted there, or is no more."""

    device: int
    inode: int


class UnreadablePath(NamedTuple):
    """Why a part of a folder cannot be looked at: the number of the system's error, of a folder or of a file."""

    number: int
    folder: bool

    def __str__(self) -> str:
        return os.strerror(self.number)


@dataclass(frozen=True, slots=True)
class FolderListing:
    """What a folder holds, by path: its files, in order; the folders, itself among them; what cannot be looked at."""

    files: Mapping[str, Stamp]
    folders: Mapping[str, FolderIdentity]
    unreadable: Mapping[str, UnreadablePath]

    def once(self) -> Iterator[tuple[str, Stamp]]:
        """The files, each of them once: by the first of the paths that lead to it."""
        seen: set[str] = set()
        for path, stamp in self.files.items():
            if stamp.real not in seen:
                seen.add(stamp.real)
                yield path, stamp


def list_folder(root: str | Path, wanted: Callable[[str], bool]) -> FolderListing:
    """The files below ``root`` whose names are ``wanted``; links are followed, to files and to folders.

    Names that begin with a dot are passed over (a Kubernetes ConfigMap keeps its older self in ``..data``), and so is
    what is no regular file: a pipe would be read until somebody writes. A folder is entered once, whatever leads to it,
    and none that holds ``root``: two links that lead back would be a million million paths.
    """
    return _Walk(wanted).of(str(root))


class _Walk:
    """One look at a folder."""

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self._wanted = wanted
        self._files: dict[str, Stamp] = {}
        self._folders: dict[str, FolderIdentity] = {}
        self._unreadable: dict[str, UnreadablePath] = {}

    def of(self, root: str) -> FolderListing:
        entered = {str(parent) for parent in Path(os.path.realpath(root)).parents}
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            real = os.path.realpath(folder)
            if real not in entered:
                entered.add(real)
                waiting += reversed(self._enter(folder, real))
        return FolderListing(self._files, self._folders, self._unreadable)

    def _enter(self, folder: str, real: str) -> list[str]:
        """Take a folder's files; the paths of the folders in it."""
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
            status = os.stat(folder)  # noqa: PTH116 - several times a second, as below
        except OSError as error:
            self._unreadable[folder] = UnreadablePath(error.errno or errno.EIO, folder=True)
            return []
        self._folders[folder] = FolderIdentity(status.st_dev, status.st_ino)
        return [entry.path for entry in found if not self._take(entry, real)]

    def _take(self, entry: os.DirEntry[str], folder: str) -> bool:
        """Take a file, if that is what it is and somebody wants it; False for a folder."""
        linked, wanted = entry.is_symlink(), self._wanted(entry.name)
        try:
            if entry.is_dir():
                return False
            if wanted or linked:
                found = os.stat(entry.path)  # noqa: PTH116 - ten thousand files, several times a second
        except OSError as error:
            # A link that leads nowhere may have led to a folder, unless it is called as only files are.
            if (wanted or "." not in entry.name) and not _has_left(entry.path):
                self._unreadable[entry.path] = UnreadablePath(error.errno or errno.EIO, folder=False)
            return True
        if wanted and stat.S_ISREG(found.st_mode):
            real = os.path.realpath(entry.path) if linked else os.path.join(folder, entry.name)  # noqa: PTH118
            self._files[entry.path] = Stamp(real, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
        return True


def _has_left(path: str) -> bool:
    """Whether there is no such file any more, in a folder that can say so.

    What is there and leads nowhere has not left, nor has what may not be looked at, nor what went with its folder.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return os.path.isdir(os.path.dirname(path))  # noqa: PTH112, PTH120 - of a text
    except OSError:
        return False
    return False
