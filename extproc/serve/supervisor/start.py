"""How ``dropout serve`` starts: everything is applied, loaded and tried before a worker takes a request."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from extproc.errors import DropoutError
from extproc.serve.supervisor.bundle_keeper import BundleKeeper
from extproc.serve.supervisor.first_service import see_failures
from extproc.serve.supervisor.keepers import Keepers
from extproc.serve.supervisor.policy_keeper import PolicyKeeper

OBSERVED_SECONDS: Final = 5.0
"""How long workers that serve wait to be called ready for an observer that listens."""


async def start(keepers: Keepers, stopping: asyncio.Event) -> bool:
    """Apply, load, compile, and only then let every worker listen; False when told to stop meanwhile.

    Raises:
        DropoutError: why it could not start.
    """
    prepared = asyncio.ensure_future(_prepare(keepers))
    stopped = asyncio.ensure_future(stopping.wait())
    await asyncio.wait({prepared, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not prepared.done():
        prepared.cancel()
        return False
    stopped.cancel()
    try:
        await prepared
    except ExceptionGroup as several:
        refused, surprise = several.split(DropoutError)
        if refused is None or surprise is not None:
            raise
        raise _first(refused) from None
    for slot in keepers.workers.slots:
        keepers.workers.start(slot, trial=True)
    if keepers.protection is not None:
        keepers.protection.start()
    if keepers.envoy is not None:
        await keepers.envoy.write_first()
    return await _first_service(keepers, stopping)


async def _first_service(keepers: Keepers, stopping: asyncio.Event) -> bool:
    """Every worker serves, and the observer listens unless it takes too long; False when told to stop meanwhile."""
    until = time.monotonic() + keepers.settings.start_timeout
    served_since: float | None = None
    while not stopping.is_set():
        now = time.monotonic()
        if not all(slot.serving for slot in keepers.workers.slots):
            see_failures(keepers.workers.slots, keepers.settings, until)
        else:
            served_since = now if served_since is None else served_since
            if keepers.protection is None or keepers.protection.up or now - served_since >= OBSERVED_SECONDS:
                keepers.workers.phase = "kept"
                _announce(keepers)
                return True
        await keepers.wait_for_change()
    return False


async def _prepare(keepers: Keepers) -> None:
    async with asyncio.TaskGroup() as several:
        several.create_task(keepers.safety.load())
        several.create_task(keepers.documents.prepare())
        if keepers.policies is not None:
            several.create_task(_prepare_policies(keepers.bundles, keepers.policies))
    keepers.last_tasks.keep("safety file", keepers.safety.run)
    keepers.last_tasks.keep("safety store", keepers.safety_store.run)


async def _prepare_policies(bundles: BundleKeeper | None, policies: PolicyKeeper) -> None:
    if bundles is not None:
        await bundles.prepare()
    await policies.prepare()


def _announce(keepers: Keepers) -> None:
    keepers.say(f"ready: {keepers.serving}")
    keepers.parts.manager.ready(keepers.serving)
    if keepers.parts.manager.watchdog:
        keepers.last_tasks.keep("service manager", keepers.parts.manager.keep_alive)


def _first(several: BaseExceptionGroup[DropoutError]) -> DropoutError:
    """One of several refusals; its exit code is the one that counts."""
    error: BaseException = several
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, DropoutError)
    return error
