"""Tokens that callers show, and whose they are: in a file for its owner alone, made on first use, read as it is."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from hmac import compare_digest
from pathlib import Path
from typing import Final

from extproc.errors import InvalidInput
from extproc.key_files import load_or_create
from extproc.net.actor import MAX_GROUPS, Actor, may_be_name
from extproc.net.followed_files import FollowedFiles

_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/=-]{16,512}").fullmatch
"""What RFC 6750 lets a bearer token be, and not so short that it can be guessed."""

MAX_TOKENS: Final = 1000
_FORM: Final = "a line is TOKEN [NAME [GROUP ...]], and a token 16 to 512 letters, digits and -._~+/="


class Tokens:
    """The tokens in the file ``path``, as they are now.

    Raises:
        InvalidInput, Unreachable: as ``load_tokens``, if they cannot be read the first time.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._file: FollowedFiles[Mapping[bytes, Actor]] = FollowedFiles(
            [path], lambda: load_tokens(path, what), "tokens"
        )

    def owner(self, token: bytes) -> Actor | None:
        """Whose ``token`` is; how long that takes says nothing about it."""
        self._file.fresh()
        found = None
        for known, owner in self._file.value.items():
            if compare_digest(token, known):
                found = owner
        return found


def load_tokens(path: Path, what: str) -> Mapping[bytes, Actor]:
    """The tokens in the file ``path``, made with one and mode 0600 if there is none. ``what`` names it.

    A line has a token, the name of who has it (default: the file's, without what follows the last dot), and the groups
    they are in. Empty lines and those that begin with ``#`` say nothing.

    Raises:
        InvalidInput: ``token_invalid`` when the file holds something else, ``token_exposed`` when others may read it,
            ``key_untrusted`` when somebody else may have written it.
        Unreachable: ``key_unreachable`` when it can be neither read nor made.
    """
    content = load_or_create(path, lambda: secrets.token_urlsafe(32).encode() + b"\n", what)
    if path.stat().st_mode & 0o077:
        raise InvalidInput.of("token_exposed", f"{what} may be read by others; make it mode 0600", file=str(path))
    found: dict[bytes, Actor] = {}
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not (words := line.split()) or words[0].startswith(b"#"):
            continue
        owner = _owner(words, path)
        if owner is None or words[0] in found:
            why = _FORM if owner is None else "a token is one person's"
            raise InvalidInput.of("token_invalid", f"{what}: {why}", file=str(path), line=number)
        found[words[0]] = owner
    if not 0 < len(found) <= MAX_TOKENS:
        raise InvalidInput.of("token_invalid", f"{what} has 1 to {MAX_TOKENS} tokens: {_FORM}", file=str(path))
    return found


def _owner(words: list[bytes], path: Path) -> Actor | None:
    name, *groups = [word.decode("latin-1") for word in words[1:]] or [path.stem]
    if not _TOKEN(words[0]) or len(groups) > MAX_GROUPS or not all(map(may_be_name, (name, *groups))):
        return None
    return Actor(name, tuple(groups))
