"""The supervisor: starts workers, gives them what they serve, watches them, replaces them, ends them.

It is no part of any request. What it knows and workers do not: the folders it follows, the other workers, and
whether somebody hangs. What it tells them goes through one pipe each (``messages``).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Never, assert_never

import extproc
from extproc.clock import SystemClock
from extproc.errors import DropoutError
from extproc.metrics.catalogue import (
    BUILD_INFO,
    DOCUMENTS_MISSING,
    OBSERVER_REPLACED,
    OBSERVER_UP,
    RELOADS_REFUSED,
    SAFETY_KEPT,
    SAFETY_WAITING,
    TASK_FAILURES,
    WORKERS_REPLACED,
)
from extproc.metrics.counting import Metrics
from extproc.metrics.merging import Totals
from extproc.net.admin import AdminServer
from extproc.net.endpoints import FolderLock, UnixEndpoint
from extproc.serve.heartbeat import BEAT_SECONDS
from extproc.serve.messages import (
    FROM_BESIDE,
    Counted,
    DecisionCounts,
    Description,
    Draining,
    EngineState,
    Failed,
    FromWorker,
    ListensAgain,
    PoliciesRefused,
    Quarantined,
    Reload,
    StartWorker,
    Swapped,
    SwapPolicies,
    Trials,
    Unanswered,
    WorkerCounted,
    WorkerReady,
)
from extproc.serve.supervisor.auxiliary import Auxiliary
from extproc.serve.supervisor.children import Child
from extproc.serve.supervisor.count_keeper import CountKeeper
from extproc.serve.supervisor.document_keeper import DocumentKeeper
from extproc.serve.supervisor.envoy_keeper import EnvoyFiles, EnvoyKeeper
from extproc.serve.supervisor.first_service import see_failures
from extproc.serve.supervisor.folder_faults import FolderFaults
from extproc.serve.supervisor.hang_keeper import HangKeeper
from extproc.serve.supervisor.host_socket import HostSocket
from extproc.serve.supervisor.pages import Pages
from extproc.serve.supervisor.plan import Parts, ServePlan
from extproc.serve.supervisor.policy_keeper import PolicyKeeper
from extproc.serve.supervisor.policy_trial import Trial
from extproc.serve.supervisor.protection import Protection
from extproc.serve.supervisor.questions import Questions
from extproc.serve.supervisor.rollout_gauges import RolloutGauges
from extproc.serve.supervisor.safety import HostSafety
from extproc.serve.supervisor.safety_file import SafetyFile
from extproc.serve.supervisor.safety_store import SafetyStoreKeeper
from extproc.serve.supervisor.socket_keeper import SocketKeeper
from extproc.serve.supervisor.stable_clusters import StableClusters
from extproc.serve.supervisor.state_keeper import StateKeeper
from extproc.serve.supervisor.unmet import UnmetEntry, UnmetKeeper
from extproc.serve.supervisor.workers import Workers, WorkerSlot
from extproc.serve.tasks import Tasks
from extproc.serve.worker_config import ObserverPlan, SafetyPlan, WorkerConfig
from extproc.settings import Settings

logger = logging.getLogger(__name__)

OBSERVED_SECONDS: Final = 5.0
"""How long workers that serve wait to be called ready for an observer that listens."""


class Supervisor:
    """One run of ``dropout serve``. ``children`` were started already and wait for their first message."""

    def __init__(
        self, plan: ServePlan, parts: Parts, tuning: Settings, children: Sequence[Child], lock: FolderLock | None
    ) -> None:
        self._plan = plan
        self._parts = parts
        self._settings = tuning
        self._lock = lock
        self._metrics = Metrics(SystemClock())
        self._metrics.rows(lambda: [(BUILD_INFO, (extproc.__version__,), 1.0)])
        self._totals = Totals()
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
            blames=lambda slot, blamed: self._hangs.take_out(slot, blamed),
            run=lambda work: self._tasks.once("workers", work),
            warn=self._warn,
        )
        self._sockets = SocketKeeper(self._workers, lock, self._warn)
        self._questions = Questions(self._workers)
        self._of_documents, self._of_policies = self._refusals("rollouts"), self._refusals("policies")
        self._of_envoy = self._refusals("envoy")
        self._of_state = FolderFaults("state", refused=lambda: None, warn=self._warn)
        self._state = StateKeeper(plan.state, self._of_state)
        self._envoy = self._keep_envoy(parts.envoy_files) if parts.envoy_files is not None else None
        self._documents = DocumentKeeper(parts.open_folder, tuning.rollouts_poll, self._of_documents)
        self._metrics.gauge(DOCUMENTS_MISSING, lambda: self._documents.missing)
        self._policies = self._keep_policies(plan.policies) if plan.policies is not None else None
        self._hangs = HangKeeper(self._workers, self._policies, tuning, self._warn)
        self._safety = self._be_safe(plan.safety)
        self._safety_store = SafetyStoreKeeper(self._safety, parts.register)
        self._standings = RolloutGauges(parts.open_store, self._safety, SystemClock(), self._warn)
        self._metrics.rows(self._standings.rows)
        self._unmet = UnmetKeeper(
            parts.open_store,
            observed=plan.observer is not None,
            controlled=bool(plan.beside),
            of_worker=self._questions.unanswered,
            of_envoys=self._stables(),
            monotonic=time.monotonic,
            warn=self._warn,
        )
        self._host_socket = HostSocket(plan.safety.sockets, self._safety, self._unmet.lacks, self._warn)
        self._protection = self._protect(plan.observer) if plan.observer is not None else None
        self._counts = CountKeeper(self._workers, self._protection, self._metrics, self._totals)
        self._beside = [
            Auxiliary[Never, Counted](what, self._warn, FROM_BESIDE, self._heard_beside, self._totals.retire)
            for what in plan.beside
        ]
        self._admin = AdminServer(
            plan.admin,
            Pages(
                self._workers,
                self._policies,
                (self._of_documents, self._of_policies, self._of_envoy, self._of_state),
                self._protection,
                self._safety,
                self._envoy,
                self._unmet,
                self._totals,
                self._counts.gather,
            ).routes(),
        )

    def _stables(self) -> Callable[[], Sequence[UnmetEntry]]:
        """What asks Envoys about stable versions; nothing where there is none to ask."""
        ask = self._parts.ask_envoys
        if ask is None:
            return tuple
        return StableClusters(self._parts.open_store, ask, time.monotonic).entries

    def _refusals(self, what: str) -> FolderFaults:
        return FolderFaults(what, refused=lambda: self._metrics.count(RELOADS_REFUSED, what), warn=self._warn)

    def _keep_envoy(self, files: EnvoyFiles) -> EnvoyKeeper:
        keeper = EnvoyKeeper(files, self._of_envoy, self._parts.delivery, self._say, self._warn)
        self._metrics.rows(keeper.rows)
        return keeper

    def _keep_policies(self, folder: Path) -> PolicyKeeper:
        return PolicyKeeper(
            folder,
            self._parts.read_sources,
            Trial(self._plan.trial_command, self._settings.trial_limit),
            self._settings.policy_poll,
            self._of_policies,
            inputs=self._questions.trials,
            swap=self._questions.swap_policies,
            say=self._say,
            warn=self._warn,
        )

    def _be_safe(self, plan: SafetyPlan) -> HostSafety:
        safety = HostSafety(
            SafetyFile(plan.file, self._warn),
            changed=self._held_changed,
            adopted=lambda trips: self._protection.adopt(trips) if self._protection is not None else None,
            warn=self._warn,
        )
        self._metrics.gauge(SAFETY_WAITING, lambda: len(safety.waiting))
        self._metrics.gauge(SAFETY_KEPT, lambda: int(safety.is_kept()))
        return safety

    def _held_changed(self) -> None:
        self._workers.tell(self._workers.deciding, self._safety.in_force)
        self._standings.held_changed()

    def _protect(self, plan: ObserverPlan) -> Protection:
        protection = Protection(
            plan,
            self._settings,
            self._totals,
            self._safety,
            tell=lambda message: self._workers.tell(self._workers.deciding, message),
            warn=self._warn,
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
            await self._admin.start()
            self._last_tasks.keep("admin", self._admin.listener.watch)
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
        except ExceptionGroup as several:
            refused, surprise = several.split(DropoutError)
            if refused is None or surprise is not None:
                raise
            raise _first(refused) from None
        for slot in self._workers.slots:
            self._workers.start(slot, trial=True)
        if self._protection is not None:
            self._protection.start()
        if self._envoy is not None:
            await self._envoy.write_first()
        return await self._first_service()

    async def _first_service(self) -> bool:
        """Every worker serves, and the observer listens unless it takes too long; False when told to stop meanwhile."""
        until = time.monotonic() + self._settings.start_timeout
        served_since: float | None = None
        while not self._stopping.is_set():
            now = time.monotonic()
            if not all(slot.serving for slot in self._workers.slots):
                see_failures(self._workers.slots, self._settings, until)
            else:
                served_since = now if served_since is None else served_since
                if self._protection is None or self._protection.up or now - served_since >= OBSERVED_SECONDS:
                    self._workers.phase = "kept"
                    self._announce()
                    return True
            await self._look_again()
        return False

    async def _prepare(self) -> None:
        async with asyncio.TaskGroup() as several:
            several.create_task(self._safety.load())
            several.create_task(self._documents.prepare())
            if self._policies is not None:
                several.create_task(self._policies.prepare())
        self._last_tasks.keep("safety file", self._safety.run)
        self._last_tasks.keep("safety store", self._safety_store.run)

    async def _look_again(self) -> None:
        self._workers.changed.clear()
        try:
            await asyncio.wait_for(self._workers.changed.wait(), BEAT_SECONDS)
        except TimeoutError:
            return

    def _announce(self) -> None:
        self._say(f"ready: {self._serving()}")
        self._parts.manager.ready(self._serving())
        if self._parts.manager.watchdog:
            self._last_tasks.keep("service manager", self._parts.manager.keep_alive)

    def _serving(self) -> str:
        listen = ", ".join(slot.config.endpoint.target for slot in self._workers.slots)
        workers = "1 worker" if len(self._workers.slots) == 1 else f"{len(self._workers.slots)} workers"
        return f"{workers} of dropout {extproc.__version__} on {listen}; admin {self._admin.url}"

    def _say(self, line: str) -> None:
        self._parts.say(line)

    def _warn(self, line: str) -> None:
        self._parts.warn(line)

    # -- workers

    def _opening(self, config: WorkerConfig, trial: bool) -> StartWorker:
        """What a worker begins with."""
        policies = self._policies.body if self._policies is not None else None
        quarantined = self._policies.quarantined if self._policies is not None else []
        return StartWorker(config, trial, policies, quarantined, self._safety.in_force)

    def _heard(self, slot: WorkerSlot, message: FromWorker) -> None:
        """A worker says something that is of use to others."""
        match message:
            case WorkerReady():
                self._sockets.bound(slot)
                self._catch_up(slot)
            case DecisionCounts():
                if self._protection is not None:
                    self._protection.decided(message)
            case PoliciesRefused():
                self._of_policies.note(message.faults)
            case WorkerCounted():
                self._totals.update(slot.child.life, message.dump)
            case Failed() | Swapped() | EngineState() | Draining():
                pass  # of use to its slot
            case Quarantined() | Trials() | Unanswered() | Description() | ListensAgain():
                pass  # of use to whoever asked
            case _:
                assert_never(message)

    def _catch_up(self, slot: WorkerSlot) -> None:
        """A worker that was starting while policies, trips or kills changed was told the old ones."""
        slot.send(self._safety.in_force)
        policies = self._policies
        if policies is not None and policies.body is not None and slot.policy_revision != policies.revision:
            slot.send(SwapPolicies(policies.body))
        elif policies is not None and policies.quarantined:
            slot.send(policies.quarantine)

    def _ended(self, slot: WorkerSlot) -> None:
        """A life of a worker is over."""
        self._totals.retire(slot.child.life)
        self._hangs.ended(slot)
        if self._workers.phase == "kept":
            self._metrics.count(WORKERS_REPLACED)

    def _heard_beside(self, life: str, counted: Counted) -> None:
        """A process that runs beside the workers says what it counted."""
        self._totals.update(life, counted.dump)

    # -- while serving

    async def _serve(self) -> None:
        for auxiliary in self._beside:
            auxiliary.start()
        self._tasks.keep("workers", self._hangs.run)
        self._tasks.keep("sockets", self._sockets.run)
        self._tasks.keep("state", self._state.run)
        self._tasks.keep("metrics", self._counts.run)
        self._tasks.keep("standings", self._standings.run)
        self._tasks.keep("unmet", self._unmet.run)
        self._tasks.keep("signals", self._follow_signals)
        self._last_tasks.keep("host socket", self._host_socket.run)
        if self._protection is not None:
            self._tasks.keep("observer", self._protection.run)
        if self._envoy is not None:
            self._tasks.keep("envoy", self._envoy.run)
        self._tasks.keep("rollouts", self._documents.run)
        if self._policies is not None:
            self._tasks.keep("policies", self._policies.run)
        await self._stopping.wait()

    async def _follow_signals(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._say("reloading")
            self._parts.manager.reloading()
            self._workers.tell(self._workers.serving, Reload())
            await self._documents.sync(force=True)
            if self._policies is not None:
                await self._policies.sync()
            self._parts.manager.ready(self._serving())

    # -- the end

    async def _stop(self) -> None:
        """Drain every worker; those that take too long, or that are told a second time, end now."""
        self._parts.manager.stopping()
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
        await self._safety.close(self._safety_store.tell)
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
