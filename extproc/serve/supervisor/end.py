"""How ``dropout serve`` ends: a successor may have the sockets, workers drain, and what is known is written."""

from __future__ import annotations

import asyncio
import time

from extproc.net.endpoints import UnixEndpoint
from extproc.serve.supervisor.keepers import Keepers


async def stop(keepers: Keepers, hurry: asyncio.Event) -> None:
    """Drain every worker; those that take too long, or that are told a second time, end now."""
    keepers.parts.manager.stopping()
    if keepers.lock is not None:
        keepers.lock.release()  # from here on a successor may take the sockets over
    if keepers.protection is not None:
        keepers.protection.release()
    keepers.tasks.cancel()
    ending = [asyncio.ensure_future(auxiliary.stop()) for auxiliary in keepers.beside]
    if keepers.policy_shadow is not None:
        ending.append(asyncio.ensure_future(keepers.policy_shadow.stop()))
    keepers.workers.drain()
    until = time.monotonic() + keepers.plan.drain_timeout + keepers.settings.lame_duck + 2.0
    while (
        not hurry.is_set() and time.monotonic() < until and any(slot.state != "dead" for slot in keepers.workers.slots)
    ):
        await keepers.wait_for_change()
    keepers.workers.kill()
    for slot in keepers.workers.slots:
        slot.child.process.wait()
    await asyncio.gather(*ending)
    if keepers.protection is not None:
        await keepers.protection.stop()
    await keepers.last_tasks.end()
    keepers.host_socket.close()
    await keepers.safety.close(keepers.safety_store.tell)
    if keepers.lock is not None:
        endpoints = (slot.config.endpoint for slot in keepers.workers.slots)
        keepers.lock.clean_up(endpoint for endpoint in endpoints if isinstance(endpoint, UnixEndpoint))
