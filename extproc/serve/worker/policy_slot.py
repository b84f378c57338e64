"""The policies that a worker decides by."""

from __future__ import annotations

from collections.abc import Collection

from extproc.datapath.embedded_policy import Embedded
from extproc.datapath.gather import PolicySource
from extproc.datapath.ports import EmbeddedEngine
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.watchdog import WatchedEngine


class PolicySlot:
    """The policies in force, swapped whole; what is in quarantine belongs to one revision of them."""

    def __init__(self, page: HeartbeatPage) -> None:
        self._page = page
        self._watched: WatchedEngine | None = None
        self.current: PolicySource | None = None

    @property
    def revision(self) -> str:
        """The revision of the policies, empty without any."""
        return self.current.revision if self.current is not None else ""

    def use_remote(self, engine: PolicySource) -> None:
        """Decide by ``engine``, which is somewhere else: there is nothing to watch, and nothing to take out of it."""
        self.current = engine

    def swap(self, engine: EmbeddedEngine, quarantined: Collection[str] = ()) -> None:
        """Decide by ``engine`` from now on."""
        watched = WatchedEngine(engine, self._page)
        watched.quarantine(frozenset(quarantined))
        self._watched, self.current = watched, Embedded(watched)

    def quarantine(self, revision: str | None, paths: Collection[str]) -> None:
        """Take rules out, if ``revision`` is still the one in force."""
        if self._watched is not None and self._watched.revision == revision:
            self._watched.quarantine(frozenset(paths))
