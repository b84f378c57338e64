"""Which name may have been meant by one that is not known, and lists of names, as messages have them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Final

_OFFERED: Final = 3
"""Keys of one name that are offered; there may be one in each namespace."""


def close_to(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that is most like ``word``, upper and lower case aside; None if none is like it."""
    names = {name.casefold(): name for name in reversed(list(known))}
    close = difflib.get_close_matches(word.casefold(), names, n=1)
    return names[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'setWeight'?``, to be put after what is said of ``word``; empty if nothing is like it."""
    close = close_to(word, known)
    return f"; did you mean {close!r}?" if close is not None else ""


def did_you_mean_key(namespace: str, name: str, known: Iterable[str]) -> str:
    """``; did you mean 'risk/credit'?`` of keys ``namespace/name``: the name counts more than where it is."""
    keys: dict[str, list[str]] = {}
    for key in known:
        keys.setdefault(key.rpartition("/")[2], []).append(key)
    meant = keys.get(name) or keys.get(close_to(name, keys) or "")
    if not meant:
        return ""
    here = [key for key in meant if key.startswith(f"{namespace}/")] or meant
    return f"; did you mean {' or '.join(map(repr, here[:_OFFERED]))}?"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
