"""The token that callers over HTTP show: one secret in a file of its owner's, made on first use."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Final

from extproc.errors import InvalidInput
from extproc.key_files import load_or_create

_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/=-]{16,512}").fullmatch
"""What RFC 6750 lets a bearer token be, and not so short that it can be guessed."""


def load_token(path: Path) -> bytes:
    """The token in the file ``path``, made with mode 0600 if there is none.

    Raises:
        InvalidInput: ``token_invalid`` when the file holds something else, ``token_exposed`` when others may read it,
            ``key_untrusted`` when somebody else may have written it.
        Unreachable: ``key_unreachable`` when it can be neither read nor made.
    """
    content = load_or_create(path, lambda: secrets.token_urlsafe(32).encode() + b"\n", "The token for feedback")
    if path.stat().st_mode & 0o077:
        raise InvalidInput.of("token_exposed", "The token may be read by others; make it mode 0600.", file=str(path))
    token = content.strip()
    if not _TOKEN(token):
        message = "A token is 16 to 512 letters, digits and -._~+/= on one line."
        raise InvalidInput.of("token_invalid", message, file=str(path))
    return token
