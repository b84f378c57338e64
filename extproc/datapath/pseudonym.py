"""Names for units that tell nothing about them.

The decision log has to say that two requests came from the same unit without saying who that is. A keyed hash does:
without the key, which is made on first use and never leaves the machine, no list of known users can be tried.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

from extproc.errors import InvalidInput, Unreachable

KEY_BYTES: Final = 32
PSEUDONYM_BYTES: Final = 16


def pseudonym(key: bytes, unit: bytes) -> str:
    """The pseudonym of ``unit`` under ``key``: 32 hexadecimal digits, the same for the same unit and key."""
    return blake2b(unit, key=key, digest_size=PSEUDONYM_BYTES).hexdigest()


def load_or_create_key(path: Path) -> bytes:
    """The key in the file ``path``, made with mode 0600 if there is none.

    Of several processes that arrive at once, one makes the key and all read that one: it appears under its name
    whole, by a hard link that fails if the name is taken.

    Raises:
        InvalidInput: ``key_invalid`` when the file holds something else; a key is never replaced.
        Unreachable: ``key_unreachable`` when the file can be neither read nor made.
    """
    try:
        if not path.exists():
            _create(path)
        key = path.read_bytes()
    except OSError as error:
        raise Unreachable.of(
            "key_unreachable", f"The key for pseudonyms cannot be used: {error.strerror}.", file=str(path)
        ) from error
    if len(key) != KEY_BYTES:
        raise InvalidInput.of("key_invalid", f"The key for pseudonyms is not {KEY_BYTES} bytes.", file=str(path))
    return key


def _create(path: Path) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # somebody else was first; theirs is the key
            os.link(draft, path)
    finally:
        draft.unlink()
