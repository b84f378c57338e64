"""The file of the keys of decision ids: several keys, of which the first makes ids and all open them.

To change keys, put a new one (64 hexadecimal digits) on the first line and have workers read the file again; the old
one may go when no label for its ids is awaited any more.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from extproc.clock import Clock
from extproc.decision_id.codec import IdFault, Opened, open_id
from extproc.decision_id.keys import KEY_BYTES, IdKeys
from extproc.errors import DropoutError, InvalidInput
from extproc.key_files import load_or_create

_WHAT: Final = "the keys of decision ids"
_LINE: Final = re.compile(rb"[0-9a-fA-F]{64}").fullmatch
_CHECK_SECONDS: Final = 1.0


class KeyFile:
    """The keys in the file ``path``, made with one key if there is none; ``current`` are those last read.

    Raises:
        InvalidInput: ``key_invalid`` when the file holds something else; it is never replaced. ``key_untrusted`` when
            somebody else may have written it.
        Unreachable: ``key_unreachable`` when it can be neither read nor made.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._checked_at = clock.monotonic()
        self._seen: tuple[int, int] | None = None
        self.current = self._read()

    def reload(self) -> None:
        """Read the file again. Raises as the constructor does, and then keeps the keys that it had."""
        self.current = self._read()

    def open(self, text: str) -> Opened | IdFault:
        """As ``open_id``. Never raises.

        At an id of an unknown key it looks, at most once a second, whether somebody has put a new one into the file.
        """
        opened = open_id(self.current, text)
        if opened is IdFault.UNKNOWN_KEY and self.renewed():
            opened = open_id(self.current, text)
        return opened

    def renewed(self) -> bool:
        """Whether there are other keys than before: the file changed, which is looked at once a second at most.

        Never raises; where the file cannot be read the keys stay.
        """
        now = self._clock.monotonic()
        if now - self._checked_at < _CHECK_SECONDS:
            return False
        self._checked_at = now
        try:
            if self._state() == self._seen:
                return False
            self.reload()
        except (DropoutError, OSError):
            return False
        return True

    def _state(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_ino, found.st_mtime_ns

    def _read(self) -> IdKeys:
        self._seen = None
        with suppress(OSError):  # before it is read, so that what changes meanwhile is seen the next time
            self._seen = self._state()
        content = load_or_create(self._path, lambda: secrets.token_hex(KEY_BYTES).encode() + b"\n", _WHAT)
        lines = content.split()
        if not lines or not all(map(_LINE, lines)):
            raise InvalidInput.of("key_invalid", f"{_WHAT} are lines of 64 hexadecimal digits", file=str(self._path))
        try:
            return IdKeys([bytes.fromhex(line.decode()) for line in lines])
        except ValueError as error:
            raise InvalidInput.of("key_invalid", f"{_WHAT}: {error}; make another", file=str(self._path)) from error
