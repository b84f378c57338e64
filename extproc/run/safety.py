"""What hosts hold of kills and trips by themselves, told to the store as what it was then: by whom, and when."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.control.acting import act
from extproc.control.actions import EndKill, Kill, Lift, Trip
from extproc.errors import DropoutError, InvalidInput, Unreachable
from extproc.serve.supervisor.safety import StoreAnswer
from extproc.serve.supervisor.safety_file import peek
from extproc.snapshot.held import HeldEntry, HeldKey, HeldKill, HeldTrip
from extproc.store.ports import ActionStore

logger = logging.getLogger(__name__)

_OF_ONE_ROW: Final = "store_corrupt"


class StoreRegister:
    """The store at ``url``, as a host tells it what it holds in ``file``; see ``serve.supervisor.safety.Register``."""

    def __init__(self, url: str, file: Path) -> None:
        self._url = url
        self._file = file
        self._clock = SystemClock()
        self._breaker = f"breaker@{socket.gethostname()}"

    def tell(self, entries: Sequence[HeldEntry]) -> StoreAnswer:
        """Have ``entries`` written, kills first. What one of them is about may be damaged: the others are written."""
        changes: dict[HeldKey, HeldEntry | None] = {}
        fault = None
        try:
            store = open_store(self._url)
        except DropoutError as error:
            return StoreAnswer({}, error.faults[0])
        try:
            for entry in sorted(entries, key=lambda entry: isinstance(entry, HeldTrip)):
                try:
                    changes[entry.key] = self._told(store, entry)
                except Unreachable as error:
                    fault = error.faults[0]
                    if error.code != _OF_ONE_ROW:
                        break
                except DropoutError as error:
                    logger.warning("the store did not take what this host holds: %s", error)
        finally:
            store.close()
        return StoreAnswer(changes, fault)

    def tell_first(self) -> bool:
        """Have written what waits in this host's file; False when the store does not take it.

        For who is about to give a version more: what took it away must not come second.
        """
        waiting = [entry for entry in peek(self._file).values() if entry.waits]
        fault = self.tell(waiting).fault if waiting else None
        return fault is None or fault.code == _OF_ONE_ROW

    def _told(self, store: ActionStore, entry: HeldEntry) -> HeldEntry | None:
        if isinstance(entry, HeldKill):
            return self._told_kill(store, entry)
        return self._told_trip(store, entry)

    def _told_kill(self, store: ActionStore, kill: HeldKill) -> HeldKill | None:
        """The kill as it is to be held from now on; None once it was ended, here or by a restore that named it."""
        namespace, _, name = kill.rollout.partition("/")
        row = store.get(namespace, name)
        if row is None:
            return (
                None if kill.ended_at and not kill.stored else kill._replace(stored=kill.stored and not kill.in_force)
            )
        if kill.id in row.status.restored:
            return None
        if kill.ended_at:
            act(store, kill.ended_by, EndKill(namespace, name, kill.id, kill.ended_at), self._clock)
            return None
        if kill.id not in row.status.kills:
            act(store, kill.actor, Kill(namespace, name, kill.id, kill.at), self._clock)
        return kill._replace(stored=True)

    def _told_trip(self, store: ActionStore, held: HeldTrip) -> HeldTrip | None:
        """The trip as it is to be held from now on; None when there is nothing more to it."""
        trip = held.trip
        namespace, _, name = trip.rollout.partition("/")
        try:
            if not held.stored:
                action = Trip(namespace, name, trip.version, trip.attempt, trip.why, trip.at)
                (result,) = act(store, self._breaker, action, self._clock)
                if result.message and result.row.status.stable == trip.version:
                    logger.error("rollout %s: %s", trip.rollout, result.message)
            if held.lifted:
                lift = Lift(namespace, name, trip.version, trip.attempt, held.lifted)
                act(store, self._breaker, lift, self._clock)
        except InvalidInput as error:
            if error.code != "not_found":  # a document that is no good any more: there is nobody to tell
                logger.warning("a trip of %s was not written: %s", trip.rollout, error)
                return held._replace(stored=True, lifted=0.0) if held.in_force else None
            return held if held.in_force else None
        row = store.get(namespace, name)
        over = row is not None and row.status.attempt != trip.attempt
        return None if over or not held.in_force else held._replace(stored=True, lifted=0.0)
