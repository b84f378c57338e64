"""Every builtin of ours by its name."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Final

from extproc.adapters.regorus.builtins import (
    added,
    cidr,
    corrected,
    documents,
    globs,
    hashing,
    printing,
    regexes,
    times,
    tokens,
    urls,
    x509,
)
from extproc.adapters.regorus.builtins.builtin import Builtin

_FAMILIES: Final = (added, cidr, corrected, documents, globs, hashing, printing, regexes, times, tokens, urls, x509)

BUILTINS: Final[Mapping[str, Builtin]] = {
    builtin.name: builtin for builtin in chain.from_iterable(family.BUILTINS for family in _FAMILIES)
}
