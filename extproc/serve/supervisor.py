"""The supervisor: starts workers, gives them what they serve, watches them, replaces them, ends them.

It is no part of any request. What it knows and workers do not: the folders it follows, the other workers, and
whether somebody hangs. What it tells them goes through one pipe each (``messages``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import orjson

from extproc.clock import SystemClock
from extproc.errors import DropoutError, Fault, InvalidInput, Unreachable
from extproc.metrics import OBSERVER_REPLACED, OBSERVER_UP, RELOADS_REFUSED, WORKERS_REPLACED, Metrics, Totals
from extproc.serve.admin import AdminServer, Page
from extproc.serve.auxiliary import Auxiliary, AuxiliaryCommand
from extproc.serve.children import Backoff, Child, spawn
from extproc.serve.endpoints import FolderLock, TcpEndpoint, UnixEndpoint
from extproc.serve.heartbeat import BEAT_SECONDS, STACKS_SIGNAL
from extproc.serve.messages import Channel, Message
from extproc.serve.policy_keeper import PolicyKeeper
from extproc.serve.policy_watch import ReadSources, Sources, Trial, crashed, too_slow
from extproc.serve.protection import Protection
from extproc.serve.sockets import SocketWatch
from extproc.serve.watchdog import Hung, Limits, Watchdog, process_state
from extproc.serve.worker_config import ObserverPlan, WorkerConfig
from extproc.settings import Settings

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

_ANSWER_SECONDS: Final = 1.0
_DESCRIPTION_SECONDS: Final = 3.0
_QUARANTINE_ACK_SECONDS: Final = 1.0
_STACKS_SECONDS: Final = 0.1
_COLLECT_SECONDS: Final = 5.0
_ENVOY_POLL_SECONDS: Final = 0.1
_SOCKET_POLL_SECONDS: Final = 0.5


class Folder(Protocol):
    """A followed folder of documents."""

    def sync(self, *, force: bool = False) -> Sequence[Fault] | None:
        """Apply what changed since the last look, everything if ``force``; None when nothing did. Blocks.

        What is wrong with one document is among the faults and holds up no other.

        Raises:
            DropoutError: when nothing at all could be applied.
        """
        ...


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
    beside: Sequence[AuxiliaryCommand] = ()
    observer: ObserverPlan | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """What the composition root provides: blocking calls, made on a thread."""

    prepare: Callable[[], Folder | None]
    envoy_files: EnvoyFiles | None
    read_sources: ReadSources
    say: Callable[[str], None]


@dataclass(slots=True)
class Slot:
    """A worker's place: its present life, if any, and what is known of it."""

    config: WorkerConfig
    child: Child
    channel: Channel | None = None
    state: str = "starting"
    revision: int = 0
    policy_revision: str = ""
    rollouts: frozenset[str] = frozenset()
    backoff: Backoff = field(default_factory=Backoff)
    restart: asyncio.TimerHandle | None = None
    reasons: Sequence[Fault] = ()
    exit_code: int | None = None
    died_in: str | None = None

    @property
    def serving(self) -> bool:
        """Whether it takes requests."""
        return self.state == "serving"


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
        self._slots = [Slot(config, child) for config, child in zip(plan.configs, children, strict=True)]
        self._folder: Folder | None = None
        self._envoy_files = parts.envoy_files
        self._folder_faults: Sequence[Fault] = ()
        self._policies = self._keep_policies(plan.policies) if plan.policies is not None else None
        self._metrics = Metrics(SystemClock())
        self._totals = Totals()
        self._protection = self._protect(plan.observer) if plan.observer is not None else None
        self._watchdog = Watchdog(Limits(tuning.evaluation_limit, tuning.hang_limit), process_state)
        self._questions: dict[int, tuple[Child, asyncio.Future[Message]]] = {}
        self._asked = 0
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reload = asyncio.Event()
        self._changed = asyncio.Event()
        self._booting = True
        self._failed = False
        self._store_thread = ThreadPoolExecutor(1, "store")
        self._tasks: list[asyncio.Task[None]] = []
        self._beside = [Auxiliary(what, self._say, self._heard_beside, self._totals.retire) for what in plan.beside]
        self._admin = AdminServer(
            {
                "/healthz": self._healthz,
                "/readyz": self._readyz,
                "/metrics": self._metrics_page,
                "/snapshot": self._snapshot_page,
            }
        )

    def _keep_policies(self, folder: Path) -> PolicyKeeper:
        return PolicyKeeper(
            folder,
            self._parts.read_sources,
            Trial(self._plan.trial_command, self._settings.trial_limit),
            self._settings.policy_poll,
            inputs=self._trials,
            swap=self._swap_policies,
            refused=lambda: self._metrics.count(RELOADS_REFUSED, "policies"),
            say=self._say,
        )

    def _protect(self, plan: ObserverPlan) -> Protection:
        protection = Protection(
            plan,
            self._settings,
            self._totals,
            tell=lambda kind, **body: self._tell(self._deciding, kind, **body),
            say=self._say,
            replaced=lambda: self._metrics.count(OBSERVER_REPLACED),
        )
        self._metrics.gauge(OBSERVER_UP, lambda: int(protection.up))
        return protection

    async def run(self) -> int:
        """Serve until a signal says otherwise; 0, or 1 when a bug ended it.

        Raises:
            DropoutError: why it could not start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        try:
            await self._admin.start(self._plan.admin)
            for slot in self._slots:
                await self._adopt(slot)
            if await self._boot():
                await self._serve()
            await self._stop()
        finally:
            for task in self._tasks:
                task.cancel()
            self._admin.close()
            for slot in self._slots:
                slot.child.kill()
            for auxiliary in self._beside:
                auxiliary.kill()
            if self._protection is not None:
                self._protection.kill()
        return 1 if self._failed else 0

    def _told_to_stop(self) -> None:
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        self._changed.set()

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
        for slot in self._slots:
            self._start(slot, trial=True)
        await self._write_first_envoy_files()
        until = time.monotonic() + self._settings.start_timeout
        while not self._stopping.is_set():
            if all(slot.serving for slot in self._slots):
                break
            self._see_boot_failures(until)
            await self._look_again()
        self._booting = False
        if not self._stopping.is_set():
            self._announce()
        return not self._stopping.is_set()

    async def _prepare(self) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._prepare_documents())
            if self._policies is not None:
                both.create_task(self._policies.prepare())

    async def _prepare_documents(self) -> None:
        self._folder = await self._on_store_thread(self._parts.prepare)
        if self._folder is not None:
            self._note_folder(await self._on_store_thread(self._folder.sync))

    async def _on_store_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, call)

    async def _look_again(self) -> None:
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), BEAT_SECONDS)
        except TimeoutError:
            return

    def _see_boot_failures(self, until: float) -> None:
        """Raise what keeps a worker from its first service."""
        for slot in self._slots:
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
        listen = ", ".join(slot.config.endpoint.target for slot in self._slots)
        workers = "1 worker" if len(self._slots) == 1 else f"{len(self._slots)} workers"
        self._say(f"ready: {workers} on {listen}; admin http://{self._admin.address}")

    def _say(self, line: str) -> None:
        self._parts.say(f"dropout: {line}")

    # -- workers

    async def _adopt(self, slot: Slot) -> None:
        """Open the pipe to a new life of the worker, and hear of its end."""
        loop = asyncio.get_running_loop()
        child = slot.child
        slot.channel = Channel(lambda message: self._received(slot, child, message), lambda: self._hung_up(child))
        channel = slot.channel
        await loop.create_unix_connection(lambda: channel, sock=child.pipe)
        loop.add_reader(child.exit_fd, self._exited, slot, child)
        self._note_workers()

    def _start(self, slot: Slot, *, trial: bool = False) -> None:
        """Tell a worker what to serve."""
        assert slot.channel is not None
        slot.channel.send(
            "start",
            config=asdict(slot.config),
            policies=self._policies.body if self._policies is not None else None,
            quarantined=self._policies.quarantined if self._policies is not None else (),
            trips=self._protection.trips if self._protection is not None else (),
            trial=trial,
        )

    def _note_workers(self) -> None:
        if self._lock is not None:
            with suppress(OSError):  # a full disk: a successor has to wait for these workers to end
                self._lock.note(slot.child.pid for slot in self._slots)

    def _received(self, slot: Slot, child: Child, message: Message) -> None:
        if slot.child is not child:
            return
        kind = message["kind"]
        if kind == "ready":
            slot.state, slot.reasons = "serving", ()
            slot.revision, slot.policy_revision = message["revision"], message["policy_revision"]
            self._sockets.bound(slot.config.endpoint)
            self._catch_up(slot)
        elif kind == "failed":
            slot.reasons, slot.exit_code = [Fault(**fault) for fault in message["faults"]], message["exit_code"]
        elif kind == "draining":
            slot.state = "draining"
        elif kind == "swapped":
            slot.policy_revision = message["policy_revision"]
        elif kind == "decided" and self._protection is not None:
            self._protection.decided(message)
        elif kind == "policies_refused" and self._policies is not None:
            self._policies.refuse([Fault(**fault) for fault in message["faults"]])
        elif kind == "metrics":
            slot.revision = message["revision"]
            if message["rollouts"] is not None:
                slot.rollouts = frozenset(message["rollouts"])
            self._totals.update(child.life, message["dump"])
        _, waiting = self._questions.pop(message.get("id", 0), (child, None))
        if waiting is not None and not waiting.done():
            waiting.set_result(message)
        self._changed.set()

    def _hung_up(self, child: Child) -> None:
        """What it was asked it will not answer any more."""
        for asked, waiting in self._questions.values():
            if asked is child:
                waiting.cancel()

    def _catch_up(self, slot: Slot) -> None:
        """A worker that was starting while policies or trips changed was told the old ones."""
        assert slot.channel is not None
        if self._protection is not None:
            slot.channel.send("trips", trips=self._protection.trips)
        if self._policies is not None and slot.policy_revision != self._policies.revision:
            slot.channel.send("policies", sources=self._policies.body, revision=self._policies.revision)
        elif self._policies is not None and self._policies.quarantined:
            slot.channel.send("quarantine", id=0, **self._policies.quarantine)

    def _exited(self, slot: Slot, child: Child) -> None:
        """A worker process is no more."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(child.exit_fd)
        os.close(child.exit_fd)
        child.process.wait()
        self._changed.set()
        # Its last words may still be in the pipe: hear them first.
        loop.call_later(0.01, self._bury, slot, child)

    def _bury(self, slot: Slot, child: Child) -> None:
        if slot.channel is not None:
            slot.channel.close()
        slot.died_in = child.page.read().path if child.crashed() else None
        child.page.close()
        self._totals.retire(child.life)
        self._watchdog.forget(slot.config.index)
        slot.state = "dead"
        self._changed.set()
        if self._stopping.is_set() or self._booting:
            return
        if slot.died_in is not None and self._policies is not None:
            self._tell(self._serving, "quarantine", id=0, **self._policies.take_out({slot.died_in}))
            self._say(f"worker {slot.config.index} crashed in {slot.died_in}: the policy is in quarantine")
        self._metrics.count(WORKERS_REPLACED)
        wait = slot.backoff.after(time.monotonic() - child.born)
        why = f": {slot.reasons[0].message}" if slot.reasons else f" with status {child.process.returncode}"
        self._say(f"worker {slot.config.index} (pid {child.pid}) ended{why}; the next starts in {wait:g} s")
        slot.restart = asyncio.get_running_loop().call_later(wait, self._respawn, slot)

    def _respawn(self, slot: Slot) -> None:
        slot.restart = None
        if self._stopping.is_set():
            return
        try:
            slot.child = spawn(slot.config.index, self._plan.worker_command)
        except OSError as error:
            wait = slot.backoff.after(0.0)
            self._say(f"worker {slot.config.index} cannot be started: {error.strerror}; the next try is in {wait:g} s")
            slot.restart = asyncio.get_running_loop().call_later(wait, self._respawn, slot)
            return
        slot.reasons, slot.exit_code, slot.state = (), None, "starting"
        self._spawn_task(self._introduce(slot))

    async def _introduce(self, slot: Slot) -> None:
        await self._adopt(slot)
        self._start(slot)

    def _spawn_task(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.append(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.remove(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a task of the supervisor failed: it stops", exc_info=task.exception())
            self._failed = True
            self._told_to_stop()

    def _heard_beside(self, life: str, message: Message) -> None:
        """A process that runs beside the workers says something."""
        if message["kind"] == "metrics":
            self._totals.update(life, message["dump"])

    @staticmethod
    def _tell(slots: Iterable[Slot], kind: str, **body: Any) -> None:
        for slot in slots:
            if slot.channel is not None:
                slot.channel.send(kind, **body)

    async def _ask(self, slots: Sequence[Slot], kind: str, within: float, **body: Any) -> list[Message]:
        """The answers that come in time, one for each of ``slots`` at most."""
        futures: list[asyncio.Future[Message]] = []
        for slot in slots:
            self._asked += 1
            future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            self._questions[self._asked] = (slot.child, future)
            if slot.channel is not None and slot.channel.send(kind, id=self._asked, **body):
                futures.append(future)
            else:
                del self._questions[self._asked]
        if futures:
            await asyncio.wait(futures, timeout=within)
        for number in [number for number, (_, future) in self._questions.items() if future in futures]:
            del self._questions[number]
        return [future.result() for future in futures if future.done() and not future.cancelled()]

    @property
    def _serving(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.serving]

    @property
    def _deciding(self) -> list[Slot]:
        """Those that serve, and those that drain and answer what still comes."""
        return [slot for slot in self._slots if slot.state in ("serving", "draining")]

    # -- while serving

    async def _serve(self) -> None:
        for auxiliary in self._beside:
            auxiliary.start()
        self._spawn_task(self._watch_workers())
        self._spawn_task(self._watch_sockets())
        self._spawn_task(self._collect_metrics())
        self._spawn_task(self._follow_signals())
        if self._protection is not None:
            self._spawn_task(self._protection.run())
        if self._envoy_files is not None:
            self._spawn_task(self._follow_envoy(self._envoy_files))
        if self._folder is not None:
            self._spawn_task(self._follow_folder(self._folder))
        if self._policies is not None:
            self._spawn_task(self._policies.follow())
        await self._stopping.wait()

    async def _watch_workers(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            alive = [(slot.config.index, slot.child.pid, slot.child.page) for slot in self._slots if slot.serving]
            hung = self._watchdog.judge(alive, time.monotonic_ns())
            if hung:
                await self._replace(hung)
            self._kill_late_starters()

    def _kill_late_starters(self) -> None:
        for slot in self._slots:
            if slot.state == "starting" and time.monotonic() - slot.child.born > self._settings.start_timeout:
                slot.child.kill()

    async def _watch_sockets(self) -> None:
        """Replace workers whose socket somebody took away: connections that are open serve on, new ones find nobody.

        One after another, so that those connections are of use until others can be made.
        """
        told: str | None = None
        while True:
            await asyncio.sleep(_SOCKET_POLL_SECONDS)
            lost = [slot for slot in self._serving if self._sockets.lost(slot.config.endpoint)]
            if not lost or any(slot.state in ("draining", "starting") for slot in self._slots):
                continue
            hindrance = self._sockets.make_room(lost[0].config.endpoint, [slot.child.pid for slot in self._slots])
            if hindrance is None:
                where = lost[0].config.endpoint.target
                self._say(f"worker {lost[0].config.index} is not found at {where} any more: it is replaced")
                self._tell(lost[:1], "drain")
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
            others = [slot for slot in self._serving if slot.config.index not in stuck]
            able = [slot for slot in others if slot.child.page.read().path not in bad]
            self._tell([slot for slot in others if slot not in able], "quarantine", id=0, **rules)
            await self._ask(able, "quarantine", _QUARANTINE_ACK_SECONDS, **rules)
        unexplained = {one.worker for one in hung if one.path is None}
        if unexplained:
            await self._have_stacks_written([slot for slot in self._slots if slot.config.index in unexplained])
        for slot in self._slots:
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
        await self._ask(self._serving, "metrics", _ANSWER_SECONDS)
        if self._protection is not None:
            await self._protection.gather_metrics()
        serving = self._serving
        if serving:
            self._totals.retain(frozenset().union(*(slot.rollouts for slot in serving)))

    async def _follow_signals(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._say("reloading")
            self._tell(self._serving, "reload")
            if self._folder is not None:
                await self._sync_folder(self._folder, force=True)
            if self._policies is not None:
                await self._policies.look()

    # -- documents

    async def _follow_folder(self, folder: Folder) -> None:
        took = 0.0
        while True:
            # Looking at ten thousand files takes its time; it must not become all this process does.
            await asyncio.sleep(max(self._settings.rollouts_poll, 10 * took))
            before = time.monotonic()
            await self._sync_folder(folder, force=False)
            took = time.monotonic() - before

    async def _sync_folder(self, folder: Folder, *, force: bool) -> None:
        try:
            faults = await self._on_store_thread(partial(folder.sync, force=force))
        except DropoutError as error:
            faults = error.faults
        self._note_folder(faults)

    def _note_folder(self, faults: Sequence[Fault] | None) -> None:
        if faults is None or list(faults) == list(self._folder_faults):
            return
        self._folder_faults = faults
        if faults:
            self._metrics.count(RELOADS_REFUSED, "rollouts")
        for fault in faults:
            self._say(f"rollouts: {fault}")

    # -- policies

    async def _trials(self) -> Mapping[str, Any]:
        answers = await self._ask(self._serving[:1], "trials", _ANSWER_SECONDS)
        trials: Mapping[str, Any] = answers[0]["trials"] if answers else {}
        return trials

    async def _swap_policies(self, sources: Sources) -> None:
        for slot in self._serving:
            # One after another: while a worker loads large policies, the others decide.
            await self._ask([slot], "policies", _ANSWER_SECONDS, sources=sources.body, revision=sources.revision)

    # -- Envoy's files

    async def _write_first_envoy_files(self) -> None:
        """See that Envoy has something to read before anybody is told that we are ready.

        What is there from an earlier run is brought up to date once the workers serve: rendering takes as much of a
        processor as starting one of them, and a restart is what requests wait for.
        """
        files = self._envoy_files
        if files is not None and not files.exist():
            await asyncio.to_thread(files.write)

    async def _follow_envoy(self, files: EnvoyFiles) -> None:
        fault: Fault | None = None
        while True:
            try:
                await asyncio.to_thread(files.write)
            except DropoutError as error:
                if error.faults[0] != fault:
                    fault = error.faults[0]
                    self._say(f"envoy files: {fault}")
            else:
                fault = None
            await asyncio.sleep(_ENVOY_POLL_SECONDS)

    # -- the end

    async def _stop(self) -> None:
        """Drain every worker; those that take too long, or that are told a second time, end now."""
        if self._lock is not None:
            self._lock.release()  # from here on a successor may take the sockets over
        if self._protection is not None:
            self._protection.release()
        for task in self._tasks:
            task.cancel()
        ending = [asyncio.ensure_future(auxiliary.stop()) for auxiliary in self._beside]
        for slot in self._slots:
            if slot.restart is not None:
                slot.restart.cancel()
            if slot.state in ("serving", "draining") and slot.channel is not None:
                slot.channel.send("drain")
            else:
                slot.child.kill()
        until = time.monotonic() + self._plan.drain_timeout + self._settings.lame_duck + 2.0
        while not self._hurry.is_set() and time.monotonic() < until and any(s.state != "dead" for s in self._slots):
            await self._look_again()
        for slot in self._slots:
            slot.child.kill()
            slot.child.process.wait()
        await asyncio.gather(*ending)
        if self._protection is not None:
            await self._protection.stop()
        if self._lock is not None:
            endpoints = (slot.config.endpoint for slot in self._slots)
            self._lock.clean_up(endpoint for endpoint in endpoints if isinstance(endpoint, UnixEndpoint))

    # -- pages

    async def _healthz(self) -> Page:
        return Page(200, b"ok\n")

    async def _readyz(self) -> Page:
        if self._booting or self._stopping.is_set() or not self._serving:
            return Page(503, b"no worker serves\n")
        return Page(200, b"ok\n")

    async def _metrics_page(self) -> Page:
        await self._gather_metrics()
        self._totals.update("supervisor", self._metrics.dump())
        text = await asyncio.to_thread(self._totals.exposition)
        return Page(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    async def _snapshot_page(self) -> Page:
        descriptions = await self._ask(self._serving, "describe", _DESCRIPTION_SECONDS)
        answers = {answer["worker"]: answer for answer in descriptions}
        newest: Mapping[str, Any] = max(answers.values(), key=lambda answer: answer["revision"], default={})
        policies = self._policies
        faults = [*self._folder_faults, *(policies.faults if policies is not None else ())]
        body = {
            "revision": newest.get("revision"),
            "policy_revision": policies.revision if policies is not None else None,
            "quarantined": policies.quarantined if policies is not None else (),
            "rollouts": newest.get("rollouts", []),
            "errors": [*newest.get("errors", []), *({"rollout": None, **fault.as_dict()} for fault in faults)],
            "workers": [self._worker_entry(slot, answers.get(slot.config.index)) for slot in self._slots],
            "observer": self._protection.described() if self._protection is not None else None,
        }
        return Page(200, orjson.dumps(body), "application/json")

    def _worker_entry(self, slot: Slot, described: Mapping[str, Any] | None) -> dict[str, Any]:
        rollouts = described["rollouts"] if described is not None else []
        return {
            "worker": slot.config.index,
            "pid": slot.child.pid,
            "address": slot.config.endpoint.target,
            "state": "starting" if slot.serving and self._booting else slot.state,
            "revision": described["revision"] if described is not None else slot.revision,
            "policy_revision": slot.policy_revision,
            "rollouts": {rollout["key"]: {"weight": rollout["weight"]} for rollout in rollouts},
        }


def _first(several: BaseExceptionGroup[DropoutError]) -> DropoutError:
    """One of several refusals; its exit code is the one that counts."""
    error: BaseException = several
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, DropoutError)
    return error
