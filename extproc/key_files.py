"""Keys and tokens in files: made on first use, readable by their owner only, never replaced, and nobody else's."""

from __future__ import annotations

import grp
import os
import pwd
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from extproc.errors import InvalidInput, Unreachable
from extproc.files import read_regular, why_not

MOST_BYTES: Final = 1 << 20


def load_or_create(path: Path, make: Callable[[], bytes], what: str) -> bytes:
    """What is in the file ``path``; if there is none, one of what ``make`` gives, mode 0600. ``what`` names it.

    Of several processes that arrive at once, one makes the file and all read that one: it appears under its name
    whole, by a hard link that fails if the name is taken.

    Raises:
        InvalidInput: ``key_untrusted`` when somebody else may have written what is there.
        Unreachable: ``key_unreachable`` when the file can be neither read nor made.
    """
    try:
        if (why := why_untrusted(path)) is None:
            if not path.exists():
                _create(path, make())
            if (why := why_untrusted(path)) is None:
                return read_regular(path, MOST_BYTES)
    except OSError as error:
        raise Unreachable.of(
            "key_unreachable", f"{what} cannot be used: {why_not(error, path)}", file=str(path)
        ) from error
    raise InvalidInput.of("key_untrusted", f"{what} may be somebody else's: {why}", file=str(path))


def why_untrusted(path: Path) -> str | None:
    """Why what is at ``path``, or what will be made there, may be another user's doing, as a clause; None if it is not.

    It belongs to this user, to root, or to whom its folder belongs, who could put anything there; and nobody else can
    write to either. Along a link both ends must be so. In a folder like /tmp, where a file is its owner's to replace,
    the file alone counts.

    Raises:
        OSError: when it cannot be seen.
    """
    for place in dict.fromkeys((path, Path(os.path.realpath(path)))):
        folder = place.parent.stat()
        if _others_write(folder) and not folder.st_mode & stat.S_ISVTX:
            return f"others can write to {place.parent}; keep it in a folder of its own (mode 0700)"
        try:
            found = place.lstat()
        except FileNotFoundError:
            continue
        if not belongs_here(found, folder):
            return f"{place} belongs to {_name_of(found.st_uid)}; remove it, and another one is made"
        if not stat.S_ISLNK(found.st_mode) and _others_write(found):
            return f"others can write to {place}; remove it, and another one is made, or make it mode 0600"
    return None


def make_private_folder(folder: Path, what: str, field: str, unusable: str, untrusted: str) -> None:
    """Make the folder for its owner alone, or see that nobody else can put files into the one that is there.

    ``what`` says what for, in the messages; ``field`` is where it was named.

    Raises:
        InvalidInput: with the code ``unusable`` when it can be neither made nor written to, or ``untrusted``.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.stat()
    except OSError as error:
        message = f"the {what} folder cannot be made: {error.strerror}; name another one"
        raise InvalidInput.of(unusable, message, file=str(folder), field=field) from error
    if not stat.S_ISDIR(found.st_mode) or not os.access(folder, os.W_OK | os.X_OK):
        message = f"the {what} folder is no folder that this user can write to; name another one"
        raise InvalidInput.of(unusable, message, file=str(folder), field=field)
    if _others_write(found) or found.st_uid not in (os.geteuid(), 0):
        message = f"others could put files of theirs into the {what} folder; name one that is yours alone (mode 0700)"
        raise InvalidInput.of(untrusted, message, file=str(folder), field=field)


def belongs_here(found: os.stat_result, folder: os.stat_result) -> bool:
    """Whether a file is this user's, root's, or of whom its folder belongs to, who could put anything there."""
    return found.st_uid in (os.geteuid(), 0, folder.st_uid)


def _others_write(found: os.stat_result) -> bool:
    """Whether more than the owner can write: a group that is the owner's alone, as many systems give it, is no more."""
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _is_private(found.st_gid, found.st_uid)


def _is_private(group: int, user: int) -> bool:
    with suppress(KeyError):
        owner, members = pwd.getpwuid(user), grp.getgrgid(group)
        return owner.pw_gid == group and members.gr_name == owner.pw_name and set(members.gr_mem) <= {owner.pw_name}
    return False


def _name_of(user: int) -> str:
    with suppress(KeyError):
        return f"the user {pwd.getpwuid(user).pw_name}"
    return f"user {user}"


def _create(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # somebody else was first; theirs counts
            os.link(draft, path)
    finally:
        draft.unlink()
