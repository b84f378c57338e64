"""Which name may have been meant by one that is not known, and lists of names, as messages have them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def close_to(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that is most like ``word``, upper and lower case aside; None if none is like it."""
    names = {name.casefold(): name for name in reversed(list(known))}
    close = difflib.get_close_matches(word.casefold(), names, n=1)
    return names[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'setWeight'?``, to be put after what is said of ``word``; empty if nothing is like it."""
    close = close_to(word, known)
    return f"; did you mean {close!r}?" if close is not None else ""


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
