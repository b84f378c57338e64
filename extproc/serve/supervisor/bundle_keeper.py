"""The supervisor's part in bundles from servers: they are fetched, tried beside the other policies, and kept.

What is kept is in a file that ``PolicyKeeper`` reads as it does any bundle. Only one that was tried with success gets
there, so that the last good one decides after a restart, whether its server answers then or not.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from extproc.errors import DropoutError, Fault, Unreachable
from extproc.files import why_not, write_whole
from extproc.serve.supervisor.folder_faults import FolderFaults
from extproc.serve.supervisor.policy_trial import Sources, Trial
from extproc.trouble import Troubles

FIRST_SECONDS: Final = 10.0
"""How long a start waits for bundles that were never fetched."""

FIRST_RETRY_SECONDS: Final = 0.5


class BundleSource(Protocol):
    """Where a bundle is fetched from; ``name`` is what its file is called."""

    name: str
    url: str
    min_delay: float
    max_delay: float

    async def fetch(self) -> bytes | None:
        """The bundle; None where it is still the one that was ``taken``. Raises ``DropoutError``."""

    def taken(self) -> None:
        """What was fetched last is in force."""


class ReadWith(Protocol):
    """How all policies are read with one bundle in the place of another."""

    def __call__(self, place: Path, content: bytes) -> Sources:
        """Those with ``content`` as the bundle at ``place``. Raises ``InvalidInput``, ``OSError``."""


@dataclass(slots=True)
class FetchedBundle:
    """A bundle as it was fetched last. Times are OPA's, RFC 3339."""

    server: BundleSource
    file: Path
    revision: str = ""
    size: int = 0
    times: dict[str, str] = field(default_factory=dict)
    faults: Sequence[Fault] = ()
    kept: bytes = b""
    refused: bytes = b""

    def status(self) -> dict[str, Any]:
        """What OPA reports of one."""
        wrong = [str(fault) for fault in self.faults]
        return {
            "name": self.server.name,
            "type": "snapshot",
            "active_revision": self.revision,
            "size": self.size,
            **self.times,
            **(
                {"code": "bundle_error", "message": "; ".join(wrong), "errors": [{"message": each} for each in wrong]}
                if wrong
                else {}
            ),
        }


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """The bundles to fetch. ``revision_of`` says that of one, ``read_with`` gives it with the other policies.

    ``report`` tells somebody the status, ``labels`` are who it is of.
    """

    servers: Mapping[Path, BundleSource]
    read_with: ReadWith
    revision_of: Callable[[bytes], str]
    report: Callable[[Mapping[str, Any]], Awaitable[None]] | None
    labels: Mapping[str, str]


class BundleKeeper:
    """Fetches bundles; what is wrong with them is in ``refusals``.

    ``inputs`` gives those to try them on, ``activate`` has what is kept now decide.
    """

    def __init__(
        self,
        plan: BundlePlan,
        trial: Trial,
        refusals: FolderFaults,
        *,
        inputs: Callable[[], Awaitable[Mapping[str, Any]]],
        activate: Callable[[], Awaitable[None]],
        warn: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._trial = trial
        self._refusals = refusals
        self._inputs = inputs
        self._activate = activate
        self._troubles = Troubles(warn)
        self._reported: object = None
        self._reporting = asyncio.Lock()
        self._running = False
        self.bundles = [FetchedBundle(server, file) for file, server in plan.servers.items()]

    async def prepare(self) -> None:
        """Take the bundles that were kept, and wait for a while for those that never were."""
        for bundle in self.bundles:
            await asyncio.to_thread(self._recall, bundle)
        missing = [bundle for bundle in self.bundles if not bundle.size]
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                while missing:
                    await asyncio.gather(*map(self._fetch, missing))
                    missing = [bundle for bundle in missing if not bundle.size]
                    await asyncio.sleep(FIRST_RETRY_SECONDS if missing else 0)
        except TimeoutError:
            pass  # what is wrong was told; requests get what their rollouts say of a rule that is not there

    async def run(self) -> None:
        """Ask for each of them again and again, until cancelled."""
        self._running = True
        async with asyncio.TaskGroup() as several:
            for bundle in self.bundles:
                several.create_task(self._follow(bundle))

    def described(self) -> list[dict[str, Any]]:
        """Each of them, for whoever looks."""
        return [bundle.status() for bundle in self.bundles]

    async def _follow(self, bundle: FetchedBundle) -> None:
        failures = 0
        while True:
            await self._fetch(bundle)
            await self._report()
            failures = min(failures + 1, 16) if bundle.faults else 0
            server = bundle.server
            longest = min(2.0 ** (failures - 1), server.max_delay) if failures else server.max_delay
            shortest = longest / 2 if failures else server.min_delay
            await asyncio.sleep(random.uniform(shortest, longest))  # noqa: S311  # no secret

    async def _fetch(self, bundle: FetchedBundle) -> None:
        """Ask for it once, and keep it if it is another one and good."""
        bundle.times["last_request"] = _now()
        try:
            content = await bundle.server.fetch()
            bundle.times["last_successful_request"] = _now()
            if content is not None and not await self._keep(bundle, content):
                return
            self._note(bundle, ())
        except DropoutError as error:
            self._note(bundle, error.faults)

    async def _keep(self, bundle: FetchedBundle, content: bytes) -> bool:
        """Try it, and keep it if it is good; False if it is not."""
        bundle.times["last_successful_download"] = _now()
        digest = hashlib.sha256(content).digest()
        if digest in (bundle.kept, bundle.refused):  # of a server that knows no ETag
            return digest == bundle.kept
        try:
            sources = await asyncio.to_thread(self._plan.read_with, bundle.file, content)
            faults = await self._trial.run(sources, await self._inputs())
            if not faults:
                await asyncio.to_thread(write_whole, bundle.file, content, 0o600)
        except Unreachable:  # says nothing about the bundle: it is tried again
            raise
        except DropoutError as error:
            faults = [_named(fault, bundle) for fault in error.faults]
        except OSError as error:
            message = f"the bundle cannot be kept: {why_not(error, bundle.file)}"
            raise Unreachable.of("bundle_unkept", message, file=str(bundle.file)) from error
        if faults:
            bundle.refused = digest
            self._note(bundle, faults)
            return False
        self._took(bundle, content)
        bundle.server.taken()
        if self._running:  # else they are read for the first time afterwards
            await self._activate()
        return True

    def _recall(self, bundle: FetchedBundle) -> None:
        try:
            content = bundle.file.read_bytes()
            self._plan.read_with(bundle.file, content)
        except (OSError, DropoutError):
            return  # there is none, or it is not good any more; if no other one comes, that is told when all are read
        self._took(bundle, content)

    def _took(self, bundle: FetchedBundle, content: bytes) -> None:
        bundle.revision, bundle.size = self._plan.revision_of(content), len(content)
        bundle.kept, bundle.refused = hashlib.sha256(content).digest(), b""
        bundle.times["last_successful_activation"] = _now()

    def _note(self, bundle: FetchedBundle, faults: Sequence[Fault]) -> None:
        bundle.faults = faults
        self._refusals.note([fault for each in self.bundles for fault in each.faults])

    async def _report(self) -> None:
        """Tell the status where it changed, or was not heard."""
        if self._plan.report is None:
            return
        async with self._reporting:
            now = [(each.revision, each.times.get("last_successful_activation"), each.faults) for each in self.bundles]
            if now == self._reported:
                return
            status = {
                "labels": self._plan.labels,
                "bundles": {each.server.name: each.status() for each in self.bundles},
            }
            try:
                await self._plan.report(status)
            except Unreachable as error:
                self._troubles.note("status", str(error))
            else:
                self._reported = now
                self._troubles.note("status")


def _named(fault: Fault, bundle: FetchedBundle) -> Fault:
    """The fault of a bundle as a whole, which is known by its address."""
    return replace(fault, file=bundle.server.url) if fault.file == str(bundle.file) else fault


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
