"""Every builtin of ours by its name."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Final

from extproc.adapters.regorus.builtins import cidr, corrected, hashing, tokens
from extproc.adapters.regorus.builtins.builtin import Builtin

BUILTINS: Final[Mapping[str, Builtin]] = {
    builtin.name: builtin for builtin in chain(cidr.BUILTINS, corrected.BUILTINS, hashing.BUILTINS, tokens.BUILTINS)
}
