"""The supervisor: starts workers, gives them what they serve, watches them, replaces them, ends them.

It is no part of any request. What it knows and workers do not: the folders it follows, the other workers, and
whether somebody hangs. What it tells them goes through one pipe each (``messages``).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from extproc.clock import SystemClock
from extproc.errors import DropoutError, Fault, InvalidInput, Unreachable
from extproc.metrics import (
    DOCUMENTS_MISSING,
    OBSERVER_REPLACED,
    OBSERVER_UP,
    RELOADS_REFUSED,
    SAFETY_KEPT,
    SAFETY_WAITING,
    TASK_FAILURES,
    WORKERS_REPLACED,
    Metrics,
    Totals,
)
from extproc.serve.admin import AdminServer
from extproc.serve.auxiliary import Auxiliary, AuxiliaryCommand
from extproc.serve.children import Child
from extproc.serve.document_keeper import DocumentKeeper, Folder
from extproc.serve.endpoints import FolderLock, TcpEndpoint, UnixEndpoint
from extproc.serve.heartbeat import BEAT_SECONDS, STACKS_SIGNAL
from extproc.serve.host_socket import HostSocket
from extproc.serve.messages import Message
from extproc.serve.pages import Pages
from extproc.serve.policy_keeper import PolicyKeeper
from extproc.serve.policy_trial import ReadSources, Sources, Trial, crashed, too_slow
from extproc.serve.protection import Protection
from extproc.serve.refusals import Refusals
from extproc.serve.safety import HostSafety, Register
from extproc.serve.safety_file import SafetyFile
from extproc.serve.sockets import SocketWatch
from extproc.serve.tasks import Tasks
from extproc.serve.watchdog import Hung, Limits, Watchdog, process_state
from extproc.serve.worker_config import ObserverPlan, SafetyPlan, WorkerConfig
from extproc.serve.workers import Slot, Workers
from extproc.settings import Settings

logger = logging.getLogger(__name__)

_ANSWER_SECONDS: Final = 1.0
_QUARANTINE_ACK_SECONDS: Final = 1.0
_STACKS_SECONDS: Final = 0.1
_COLLECT_SECONDS: Final = 5.0
_ENVOY_POLL_SECONDS: Final = 0.1
_SOCKET_POLL_SECONDS: Final = 0.5


class EnvoyFiles(Protocol):
    """The routes and clusters that Envoy reads. Calls block, and come from one thread at a time."""

    def exist(self) -> bool:
        """Whether there are any, from this run or an earlier one."""
        ...

    def write(self) -> None:
        """Write what changed. Raises ``DropoutError``."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What to serve. ``configs`` has one entry for each worker; ``beside`` is what runs beside them."""

    configs: Sequence[WorkerConfig]
    worker_command: Sequence[str]
    trial_command: Sequence[str]
    admin: TcpEndpoint
    policies: Path | None
    drain_timeout: float
    safety: SafetyPlan
    beside: Sequence[AuxiliaryCommand] = ()
    observer: ObserverPlan | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """What the composition root provides: blocking calls, made on a thread."""

    open_folder: Callable[[], Folder | None]
    envoy_files: EnvoyFiles | None
    read_sources: ReadSources
    register: Register
    say: Callable[[str], None]


class Supervisor:
    """One run of ``dropout serve``. ``children`` were started already and wait for their first message."""

    def __init__(
        self, plan: Plan, parts: Parts, tuning: Settings, children: Sequence[Child], lock: FolderLock | None
    ) -> None:
        self._plan = plan
        self._parts = parts
        self._settings = tuning
        self._lock = lock
        self._sockets = SocketWatch(lock)
        self._metrics = Metrics(SystemClock())
        self._totals = Totals()
        self._watchdog = Watchdog(Limits(tuning.evaluation_limit, tuning.hang_limit), process_state)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reload = asyncio.Event()
        self._tasks = Tasks(lambda name: self._metrics.count(TASK_FAILURES, name))
        self._last_tasks = Tasks(lambda name: self._metrics.count(TASK_FAILURES, name))  # while workers drain, too
        self._workers = Workers(
            plan.configs,
            children,
            plan.worker_command,
            lock,
            opening=self._opening,
            heard=self._heard,
            ended=self._ended,
            run=lambda work: self._tasks.once("workers", work),
            say=self._say,
        )
        self._of_documents, self._of_policies = self._refusals("rollouts"), self._refusals("policies")
        self._of_envoy = self._refusals("envoy")
        self._documents = DocumentKeeper(parts.open_folder, tuning.rollouts_poll, self._of_documents)
        self._metrics.gauge(DOCUMENTS_MISSING, lambda: self._documents.missing)
        self._policies = self._keep_policies(plan.policies) if plan.policies is not None else None
        self._safety = self._be_safe(plan.safety)
        self._host_socket = HostSocket(plan.safety.sockets, self._safety, self._say)
        self._protection = self._protect(plan.observer) if plan.observer is not None else None
        self._beside = [Auxiliary(what, self._say, self._heard_beside, self._totals.retire) for what in plan.beside]
        self._admin = AdminServer(
            Pages(
                self._workers,
                self._policies,
                (self._of_documents, self._of_policies, self._of_envoy),
                self._protection,
                self._safety,
                self._totals,
                self._gather_metrics,
            ).routes()
        )

    def _refusals(self, what: str) -> Refusals:
        return Refusals(what, refused=lambda: self._metrics.count(RELOADS_REFUSED, what), say=self._say)

    def _keep_policies(self, folder: Path) -> PolicyKeeper:
        return PolicyKeeper(
            folder,
            self._parts.read_sources,
            Trial(self._plan.trial_command, self._settings.trial_limit),
            self._settings.policy_poll,
            self._of_policies,
            inputs=self._trials,
            swap=self._swap_policies,
            say=self._say,
        )

    def _be_safe(self, plan: SafetyPlan) -> HostSafety:
        safety = HostSafety(
            SafetyFile(plan.file, self._say),
            self._parts.register,
            changed=self._tell_held,
            adopted=lambda trips: self._protection.adopt(trips) if self._protection is not None else None,
            say=self._say,
        )
        self._metrics.gauge(SAFETY_WAITING, lambda: len(safety.waiting))
        self._metrics.gauge(SAFETY_KEPT, lambda: int(safety.is_kept()))
        return safety

    def _tell_held(self) -> None:
        self._workers.tell(self._workers.deciding, "held", **self._safety.in_force)

    def _protect(self, plan: ObserverPlan) -> Protection:
        protection = Protection(
            plan,
            self._settings,
            self._totals,
            self._safety,
            tell=lambda kind, **body: self._workers.tell(self._workers.deciding, kind, **body),
            say=self._say,
            replaced=lambda: self._metrics.count(OBSERVER_REPLACED),
        )
        self._metrics.gauge(OBSERVER_UP, lambda: int(protection.up))
        return protection

    async def run(self) -> int:
        """Serve until a signal says otherwise; 0.

        Raises:
            DropoutError: why it could not start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        try:
            await self._admin.start(self._plan.admin)
            await self._workers.adopt()
            if await self._boot():
                await self._serve()
            await self._stop()
        finally:
            self._tasks.cancel()
            self._last_tasks.cancel()
            self._admin.close()
            self._workers.kill()
            for auxiliary in self._beside:
                auxiliary.kill()
            if self._protection is not None:
                self._protection.kill()
        return 0

    def _told_to_stop(self) -> None:
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        self._workers.phase = "ending"
        self._workers.changed.set()

    # -- start

    async def _boot(self) -> bool:
        """Apply, load, compile, and only then let every worker listen; False when told to stop meanwhile."""
        prepared = asyncio.ensure_future(self._prepare())
        stopped = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({prepared, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not prepared.done():
            prepared.cancel()
            return False
        stopped.cancel()
        try:
            await prepared
        except* DropoutError as several:
            raise _first(several) from None
        for slot in self._workers.slots:
            self._workers.start(slot, trial=True)
        await self._write_first_envoy_files()
        until = time.monotonic() + self._settings.start_timeout
        while not self._stopping.is_set():
            if all(slot.serving for slot in self._workers.slots):
                self._workers.phase = "kept"
                self._announce()
                return True
            self._see_boot_failures(until)
            await self._look_again()
        return False

    async def _prepare(self) -> None:
        async with asyncio.TaskGroup() as several:
            several.create_task(self._safety.load())
            several.create_task(self._documents.prepare())
            if self._policies is not None:
                several.create_task(self._policies.prepare())
        self._last_tasks.keep("safety file", self._safety.keep_file)
        self._last_tasks.keep("safety store", self._safety.tell_store)

    async def _look_again(self) -> None:
        self._workers.changed.clear()
        try:
            await asyncio.wait_for(self._workers.changed.wait(), BEAT_SECONDS)
        except TimeoutError:
            return

    def _see_boot_failures(self, until: float) -> None:
        """Raise what keeps a worker from its first service."""
        for slot in self._workers.slots:
            if slot.reasons:
                kind = InvalidInput if slot.exit_code == InvalidInput.exit_code else Unreachable
                raise kind(slot.reasons)
            if slot.state == "dead" and slot.died_in is not None:
                raise InvalidInput([crashed(slot.died_in)])
            if slot.state == "dead":
                status = slot.child.process.returncode
                raise Unreachable.of("worker_failed", f"Worker {slot.config.index} ended with status {status}.")
            beat = slot.child.page.read()
            if beat.evaluating_since and time.monotonic_ns() - beat.evaluating_since > self._settings.trial_limit * 1e9:
                raise InvalidInput([too_slow(beat.path, self._settings.trial_limit)])
        if time.monotonic() > until:
            raise Unreachable.of("worker_failed", f"No service after {self._settings.start_timeout:g} s.")

    def _announce(self) -> None:
        listen = ", ".join(slot.config.endpoint.target for slot in self._workers.slots)
        workers = "1 worker" if len(self._workers.slots) == 1 else f"{len(self._workers.slots)} workers"
        self._say(f"ready: {workers} on {listen}; admin http://{self._admin.address}")

    def _say(self, line: str) -> None:
        self._parts.say(f"dropout: {line}")

    # -- workers

    def _opening(self) -> Mapping[str, Any]:
        """What a worker begins with."""
        return {
            "policies": self._policies.body if self._policies is not None else None,
            "quarantined": self._policies.quarantined if self._policies is not None else (),
            **self._safety.in_force,
        }

    def _heard(self, slot: Slot, message: Message) -> None:
        """A worker says something that is of use to others."""
        kind = message["kind"]
        if kind == "ready":
            self._sockets.bound(slot.config.endpoint)
            self._catch_up(slot)
        elif kind == "decided" and self._protection is not None:
            self._protection.decided(message)
        elif kind == "policies_refused":
            self._of_policies.note([Fault(**fault) for fault in message["faults"]])
        elif kind == "metrics":
            self._totals.update(slot.child.life, message["dump"])

    def _catch_up(self, slot: Slot) -> None:
        """A worker that was starting while policies, trips or kills changed was told the old ones."""
        slot.send("held", **self._safety.in_force)
        if self._policies is not None and slot.policy_revision != self._policies.revision:
            slot.send("policies", sources=self._policies.body, revision=self._policies.revision)
        elif self._policies is not None and self._policies.quarantined:
            slot.send("quarantine", id=0, **self._policies.quarantine)

    def _ended(self, slot: Slot) -> None:
        """A life of a worker is over."""
        self._totals.retire(slot.child.life)
        self._watchdog.forget(slot.config.index)
        if self._workers.phase != "kept":
            return
        if slot.died_in is not None and self._policies is not None:
            self._workers.tell(self._workers.serving, "quarantine", id=0, **self._policies.take_out({slot.died_in}))
            self._say(f"worker {slot.config.index} crashed in {slot.died_in}: the policy is in quarantine")
        self._metrics.count(WORKERS_REPLACED)

    def _heard_beside(self, life: str, message: Message) -> None:
        """A process that runs beside the workers says something."""
        if message["kind"] == "metrics":
            self._totals.update(life, message["dump"])

    # -- while serving

    async def _serve(self) -> None:
        for auxiliary in self._beside:
            auxiliary.start()
        self._tasks.keep("workers", self._watch_workers)
        self._tasks.keep("sockets", self._watch_sockets)
        self._tasks.keep("metrics", self._collect_metrics)
        self._tasks.keep("signals", self._follow_signals)
        self._last_tasks.keep("host socket", self._host_socket.run)
        if self._protection is not None:
            self._protection.start()
            self._tasks.keep("observer", self._protection.watch)
        if self._parts.envoy_files is not None:
            self._tasks.keep("envoy", partial(self._follow_envoy, self._parts.envoy_files))
        self._tasks.keep("rollouts", self._documents.follow)
        if self._policies is not None:
            self._tasks.keep("policies", self._policies.follow)
        await self._stopping.wait()

    async def _watch_workers(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            alive = [
                (slot.config.index, slot.child.pid, slot.child.page) for slot in self._workers.slots if slot.serving
            ]
            hung = self._watchdog.judge(alive, time.monotonic_ns())
            if hung:
                await self._replace(hung)
            self._kill_late_starters()

    def _kill_late_starters(self) -> None:
        for slot in self._workers.slots:
            if slot.state == "starting" and time.monotonic() - slot.child.born > self._settings.start_timeout:
                slot.child.kill()

    async def _watch_sockets(self) -> None:
        """Replace workers whose socket somebody took away: connections that are open serve on, new ones find nobody.

        One after another, so that those connections are of use until others can be made.
        """
        told: str | None = None
        while True:
            await asyncio.sleep(_SOCKET_POLL_SECONDS)
            lost = [slot for slot in self._workers.serving if self._sockets.lost(slot.config.endpoint)]
            if not lost or any(slot.state in ("draining", "starting") for slot in self._workers.slots):
                continue
            hindrance = self._sockets.make_room(
                lost[0].config.endpoint, [slot.child.pid for slot in self._workers.slots]
            )
            if hindrance is None:
                where = lost[0].config.endpoint.target
                self._say(f"worker {lost[0].config.index} is not found at {where} any more: it is replaced")
                self._workers.tell(lost[:1], "drain")
                lost[0].state = "draining"
            elif hindrance != told:
                self._say(f"worker {lost[0].config.index} cannot be found, and cannot be replaced: {hindrance}")
            told = hindrance

    async def _replace(self, hung: Sequence[Hung]) -> None:
        """First take the policy out everywhere, then replace: what hung here would hang the next worker.

        The request that a worker hangs in is asked of the next one as soon as this one is gone, so the others must
        have heard by then, on a crowded machine too; but nobody waits for one that is in the same rule already.
        """
        bad = {one.path for one in hung if one.path is not None}
        stuck = {one.worker for one in hung}
        for one in hung:
            where = f"in an evaluation of {one.path}, now in quarantine" if one.path else "outside of any policy"
            self._say(f"worker {one.worker} hangs {where} ({one.evidence}): it is replaced")
        if bad and self._policies is not None:
            rules = self._policies.take_out(bad)
            others = [slot for slot in self._workers.serving if slot.config.index not in stuck]
            able = [slot for slot in others if slot.child.page.read().path not in bad]
            self._workers.tell((slot for slot in others if slot not in able), "quarantine", id=0, **rules)
            await self._workers.ask(able, "quarantine", _QUARANTINE_ACK_SECONDS, **rules)
        unexplained = {one.worker for one in hung if one.path is None}
        if unexplained:
            await self._have_stacks_written([slot for slot in self._workers.slots if slot.config.index in unexplained])
        for slot in self._workers.slots:
            if slot.config.index in stuck:
                slot.state = "hung"
                slot.child.kill()

    @staticmethod
    async def _have_stacks_written(slots: Sequence[Slot]) -> None:
        """Have it said in the log where a worker hangs, which nobody can see once it is gone."""
        for slot in slots:
            slot.child.process.send_signal(STACKS_SIGNAL)
        await asyncio.sleep(_STACKS_SECONDS)

    async def _collect_metrics(self) -> None:
        """So that a worker that is killed takes no more than a few seconds of its counts with it."""
        while True:
            await self._gather_metrics()
            await asyncio.sleep(_COLLECT_SECONDS)

    async def _gather_metrics(self) -> None:
        await self._workers.ask(self._workers.serving, "metrics", _ANSWER_SECONDS)
        if self._protection is not None:
            await self._protection.gather_metrics()
        serving = self._workers.serving
        if serving:
            self._totals.retain(frozenset().union(*(slot.rollouts for slot in serving)))
        self._totals.update("supervisor", self._metrics.dump())

    async def _follow_signals(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._say("reloading")
            self._workers.tell(self._workers.serving, "reload")
            await self._documents.sync(force=True)
            if self._policies is not None:
                await self._policies.look()

    # -- policies

    async def _trials(self) -> Mapping[str, Any]:
        answers = await self._workers.ask(self._workers.serving[:1], "trials", _ANSWER_SECONDS)
        trials: Mapping[str, Any] = answers[0]["trials"] if answers else {}
        return trials

    async def _swap_policies(self, sources: Sources) -> None:
        for slot in self._workers.serving:
            # One after another: while a worker loads large policies, the others decide.
            await self._workers.ask(
                [slot], "policies", _ANSWER_SECONDS, sources=sources.body, revision=sources.revision
            )

    # -- Envoy's files

    async def _write_first_envoy_files(self) -> None:
        """See that Envoy has something to read before anybody is told that we are ready.

        What is there from an earlier run is brought up to date once the workers serve: rendering takes as much of a
        processor as starting one of them, and a restart is what requests wait for.
        """
        files = self._parts.envoy_files
        if files is not None and not files.exist():
            await asyncio.to_thread(files.write)

    async def _follow_envoy(self, files: EnvoyFiles) -> None:
        while True:
            try:
                await asyncio.to_thread(files.write)
                self._of_envoy.note(())
            except DropoutError as error:
                self._of_envoy.note(error.faults)
            await asyncio.sleep(_ENVOY_POLL_SECONDS)

    # -- the end

    async def _stop(self) -> None:
        """Drain every worker; those that take too long, or that are told a second time, end now."""
        if self._lock is not None:
            self._lock.release()  # from here on a successor may take the sockets over
        if self._protection is not None:
            self._protection.release()
        self._tasks.cancel()
        ending = [asyncio.ensure_future(auxiliary.stop()) for auxiliary in self._beside]
        self._workers.drain()
        until = time.monotonic() + self._plan.drain_timeout + self._settings.lame_duck + 2.0
        while (
            not self._hurry.is_set()
            and time.monotonic() < until
            and any(slot.state != "dead" for slot in self._workers.slots)
        ):
            await self._look_again()
        self._workers.kill()
        for slot in self._workers.slots:
            slot.child.process.wait()
        await asyncio.gather(*ending)
        if self._protection is not None:
            await self._protection.stop()
        await self._last_tasks.end()
        self._host_socket.close()
        await self._safety.close()
        if self._lock is not None:
            endpoints = (slot.config.endpoint for slot in self._workers.slots)
            self._lock.clean_up(endpoint for endpoint in endpoints if isinstance(endpoint, UnixEndpoint))


def _first(several: BaseExceptionGroup[DropoutError]) -> DropoutError:
    """One of several refusals; its exit code is the one that counts."""
    error: BaseException = several
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, DropoutError)
    return error
