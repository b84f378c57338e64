"""Verdicts that a worker remembers: a policy that is asked the same again answers the same.

A policy has no clock but the input's, no randomness and nothing to ask (such builtins are refused when it is loaded),
so its verdict depends on what it reads alone. Between requests the engine's code and data leave the processor's
caches: an evaluation that takes 10 µs in a loop takes several times that in a server, and what is remembered none of
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from extproc.datapath.embedded_policy import EngineWrapper
from extproc.datapath.model import PolicyVerdict
from extproc.datapath.policy_input import NEW_EVERY_TIME
from extproc.datapath.ports import EmbeddedEngine

MAX_CHARACTERS: Final = 1024
"""Of an input, and of the texts of a verdict, for it to be remembered. What is larger seldom comes twice."""

_Asked = tuple[str, str]


class VerdictCache:
    """Makes engines that remember up to ``max_entries`` verdicts each; ``hits`` and ``misses`` are of them all."""

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self.hits = 0
        self.misses = 0

    def before(self, engine: EmbeddedEngine) -> EmbeddedEngine:
        """``engine``, asked only for verdicts that are not remembered. It starts with none."""
        return _Remembering(engine, self) if self.max_entries else engine


class _Remembering(EngineWrapper):
    """A ``EmbeddedEngine``. The oldest verdict makes room for a new one."""

    def __init__(self, engine: EmbeddedEngine, cache: VerdictCache) -> None:
        super().__init__(engine)
        self._cache = cache
        self._known: dict[_Asked, PolicyVerdict] = {}
        self._repeats: dict[str, bool] = {}

    def evaluate(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
        """The verdict of the rule at ``path``; never raises."""
        asked = self._asked(path, document)
        if asked is None:
            return self._engine.evaluate(path, document)
        known = self._known.get(asked)
        if known is not None:
            self._cache.hits += 1
            return known
        self._cache.misses += 1
        verdict = self._engine.evaluate(path, document)
        if verdict.fault is None and _texts(verdict) <= MAX_CHARACTERS:
            if len(self._known) >= self._cache.max_entries:
                del self._known[next(iter(self._known))]
            self._known[asked] = verdict
        return verdict

    def _asked(self, path: str, document: Mapping[str, Any]) -> _Asked | None:
        """What the verdict is remembered by: the rule and all that it may read. None if it is not worth it."""
        repeats = self._repeats.get(path)
        if repeats is None:
            reads = self._engine.reads(path)
            repeats = self._repeats[path] = not any(reads.include(*part) for part in NEW_EVERY_TIME)
        if not repeats:
            return None
        try:
            # As text, which is a copy: orjson's bytes sit in a buffer of kilobytes that was made smaller in place.
            text = orjson.dumps(document).decode()
        except TypeError:  # a lone surrogate or an integer over 64 bits: the engine's to judge
            return None
        return (path, text) if len(text) <= MAX_CHARACTERS else None


def _texts(verdict: PolicyVerdict) -> int:
    """Characters in a verdict."""
    texts = (verdict.reason, verdict.body, verdict.version, *(verdict.versions or ()))
    return sum(len(text) for text in texts if text is not None)
