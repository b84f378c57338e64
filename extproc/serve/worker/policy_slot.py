"""The policies that a worker decides by."""

from __future__ import annotations

from collections.abc import Collection

from extproc.datapath.embedded_policy import Embedded
from extproc.datapath.gather import PolicySource
from extproc.datapath.ports import EmbeddedEngine
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.watchdog import WatchedEngine


class PolicySlot:
    """The policies in force, swapped whole; what is in quarantine belongs to one set of them."""

    def __init__(self, page: HeartbeatPage) -> None:
        self._page = page
        self._watched: WatchedEngine | None = None
        self._fingerprint = ""
        self.current: PolicySource | None = None

    @property
    def revision(self) -> str:
        """The revision of the policies, empty without any."""
        return self.current.revision if self.current is not None else ""

    def use_remote(self, engine: PolicySource) -> None:
        """Decide by ``engine``, which is somewhere else: there is nothing to watch, and nothing to take out of it."""
        self.current = engine

    def swap(self, engine: EmbeddedEngine, quarantined: Collection[str] = (), fingerprint: str = "") -> None:
        """Decide by ``engine`` from now on; ``fingerprint`` is that of its policies."""
        watched = WatchedEngine(engine, self._page)
        watched.quarantine(frozenset(quarantined))
        self._watched, self.current, self._fingerprint = watched, Embedded(watched), fingerprint

    def quarantine(self, fingerprint: str, paths: Collection[str]) -> None:
        """Take rules out, if the policies in force are still those of this ``fingerprint``."""
        if self._watched is not None and self._fingerprint == fingerprint:
            self._watched.quarantine(frozenset(paths))
