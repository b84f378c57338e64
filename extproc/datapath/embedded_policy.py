"""Policy engines of this process: one before another, and one as if it might have to be waited for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extproc.datapath.model import PolicyVerdict
from extproc.datapath.ports import EmbeddedEngine, InputReads
from extproc.snapshot.model import PolicyUse


class EngineWrapper:
    """An ``EmbeddedEngine`` that evaluates in its own way, and has all else from ``engine``."""

    def __init__(self, engine: EmbeddedEngine) -> None:
        self._engine = engine

    @property
    def revision(self) -> str:
        """The fingerprint of the policies."""
        return self._engine.revision

    def reads(self, path: str) -> InputReads:
        """The parts of the input that the rule at ``path`` can read."""
        return self._engine.reads(path)

    def can_deny(self, path: str) -> bool:
        """Whether the rule at ``path`` can deny."""
        return self._engine.can_deny(path)

    def has(self, path: str) -> bool:
        """Whether anything gives ``path`` a value."""
        return self._engine.has(path)


class Embedded:
    """A ``PolicyEngine``, and a ``PolicySource``, whose verdicts are all known at once.

    The engine's methods are attributes, not called by methods of ours: they are on the way of every decision.
    """

    def __init__(self, engine: EmbeddedEngine) -> None:
        self.revision = engine.revision
        self.known = engine.evaluate
        self.reads = engine.reads
        self.can_deny = engine.can_deny
        self.has = engine.has

    async def ask(self, path: str, document: Mapping[str, Any], within: float) -> PolicyVerdict:
        """What is known."""
        return self.known(path, document)

    async def fetch(self, use: PolicyUse, document: Mapping[str, Any], within: float) -> PolicyVerdict:
        """What is known."""
        return self.known(use.path, document)

    def reopen(self) -> None:
        """Nothing was opened."""

    async def close(self) -> None:
        """Nothing to let go of."""
