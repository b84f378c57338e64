"""Keys and tokens in files: made on first use, readable by their owner only, never replaced."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from extproc.errors import Unreachable


def load_or_create(path: Path, make: Callable[[], bytes], what: str) -> bytes:
    """What is in the file ``path``; if there is none, one of what ``make`` gives, mode 0600. ``what`` names it.

    Of several processes that arrive at once, one makes the file and all read that one: it appears under its name
    whole, by a hard link that fails if the name is taken.

    Raises:
        Unreachable: ``key_unreachable`` when the file can be neither read nor made.
    """
    try:
        if not path.exists():
            _create(path, make())
        return path.read_bytes()
    except OSError as error:
        raise Unreachable.of("key_unreachable", f"{what} cannot be used: {error.strerror}.", file=str(path)) from error


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
