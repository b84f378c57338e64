"""The supervisor's part in workers that live and do not work: found by their heartbeat, and replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from extproc.serve.heartbeat import BEAT_SECONDS, STACKS_SIGNAL
from extproc.serve.supervisor.policy_keeper import PolicyKeeper
from extproc.serve.supervisor.workers import Blamed, Workers, WorkerSlot
from extproc.serve.watchdog import HangLimits, Hung, Watchdog, process_state
from extproc.settings import Settings

_QUARANTINE_ACK_SECONDS: Final = 1.0
_STACKS_SECONDS: Final = 0.1
_REPLACED: Final = "of policies that are not in force any more"


class HangKeeper:
    """Ends ``workers`` that hang or take too long to start, and has ``policies`` take out the rules to blame.

    Another worker takes the place of each that ends; that is not its part.
    """

    def __init__(
        self, workers: Workers, policies: PolicyKeeper | None, tuning: Settings, warn: Callable[[str], None]
    ) -> None:
        self._workers = workers
        self._policies = policies
        self._start_timeout = tuning.start_timeout
        self._watchdog = Watchdog(HangLimits(tuning.evaluation_limit, tuning.hang_limit), process_state)
        self._warn = warn

    async def run(self) -> None:
        """Look at every beat, until cancelled."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            alive = [
                (slot.config.index, slot.child.pid, slot.child.page) for slot in self._workers.slots if slot.serving
            ]
            hung = self._watchdog.hung(alive, time.monotonic_ns())
            if hung:
                await self._replace(hung)
            self._kill_late_starters()

    def ended(self, slot: WorkerSlot) -> None:
        """A life of a worker is over: what was seen of it says nothing about the next."""
        self._watchdog.forget(slot.config.index)

    def take_out(self, slot: WorkerSlot, blamed: Blamed) -> None:
        """A rule ended a worker: nobody evaluates it any more."""
        if self._workers.phase == "kept" and self._policies is not None:
            deed = f"ended in {blamed.path}, which {blamed.deed}"
            if not self._policies.in_force(slot.fingerprint):
                self._warn(f"worker {slot.config.index} {deed}: {_REPLACED}")
                return
            self._workers.tell(self._workers.serving, self._policies.take_out({blamed.path}))
            self._warn(f"worker {slot.config.index} {deed}: the policy is in quarantine")

    def _kill_late_starters(self) -> None:
        for slot in self._workers.slots:
            if slot.state == "starting" and time.monotonic() - slot.child.born > self._start_timeout:
                slot.child.kill()

    async def _replace(self, hung: Sequence[Hung]) -> None:
        """First take the policy out everywhere, then replace: what hung here would hang the next worker.

        The request that a worker hangs in is asked of the next one as soon as this one is gone, so the others must
        have heard by then, on a crowded machine too; but nobody waits for one that is in the same rule already.
        """
        stuck = {one.worker for one in hung}
        old = {slot.config.index for slot in self._workers.slots if not self._in_force(slot)}
        bad = {one.path for one in hung if one.path is not None and one.worker not in old}
        for one in hung:
            then = _REPLACED if one.worker in old else "now in quarantine"
            where = f"in an evaluation of {one.path}, {then}" if one.path else "outside of any policy"
            self._warn(f"worker {one.worker} hangs {where} ({one.evidence}): it is replaced")
        if bad and self._policies is not None:
            rules = self._policies.take_out(bad)
            others = [slot for slot in self._workers.serving if slot.config.index not in stuck]
            able = [slot for slot in others if slot.child.page.read().path not in bad]
            self._workers.tell((slot for slot in others if slot not in able), rules)
            await self._workers.ask(able, rules, _QUARANTINE_ACK_SECONDS)
        unexplained = {one.worker for one in hung if one.path is None}
        if unexplained:
            await _have_stacks_written([slot for slot in self._workers.slots if slot.config.index in unexplained])
        for slot in self._workers.slots:
            if slot.config.index in stuck:
                slot.state = "hung"
                slot.child.kill()

    def _in_force(self, slot: WorkerSlot) -> bool:
        """Whether a worker decides by the policies in force, and not yet by those before."""
        return self._policies is not None and self._policies.in_force(slot.fingerprint)


async def _have_stacks_written(slots: Sequence[WorkerSlot]) -> None:
    """Have it said in the log where a worker hangs, which nobody can see once it is gone."""
    for slot in slots:
        slot.child.process.send_signal(STACKS_SIGNAL)
    await asyncio.sleep(_STACKS_SECONDS)
