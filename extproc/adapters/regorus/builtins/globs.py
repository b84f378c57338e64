"""``regex.globs_match``: whether any text is matched by both of two globs, as the library decides it that OPA asks.

That library passes over some texts, so this goes the same way as it does. A glob is characters, ``.`` and ``[a-z]``,
each once or with ``*`` or ``+`` behind it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from extproc.adapters.regorus.builtins.builtin import Builtin

MAX_TOKENS: Final = 100
"""Of a glob, in which what is the same and repeated counts once."""

MAX_RANGE: Final = 65_536
"""Characters from the one to the other end of what stands in brackets."""

_TOKEN: Final = re.compile(
    r"(?:(?P<dot>\.)|\[(?P<set>(?:\\.|[^\]\\])*)\]|(?P<one>\\.|[^\[\]\\+*]))(?P<flag>[+*]?)", re.DOTALL
)
_RUNE: Final = re.compile(r"\\(?P<quoted>.)|(?P<plain>.)", re.DOTALL)


class Token(NamedTuple):
    """Characters of which one is matched, None for any; ``flag`` is ``*``, ``+`` or empty."""

    runes: frozenset[str] | None
    flag: str

    def meets(self, other: Token) -> bool:
        """Whether one character is matched by both."""
        return self.runes is None or other.runes is None or not self.runes.isdisjoint(other.runes)


Glob = Sequence[Token]


def tokens_of(text: str) -> list[Token]:
    """The tokens of a glob. Raises ``ValueError`` for what is none."""
    found: list[Token] = []
    at = 0
    while at < len(text):
        read = _TOKEN.match(text, at)
        if read is None:
            raise ValueError("no glob")
        runes = None if read["dot"] else _set(read["set"]) if read["one"] is None else frozenset(read["one"][-1])
        token, at = Token(runes, read["flag"]), read.end()
        if found and found[-1].flag and token.flag and found[-1].runes == token.runes:
            token = Token(runes, "+" if "+" in (found.pop().flag, token.flag) else "*")
        found.append(token)
    return found


def _set(text: str) -> frozenset[str]:
    """The characters in brackets, ranges among them."""
    runes: set[str] = set()
    before: str | None = None
    read = iter(_RUNE.finditer(text))
    for rune in read:
        if rune["plain"] != "-":
            before = rune[0][-1]
            runes.add(before)
            continue
        last = next(read, None)
        if before is None or last is None or last["plain"] == "-" or last[0][-1] < before:
            raise ValueError("no range of characters")
        if ord(last[0][-1]) - ord(before) > MAX_RANGE:
            raise ValueError("a range of more characters than there are of use")
        runes |= set(map(chr, range(ord(before), ord(last[0][-1]) + 1)))
        before = None
    return frozenset(runes)


def _trimmed(one: Glob, other: Glob) -> tuple[Glob, Glob] | None:
    """Both without what stands once at the same place from either end, but for one; None if that does not meet."""
    start = 0
    while start < min(len(one), len(other)) and not (one[start].flag or other[start].flag):
        if not one[start].meets(other[start]):
            return None
        start += 1
    start = max(start - 1, 0)
    cut = 0
    while cut < min(len(one), len(other)) - start and not (one[-1 - cut].flag or other[-1 - cut].flag):
        if not one[-1 - cut].meets(other[-1 - cut]):
            return None
        cut += 1
    cut = max(cut - 1, 0)
    return one[start : len(one) - cut], other[start : len(other) - cut]


class _Search:
    """Whether two globs meet; what was found for their rests is kept, so that it ends."""

    def __init__(self) -> None:
        self._known: dict[tuple[Glob, Glob], bool] = {}

    def meet(self, one: Glob, other: Glob) -> bool:
        """From the beginning of both."""
        at = 0
        while at < min(len(one), len(other)) and not (one[at].flag or other[at].flag):
            if not one[at].meets(other[at]):
                return False
            at += 1
        one, other = one[at:], other[at:]
        if not one or not other:
            return not one and not other
        if not one[0].flag:
            one, other = other, one
        return self._repeated(one, other) if one[0].flag == "*" else self._at_least_once(one, other)

    def _at_least_once(self, one: Glob, other: Glob) -> bool:
        if not one[0].meets(other[0]):
            return False
        return self._repeated(one, other[1:]) or (bool(other[0].flag) and self.meet(one[1:], other))

    def _repeated(self, one: Glob, other: Glob) -> bool:
        """The first token of ``one`` takes tokens of ``other``, until what follows it meets the rest."""
        key = (one, other)
        if key not in self._known:
            self._known[key] = self._taken(one, other)
        return self._known[key]

    def _taken(self, one: Glob, other: Glob) -> bool:
        for at, token in enumerate(other):
            if len(one) > 1 and token.meets(one[1]) and self.meet(one[1:], other[at:]):
                return True
            if not token.meets(one[0]):
                return False
        return len(one) == 1


def _globs_match(one: str, other: str) -> list[bool]:
    """Whether they meet, in a list that is empty where it would take too long."""
    globs = tokens_of(one), tokens_of(other)
    if max(map(len, globs)) > MAX_TOKENS:
        return []
    trimmed = _trimmed(tuple(globs[0]), tuple(globs[1]))
    return [trimmed is not None and _Search().meet(*trimmed)]


_GLOBS_MATCH: Final = """globs_match(a, b) := met[0 / count(met)] if {
	is_string(a)
	is_string(b)
	some met in host.regex.globs_match(a, b)
}"""

BUILTINS: Final = (Builtin("regex.globs_match", ("string",) * 2, _globs_match, _GLOBS_MATCH),)
