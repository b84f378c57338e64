"""Who acts."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MAX_NAME: Final = 253
"""Characters of a name."""

MAX_GROUPS: Final = 64

_NAME: Final = re.compile(rf"[!-~]{{1,{MAX_NAME}}}").fullmatch
CERTIFIED: Final = "certificate:"
"""How names and groups begin that a certificate gives: its authority may call anybody as a user of this system is."""

_OURS: Final = ("controller@", "breaker@", "folder:", CERTIFIED)
"""How Dropout's own actions are signed, and those of certificates: nobody else's name begins so."""


class Actor(NamedTuple):
    """Who acts: the name in history, and for policy; ``groups`` for policy."""

    name: str
    groups: tuple[str, ...] = ()


def may_be_name(text: str) -> bool:
    """Whether somebody may be called this: printable ASCII without spaces, and not as Dropout signs itself."""
    return _NAME(text) is not None and not misleads(text)


def misleads(text: str) -> bool:
    """Whether it reads as if Dropout itself had acted, or a certificate had been shown."""
    return text.startswith(_OURS)
