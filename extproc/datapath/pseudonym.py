"""Names for units that tell nothing about them.

The decision log has to say that two requests came from the same unit without saying who that is. A keyed hash does:
without the key, which is made on first use and never leaves the machine, no list of known users can be tried.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b
from pathlib import Path
from typing import Final

from extproc.errors import InvalidInput
from extproc.key_files import load_or_create

KEY_BYTES: Final = 32
PSEUDONYM_BYTES: Final = 16


def pseudonym(key: bytes, unit: bytes) -> str:
    """The pseudonym of ``unit`` under ``key``: 32 hexadecimal digits, the same for the same unit and key."""
    return blake2b(unit, key=key, digest_size=PSEUDONYM_BYTES).hexdigest()


def load_or_create_key(path: Path) -> bytes:
    """The key in the file ``path``, made if there is none.

    Raises:
        InvalidInput: ``key_invalid`` when the file holds something else; a key is never replaced. ``key_untrusted``
            when somebody else may have written it.
        Unreachable: ``key_unreachable`` when the file can be neither read nor made.
    """
    key = load_or_create(path, lambda: secrets.token_bytes(KEY_BYTES), "The key for pseudonyms")
    if len(key) != KEY_BYTES:
        raise InvalidInput.of("key_invalid", f"the key for pseudonyms is not {KEY_BYTES} bytes", file=str(path))
    return key
