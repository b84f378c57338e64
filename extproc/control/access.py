"""The two ways to the rollouts have one face: ``DirectControl`` on the store, and the client of a controller."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from extproc.clock import Clock
from extproc.control.acting import act
from extproc.control.actions import Command
from extproc.control.documents import load
from extproc.control.emergency import Emergency, Hosts, NoHosts, Reached
from extproc.control.observer_reports import Hearing, WaitingHearing
from extproc.control.policy import ControlPolicy
from extproc.control.readiness import Clusters
from extproc.control.result import ActionResult
from extproc.net.callers import of_user
from extproc.store.ports import ActionStore
from extproc.store.records import HistoryEntry, StoredRollout, UnreadableRollout

WATCH_SECONDS: Final = 0.2
"""How often a rollout that is watched is looked at."""


class RolloutListing(NamedTuple):
    """All rollouts by namespace and name, and those that the store has and cannot read."""

    rollouts: Sequence[StoredRollout]
    unreadable: Sequence[UnreadableRollout] = ()


class Control(Protocol):
    """Where rollouts stand, and what can be done to them.

    Every method raises ``Unreachable`` when the store or the controller cannot be reached.
    """

    def rollouts(self) -> RolloutListing:
        """All rollouts; their documents may be left out."""
        ...

    def get(self, namespace: str, name: str) -> StoredRollout:
        """One rollout. Raises ``InvalidInput`` with ``not_found``."""
        ...

    def history(self, namespace: str, name: str, limit: int) -> Sequence[HistoryEntry]:
        """The newest ``limit`` entries, oldest first. Raises ``InvalidInput``: ``not_found`` if it never was."""
        ...

    def watch(self, namespace: str, name: str, seconds: float | None = None) -> Iterator[StoredRollout]:
        """The rollout as it stands, then again after each change, for ``seconds``, or for ever.

        One that is deleted comes once more, ``deleted``, as the last. Raises ``InvalidInput`` with ``not_found``.
        """
        ...

    def act(self, action: Command) -> ActionResult:
        """Do it. Raises as ``control.acting.act``."""
        ...

    def kill(self, namespace: str, name: str) -> Reached:
        """Leave only stable, with or without the store. Raises as ``Emergency.kill``."""
        ...

    def restore(self, namespace: str, name: str) -> Reached:
        """Undo every kill, with or without the store. Raises as ``Emergency.restore``."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class DirectControl:
    """A ``Control`` on the store itself, in the name of ``actor``. Use it from one thread, and close the store.

    ``policy`` and ``clusters`` are asked, and who ``hearing`` hears is heard, as ``act`` says. ``hosts`` are those that
    kill by themselves, if any can.
    """

    def __init__(
        self,
        store: ActionStore,
        actor: str,
        clock: Clock,
        policy: ControlPolicy | None = None,
        *,
        clusters: Clusters | None = None,
        hosts: Hosts | None = None,
        hearing: Hearing | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._actor = actor
        self._clock = clock
        self._policy = policy
        self._clusters = clusters
        self._emergency = Emergency(self.act, hosts or NoHosts(), actor, clock)
        self._hearing = WaitingHearing(hearing, wait) if hearing is not None else None
        self._wait = wait

    def rollouts(self) -> RolloutListing:
        """See ``Control``."""
        found = self._store.documents()
        return RolloutListing(found.rollouts, found.unreadable)

    def get(self, namespace: str, name: str) -> StoredRollout:
        """See ``Control``."""
        return load(self._store, namespace, name)

    def history(self, namespace: str, name: str, limit: int) -> Sequence[HistoryEntry]:
        """See ``Control``."""
        entries = self._store.history(namespace, name, limit)
        if not entries:
            self.get(namespace, name)
        return entries

    def watch(self, namespace: str, name: str, seconds: float | None = None) -> Iterator[StoredRollout]:
        """See ``Control``."""
        until = None if seconds is None else self._clock.monotonic() + seconds
        row = self.get(namespace, name)
        yield row
        while not row.deleted and (until is None or self._clock.monotonic() < until):
            self._wait(WATCH_SECONDS)
            after = self.changed(row)
            if after is not None:
                row = after
                yield row

    def changed(self, row: StoredRollout) -> StoredRollout | None:
        """The rollout as it stands, if that is not how ``row`` shows it; ``deleted`` if it is no more."""
        after = self._store.get(row.namespace, row.name)
        if after is None:
            return replace(row, deleted=True)
        return after if after.resource_version != row.resource_version else None

    def act(self, action: Command) -> ActionResult:
        """See ``Control``."""
        (result,) = act(self._store, self._actor, action, self._clock, self._policy, self._clusters, self._hearing)
        return result

    def kill(self, namespace: str, name: str) -> Reached:
        """See ``Control``."""
        return self._emergency.kill(namespace, name)

    def restore(self, namespace: str, name: str) -> Reached:
        """See ``Control``."""
        return self._emergency.restore(namespace, name)

    def close(self) -> None:
        """The store is whoever's who opened it."""


def this_user() -> str:
    """Who runs this process, in history."""
    return of_user(os.getuid()).name
