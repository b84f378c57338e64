"""The supervisor: starts workers, gives them what they serve, watches them, replaces them, ends them.

It is no part of any request. What it knows and workers do not: the folders it follows, the other workers, and
whether somebody hangs. What it is put together from is in ``keepers``; ``start`` and ``end`` are its start and its end.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from extproc.net.endpoints import FolderLock
from extproc.serve.messages import Reload
from extproc.serve.supervisor.children import Child
from extproc.serve.supervisor.end import stop
from extproc.serve.supervisor.keepers import Keepers
from extproc.serve.supervisor.plan import Parts, ServePlan
from extproc.serve.supervisor.start import start
from extproc.settings import Settings


class Supervisor:
    """One run of ``dropout serve``. ``children`` were started already and wait for their first message."""

    def __init__(
        self, plan: ServePlan, parts: Parts, tuning: Settings, children: Sequence[Child], lock: FolderLock | None
    ) -> None:
        self._keepers = Keepers(plan, parts, tuning, children, lock)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reload = asyncio.Event()

    async def run(self) -> int:
        """Serve until a signal says otherwise; 0.

        Raises:
            DropoutError: why it could not start.
        """
        loop, keepers = asyncio.get_running_loop(), self._keepers
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        try:
            await keepers.admin.start()
            keepers.last_tasks.keep("admin", keepers.admin.listener.watch)
            await keepers.workers.adopt()
            if await start(keepers, self._stopping):
                await self._serve()
            await stop(keepers, self._hurry)
            keepers.say("ended")
        finally:
            keepers.tasks.cancel()
            keepers.last_tasks.cancel()
            keepers.admin.close()
            keepers.workers.kill()
            for auxiliary in keepers.beside:
                auxiliary.kill()
            if keepers.policy_shadow is not None:
                keepers.policy_shadow.kill()
            if keepers.protection is not None:
                keepers.protection.kill()
        return 0

    def _told_to_stop(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            self._keepers.say(f"{number.name} again: ends now, and waits for no stream")
            self._hurry.set()
        else:
            seconds = self._keepers.plan.drain_timeout
            self._keepers.say(f"{number.name}: draining; streams in flight have {seconds:g} s")
        self._stopping.set()
        self._keepers.workers.phase = "ending"
        self._keepers.workers.changed.set()

    async def _serve(self) -> None:
        keepers = self._keepers
        for auxiliary in keepers.beside:
            auxiliary.start()
        keepers.tasks.keep("workers", keepers.hangs.run)
        keepers.tasks.keep("sockets", keepers.sockets.run)
        keepers.tasks.keep("state", keepers.state.run)
        keepers.tasks.keep("metrics", keepers.counts.run)
        keepers.tasks.keep("gauges", keepers.gauges.run)
        keepers.tasks.keep("unmet", keepers.unmet.run)
        keepers.tasks.keep("signals", self._follow_signals)
        keepers.last_tasks.keep("host socket", keepers.host_socket.run)
        if keepers.protection is not None:
            keepers.tasks.keep("observer", keepers.protection.run)
        if keepers.envoy is not None:
            keepers.tasks.keep("envoy", keepers.envoy.run)
        keepers.tasks.keep("rollouts", keepers.documents.run)
        if keepers.policies is not None:
            keepers.tasks.keep("policies", keepers.policies.run)
        if keepers.bundles is not None:
            keepers.tasks.keep("bundles", keepers.bundles.run)
        if keepers.policy_shadow is not None:
            keepers.tasks.keep("policy shadow", keepers.policy_shadow.run)
            keepers.tasks.keep("policy shadow's folder", keepers.policy_shadow.follow)
        await self._stopping.wait()

    async def _follow_signals(self) -> None:
        keepers = self._keepers
        while True:
            await self._reload.wait()
            self._reload.clear()
            keepers.say("reloading")
            keepers.parts.manager.reloading()
            keepers.workers.tell(keepers.workers.serving, Reload())
            await keepers.documents.sync(force=True)
            if keepers.policies is not None:
                await keepers.policies.sync()
            if keepers.policy_shadow is not None:
                await keepers.policy_shadow.sync()
            keepers.parts.manager.ready(keepers.serving)
