"""The supervisor's part in safety: the kills and trips that this host holds by itself, and who has them.

Workers go by them at once. The file has them before anybody is told that they are kept; it is slow or away at times, so
it has a thread of its own, and nothing waits for it. The store has them as soon as it takes them (``safety_store``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from extproc.errors import Fault, Unreachable
from extproc.serve.messages import TakenAway
from extproc.serve.supervisor.safety_file import SafetyFile
from extproc.snapshot.held import (
    MOST_KILLS,
    Held,
    HeldEntry,
    HeldKey,
    HeldKill,
    HeldTrip,
    joined,
    kills_in_force,
    trips_in_force,
)
from extproc.snapshot.trips import LocalTrip
from extproc.trouble import Troubles

CHECK_SECONDS: Final = 0.2
"""How often the file is looked at for what another ``serve`` put there."""

RETRY_SECONDS: Final = 1.0
START_SECONDS: Final = 3.0
KEEP_SECONDS: Final = 1.0
"""How long whoever kills waits to hear that it stands in the file."""

LAST_WRITE_SECONDS: Final = 2.0
LAST_TELL_SECONDS: Final = 1.0

_T = TypeVar("_T")


class StoreAnswer(NamedTuple):
    """What the store made of entries: how they are to be held from now on, None: no more; and what is wrong with it."""

    changes: Mapping[HeldKey, HeldEntry | None]
    fault: Fault | None = None


class Register(Protocol):
    """The store, as kills and trips are told to it. Calls block, and come from one thread at a time."""

    def tell(self, entries: Sequence[HeldEntry]) -> StoreAnswer:
        """Have ``entries`` written that wait for it, and see which kills were ended. Never raises."""
        ...


class HostSafety:
    """What one ``serve`` holds, and keeps in ``file``. Belongs to one event loop.

    ``changed`` is called when workers are to go by something else, ``adopted`` with trips that another ``serve`` of the
    host made. ``warn`` writes a line for people.
    """

    def __init__(
        self,
        file: SafetyFile,
        *,
        changed: Callable[[], None],
        adopted: Callable[[Sequence[LocalTrip]], None],
        warn: Callable[[str], None],
    ) -> None:
        self._file = file
        self._changed = changed
        self._adopted = adopted
        self._warn = warn
        self._held: dict[HeldKey, HeldEntry] = {}
        self._unkept: dict[HeldKey, HeldEntry | None] = {}
        self._left_out: frozenset[HeldKey] = frozenset()
        self._turn = asyncio.Event()
        self._news_for_file = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "safety-file")
        self._troubles = Troubles(warn)
        self.news_for_store = asyncio.Event()
        self.fault: Fault | None = None
        self.store_fault: Fault | None = None

    # -- what is in force

    @property
    def trips(self) -> list[LocalTrip]:
        """The trips that workers are to go by."""
        return trips_in_force(self._held)

    @property
    def killed(self) -> list[str]:
        """The rollouts that are killed on this host."""
        return sorted({kill.rollout for kill in kills_in_force(self._held)})

    @property
    def in_force(self) -> TakenAway:
        """What a worker is told."""
        return TakenAway(self.trips, self.killed)

    @property
    def waiting(self) -> list[HeldEntry]:
        """What the store does not have."""
        return [entry for entry in self._held.values() if entry.waits]

    def is_kept(self) -> bool:
        """Whether all of it stands in the file."""
        return not self._unkept and not self._left_out and self.fault is None

    # -- its life

    async def load(self) -> None:
        """Take over what whoever was here before left in the file; what the store may not know of trips it is told."""
        with suppress(TimeoutError):  # a disk that hangs: it is gone on without
            await asyncio.wait_for(self._keep(), START_SECONDS)
        trips = [entry for entry in self._held.values() if isinstance(entry, HeldTrip)]
        self._put({trip.key: trip._replace(stored=False) for trip in trips})

    async def run(self) -> None:
        """Have the file agree with what is held, until cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news_for_file.wait(), CHECK_SECONDS)
            if not await self._keep():
                await asyncio.sleep(RETRY_SECONDS)

    async def close(self, tell: Callable[[], Awaitable[None]]) -> None:
        """Have the file written, and the store told by ``tell`` if it takes it now; say what it does not have."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._keep(), LAST_WRITE_SECONDS)
        if self.waiting:
            with suppress(TimeoutError):
                await asyncio.wait_for(tell(), LAST_TELL_SECONDS)
                await asyncio.wait_for(self._keep(), LAST_WRITE_SECONDS)
        if self.waiting:
            file = self._file.path
            where = f"{file} has it, and whoever starts next tells the store" if self.is_kept() else "nor has any file"
            self._warn(f"the store does not have {_counted(self.waiting)} yet: {where}")

    # -- what happens

    def observed(self, in_force: Sequence[LocalTrip], lifted: Sequence[LocalTrip]) -> None:
        """The observer tells all trips that are in force, and those that probes lifted."""
        changes: dict[HeldKey, HeldEntry | None] = {}
        lifted_at = {(trip.rollout, trip.version): trip.at for trip in lifted}
        now = {(trip.rollout, trip.version): trip for trip in in_force}
        for key, held in self._held.items():
            if isinstance(held, HeldTrip) and held.in_force and key not in now:
                over = held._replace(in_force=False, lifted=lifted_at.get(held.key, 0.0))
                changes[key] = over if over.waits else None
        for key, trip in now.items():
            before = self._held.get(key)
            stored = isinstance(before, HeldTrip) and before.stored and before.trip.at == trip.at
            changes[key] = HeldTrip(trip, stored=stored)
        self._put(changes)

    async def kill(self, kill: HeldKill) -> tuple[HeldKill, bool]:
        """Leave only stable of a rollout, at once; the kill that holds, and whether it stands in the file.

        Each is held beside those that there are, because a restore may have ended those already, unheard of here.
        """
        there = self.kills(kill.rollout)
        known = [held for held in there if held.id == kill.id]
        if not known and len(there) < MOST_KILLS:
            self._put({kill.key: kill})
            known = [kill]
        held = (known or there)[-1]
        return held, await self._kept(held.key)

    def kills(self, key: str) -> list[HeldKill]:
        """The kills of ``key`` that are in force."""
        return kills_in_force(self._held, key)

    async def end_kills(self, key: str, ids: Sequence[str], actor: str, at: float) -> list[str]:
        """End the kills ``ids`` of ``key``; those that were in force."""
        ended = [kill for kill in self.kills(key) if kill.id in ids]
        self._put({kill.key: kill._replace(ended_by=actor, ended_at=at) for kill in ended})
        for kill in ended:
            await self._kept(kill.key)
        return [kill.id for kill in ended]

    def described(self) -> dict[str, Any]:
        """For /snapshot."""
        kills = [entry for entry in self._held.values() if isinstance(entry, HeldKill)]
        trips = [entry for entry in self._held.values() if isinstance(entry, HeldTrip)]
        return {
            "file": str(self._file.path),
            "kept": self.is_kept(),
            "errors": [fault.as_dict() for fault in (self.fault, self.store_fault) if fault is not None],
            "kills": [{**kill._asdict(), "in_force": kill.in_force} for kill in kills],
            "trips": [
                {**one.trip._asdict(), "in_force": one.in_force, "stored": one.stored, "lifted": one.lifted}
                for one in trips
            ],
        }

    def _put(self, changes: Mapping[HeldKey, HeldEntry | None]) -> None:
        """Hold ``changes`` (None: no more) from now on, and have them kept and told."""
        news = {key: entry for key, entry in changes.items() if self._held.get(key) != entry}
        self._unkept.update(news)
        if self._hold(news):
            self._news_for_file.set()
            self.news_for_store.set()

    def _hold(self, news: Mapping[HeldKey, HeldEntry | None]) -> bool:
        """Take ``news`` over; whether there was any."""
        before = self.in_force
        for key, entry in news.items():
            if entry is None:
                self._held.pop(key, None)
            else:
                self._held[key] = entry
        if self.in_force != before:
            self._changed()
        return bool(news)

    # -- the file

    async def _keep(self) -> bool:
        """Write what the file does not have, or see what others wrote; whether the file could be used."""
        self._news_for_file.clear()
        unkept, known = dict(self._unkept), list(self._held.values())
        try:
            if unkept:
                unkept.update({key: self._held[key] for key in self._left_out if key in self._held})
                contents = await self._on_thread(lambda: self._file.update(unkept, known))
                found, self._left_out = contents.held, contents.left_out
                self._unkept = {key: new for key, new in self._unkept.items() if unkept.get(key, self) is not new}
            else:
                changed = await self._on_thread(self._file.read_if_changed)
                found = changed if changed is not None else self._held
        except Unreachable as error:
            self._note(error.faults[0])
            return False
        self._note(self._full() if self._left_out else None)
        self._take(found)
        self._turn.set()
        self._turn = asyncio.Event()
        return True

    def _take(self, found: Held) -> None:
        """Go by what another ``serve`` put into the file; no end that it tells is forgotten here."""
        news: dict[HeldKey, HeldEntry | None] = {}
        for key, entry in found.items():
            ours = self._held.get(key)
            if key not in self._unkept and (merged := joined(entry, ours) if ours is not None else entry) != ours:
                news[key] = merged
        for key, held in self._held.items():
            written = key not in self._unkept and key not in self._left_out
            if written and key not in found and isinstance(held, HeldTrip) and not held.in_force:
                news[key] = None  # somebody else told the store
        trips = [one.trip for key, one in news.items() if isinstance(one, HeldTrip) and one.in_force]
        new_trips = [trip for trip in trips if (trip.rollout, trip.version) not in self._held]
        if self._hold(news):
            self.news_for_store.set()
        if new_trips:
            self._adopted(new_trips)

    async def _kept(self, key: HeldKey) -> bool:
        """Whether the entry stands in the file, once that is known."""
        with suppress(TimeoutError):
            async with asyncio.timeout(KEEP_SECONDS):
                while key in self._unkept:
                    await self._turn.wait()
        return key not in self._unkept and key not in self._left_out

    def _note(self, fault: Fault | None) -> None:
        self.fault = fault
        also = "what it does not have holds as long as this process lives"
        self._troubles.note_codes("safety file", {fault.code: f"{fault}; {also}"} if fault is not None else {})

    def _full(self) -> Fault:
        message = f"there is no room for {len(self._left_out)} of this host's kills and trips"
        return Fault("safety_file_full", message, file=str(self._file.path))

    async def _on_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    # -- the store

    @property
    def asked(self) -> list[HeldEntry]:
        """What the store is to be told, or asked about: whether a kill was ended."""
        return [entry for entry in self._held.values() if entry.waits or isinstance(entry, HeldKill)]

    def answered(self, asked: Sequence[HeldEntry], answer: StoreAnswer) -> None:
        """Take over what the store made of those that were ``asked``."""
        self.store_fault = answer.fault
        before = {entry.key: entry for entry in asked}
        news: dict[HeldKey, HeldEntry | None] = {}
        for key, entry in answer.changes.items():
            ours = self._held.get(key)
            if ours == before[key]:
                news[key] = entry
            elif ours is not None and entry is not None:  # it was changed meanwhile
                news[key] = joined(entry, ours)
        self._put(news)


def _counted(entries: Sequence[HeldEntry]) -> str:
    kills = sum(isinstance(entry, HeldKill) for entry in entries)
    trips = len(entries) - kills
    parts = [f"{count} {what}{'s' if count > 1 else ''}" for count, what in ((kills, "kill"), (trips, "trip")) if count]
    return " and ".join(parts)
