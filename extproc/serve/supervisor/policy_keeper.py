"""The supervisor's part in policies: those in force, what of them is in quarantine, and edits that are taken over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from extproc.errors import DropoutError, InvalidInput, Unreachable
from extproc.resources.folder_watch import FolderWatch
from extproc.resources.folders import FolderListing
from extproc.serve.messages import Quarantine, fingerprint
from extproc.serve.supervisor.folder_faults import FolderFaults
from extproc.serve.supervisor.policy_trial import Sources, Trial
from extproc.trouble import Troubles


class WatchedPolicies(Protocol):
    """Where policies come from."""

    def listing(self) -> FolderListing:
        """Their files, without reading them."""

    def read(self, *, empty: bool) -> Sources:
        """What they hold, which may be no policy only with ``empty``. Raises ``InvalidInput``."""


class PolicyKeeper:
    """Policies of some ``places``; what is wrong with them is in ``refusals``.

    ``inputs`` gives those to try changed policies on, by the path of a rule; ``swap`` has the workers decide by other
    policies, ``say`` writes for people that they do, and ``warn`` what they do not evaluate any more.
    """

    def __init__(
        self,
        places: WatchedPolicies,
        trial: Trial,
        poll: float,
        refusals: FolderFaults,
        *,
        inputs: Callable[[], Awaitable[Mapping[str, Any]]],
        swap: Callable[[Sources], Awaitable[None]],
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._places = places
        self._trial = trial
        self._poll = poll
        self._inputs = inputs
        self._swap = swap
        self._refusals = refusals
        self._say = say
        self._troubles = Troubles(warn)
        self._sources: Sources | None = None
        self._fingerprint = ""
        self._quarantined: set[str] = set()
        self._untried = False
        self._syncing = asyncio.Lock()

    @property
    def revision(self) -> str | None:
        """The fingerprint of those in force; None before there are any."""
        return self._sources.revision if self._sources is not None else None

    @property
    def body(self) -> str | None:
        """Those in force, as workers take them; None before there are any."""
        return self._sources.body if self._sources is not None else None

    @property
    def quarantined(self) -> list[str]:
        """The paths of the rules that are not evaluated, sorted."""
        return sorted(self._quarantined)

    @property
    def quarantine(self) -> Quarantine:
        """The quarantine as workers are told it."""
        return Quarantine(self._fingerprint, self.quarantined)

    def in_force(self, of_policies: str) -> bool:
        """Whether the policies with this fingerprint are those in force: only then a rule of theirs is taken out."""
        return of_policies == self._fingerprint

    def take_out(self, paths: set[str]) -> Quarantine:
        """Put rules into quarantine, until there are other policies; what to tell the workers."""
        self._quarantined |= paths
        told = [f"{path} is not evaluated until the policies change" for path in self.quarantined]
        self._troubles.note("quarantine", *told)
        return self.quarantine

    async def prepare(self) -> None:
        """Read and load them; they are evaluated for the first time in the workers, which know the inputs.

        There may be none yet: a rule that a rollout asks for is missing then, as one is that no policy has.

        Raises:
            InvalidInput: with all that is wrong with them.
            Unreachable: when they cannot be read or tried.
        """
        sources = await asyncio.to_thread(self._places.read, empty=True)
        faults = await self._trial.run(sources, {})
        if faults:
            raise InvalidInput(faults)
        self._take(sources)
        if sources.empty:
            self._say(f"policies: {self._places} has no .rego file yet: no rule is asked")

    async def run(self) -> None:
        """Look for edits, until cancelled."""
        watch = FolderWatch(self._places.listing)
        watch.take(await asyncio.to_thread(watch.now))
        await self.sync()  # an edit made while the workers started
        while True:
            await asyncio.sleep(self._poll)
            changed = await asyncio.to_thread(watch.changed)
            if changed is not None:
                watch.take(changed)
            if changed is not None or self._untried:
                await self.sync()

    async def sync(self) -> None:
        """Take the policies over if they changed and are good; otherwise the last good ones go on."""
        async with self._syncing:
            await self._sync()

    async def _sync(self) -> None:
        try:
            empty = self._sources is None or self._sources.empty
            sources = await asyncio.to_thread(self._places.read, empty=empty)
        except DropoutError as error:
            # What cannot be read today can be tomorrow, without an edit.
            self._untried = any(fault.code == "policy_unreadable" for fault in error.faults)
            self._refusals.note(error.faults)
            return
        self._untried = False
        if sources.body == self.body:  # another bundle may have the same revision
            self._refusals.note(())
            return
        try:
            faults = await self._trial.run(sources, await self._inputs())
        except Unreachable as error:  # says nothing about the policies: they are tried again
            self._untried = True
            faults = list(error.faults)
        if faults:
            self._refusals.note(faults)
            return
        self._take(sources)
        self._refusals.note(())
        self._quarantined.clear()
        self._troubles.note("quarantine")
        await self._swap(sources)
        self._say(f"policies: revision {sources.revision}")

    def _take(self, sources: Sources) -> None:
        self._sources, self._fingerprint = sources, fingerprint(sources.body)
