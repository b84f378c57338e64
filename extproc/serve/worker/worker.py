"""A worker: one event loop, one endpoint, one snapshot; started, fed and watched by the supervisor.

It serves from the moment it has loaded everything until it is told to drain, or its pipe closes. Without a
supervisor it goes on for a short while if a successor can take its socket over, and then ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, assert_never

import uvloop

from extproc.errors import DropoutError, Fault, InvalidInput
from extproc.lifeline import arm_dead_man_switch
from extproc.net.endpoints import TcpEndpoint, UnixEndpoint, has_successor
from extproc.serve.channel import Channel, faults_of, written, written_between
from extproc.serve.heartbeat import BEAT_SECONDS, STACKS_SIGNAL, HeartbeatPage
from extproc.serve.memory import MemoryGauge, limit_memory
from extproc.serve.messages import (
    TO_WORKER,
    DecisionCounts,
    Description,
    Drain,
    Draining,
    EngineState,
    Failed,
    FromWorker,
    ListenAgain,
    ListensAgain,
    ObserverListens,
    PoliciesRefused,
    Quarantine,
    Quarantined,
    Reload,
    StartWorker,
    Swapped,
    SwapPolicies,
    TakenAway,
    TellPlans,
    ToWorker,
    Trials,
    Unanswered,
    WantDescription,
    WantMetrics,
    WantTrials,
    WantUnanswered,
    WorkerCounted,
    WorkerReady,
    fingerprint,
)
from extproc.serve.tasks import Tasks
from extproc.serve.watchdog import PATIENCE
from extproc.serve.worker.application import Application, AssembleWorker
from extproc.serve.worker.policy_slot import PolicySlot
from extproc.serve.worker.server import MakeServer, Server
from extproc.serve.worker_config import WorkerConfig
from extproc.settings import Settings, settings

logger = logging.getLogger(__name__)

_IDLE_SECONDS: Final = 0.25
_TICK_SECONDS: Final = 0.05
_TELL_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 1.0
"""What is left to write has as long at least, when the streams took the whole of the drain; see ``Supervisor``."""


def run_worker(pipe: int, page: int, assemble: AssembleWorker, make_server: MakeServer) -> int:
    """Serve until told to stop; the exit status. ``pipe`` and ``page`` are inherited descriptors."""
    # All threads' stacks to standard error, without the interpreter, which may be what is held up.
    faulthandler.register(STACKS_SIGNAL, all_threads=True)

    async def live() -> int:
        return await Worker(socket.socket(fileno=pipe), HeartbeatPage(page), assemble, make_server, settings()).run()

    return uvloop.run(live())


class Worker:
    """The life of one worker."""

    def __init__(
        self,
        pipe: socket.socket,
        page: HeartbeatPage,
        assemble: AssembleWorker,
        make_server: MakeServer,
        tuning: Settings,
    ) -> None:
        self._pipe = pipe
        self._page = page
        self._assemble = assemble
        self._make_server = make_server
        self._settings = tuning
        self._slot = PolicySlot(page)
        self._gauge = MemoryGauge()
        self._channel = Channel[FromWorker, ToWorker](TO_WORKER, self._received, self._closed)
        self._started: asyncio.Future[StartWorker] = asyncio.Future()
        self._stop = asyncio.Event()
        self._supervisor = os.getppid()
        self._alone = False
        self._taken_over = False
        self._app: Application | None = None
        self._servers: list[Server] = []
        """The last one is found at the endpoint; those before it finish what they began."""
        self._index = -1
        self._keys_sent_at = -1
        self._tasks = Tasks(self._count_failure)

    async def run(self) -> int:
        """From the first message to the last stream; the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        await loop.create_unix_connection(lambda: self._channel, sock=self._pipe)
        try:
            start = await self._started
        except ConnectionError:
            return 0
        config = start.config
        self._index = config.index
        limit_memory(config.memory)
        try:
            await self._start_within(start)
        except DropoutError as error:
            self._channel.send(Failed(faults_of(error), error.exit_code))
            self._channel.close()
            await asyncio.sleep(0)
            return error.exit_code
        await self._stop.wait()
        await self._drain(config)
        return 0

    # -- start

    async def _start_within(self, start: StartWorker) -> None:
        """Start within the worker's memory. Raises ``DropoutError``."""
        try:
            await self._start(start.config, start)
        except MemoryError:
            message = f"{start.config.memory >> 20} MB are not enough for what is to be served: raise it"
            raise InvalidInput.of("worker_memory", message, field="--worker-memory") from None

    async def _start(self, config: WorkerConfig, start: StartWorker) -> None:
        arm_dead_man_switch(self._settings.start_timeout)  # until it beats: policies are evaluated for the first time
        app = self._assemble(config, self._slot)
        if start.policies is not None:
            self._slot.swap(app.engine(start.policies), start.quarantined, fingerprint(start.policies))
        app.load()
        app.hold(start.held.trips, start.held.killed)
        if start.trial and self._slot.current is not None:
            for path, document in app.trials().items():
                self._slot.current.known(path, document)
        app.policies_swapped(self._slot.revision)
        self._app = app
        gc.collect()
        gc.freeze()  # what was loaded stays: later collections need not walk it
        await self._listen(app, config)
        self._beat(0)
        self._tasks.keep("store", app.follow)
        if config.observed:
            self._tasks.keep("decided", partial(self._tell_decided, app))
        self._channel.send(WorkerReady(app.revision, self._slot.revision))
        app.watch_engine(lambda revision, fault: self._channel.send(EngineState(revision, fault)))

    async def _listen(self, app: Application, config: WorkerConfig) -> None:
        """Be found at the endpoint. Raises ``DropoutError``, and what was begun is over."""
        server = self._make_server(config, app.process, app.count_fault)
        try:
            await server.start()
        except BaseException:
            await server.stop(0)
            raise
        self._servers.append(server)

    def _beat(self, turn: int) -> None:
        self._page.beat(self._gauge.read())
        if turn % 10 == 0:
            arm_dead_man_switch(PATIENCE * self._settings.hang_limit + self._settings.orphan_grace)
        asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat, turn + 1)

    def _count_failure(self, task: str) -> None:
        if self._app is not None:
            self._app.count_failure(task)

    # -- the pipe

    def _received(self, message: ToWorker) -> None:
        app = self._app
        match message:
            case StartWorker():
                if not self._started.done():
                    self._started.set_result(message)
            case Drain():
                self._stop.set()
            case _ if app is None:
                pass  # still loading; the supervisor asks again
            case SwapPolicies():
                self._take_policies(app, message)
            case Quarantine():
                self._slot.quarantine(message.fingerprint, message.paths)
                self._channel.send(Quarantined(id=message.id))
            case WantMetrics():
                self._send_metrics(app, message.id)
            case WantDescription():
                self._tasks.once("describe", self._describe(app, message.id))
            case WantTrials():
                self._channel.send(Trials(app.trials(), id=message.id))
            case ListenAgain():
                self._tasks.once("listen again", self._listen_again(app, message.id))
            case WantUnanswered():
                self._channel.send(Unanswered(app.unanswered(), id=message.id))
            case TakenAway():
                app.hold(message.trips, message.killed)
            case ObserverListens():
                app.listening()
            case TellPlans():
                app.tell_plans()
            case Reload():
                app.reload()
            case _:
                assert_never(message)

    def _take_policies(self, app: Application, message: SwapPolicies) -> None:
        try:
            engine = app.engine(message.sources)
        except DropoutError as error:
            self._channel.send(PoliciesRefused(faults_of(error), id=message.id))
            return
        of_policies = fingerprint(message.sources)
        self._slot.swap(engine, fingerprint=of_policies)
        app.policies_swapped(engine.revision)
        self._channel.send(Swapped(engine.revision, of_policies, id=message.id))

    async def _listen_again(self, app: Application, question: int) -> None:
        """Somebody took the socket away: another server at the same endpoint, and no request notices."""
        config = self._started.result().config
        try:
            await self._listen(app, config)
        except DropoutError as error:
            self._channel.send(ListensAgain(faults_of(error), id=question))
            return
        except OSError as error:
            self._channel.send(
                ListensAgain(
                    [Fault("address_in_use", f"{config.endpoint.target} cannot be bound: {error.strerror}")],
                    id=question,
                )
            )
            return
        self._channel.send(ListensAgain([], id=question))
        before = self._servers[:-1]
        await self._say_draining(before)
        await asyncio.sleep(self._settings.lame_duck)
        await asyncio.gather(*(server.stop(config.drain_timeout) for server in before))
        self._servers = [server for server in self._servers if server not in before]

    async def _describe(self, app: Application, question: int) -> None:
        """Answer for /snapshot between requests: ten thousand rollouts at once would hold them up for 60 ms."""
        revision, described = app.revision, app.describe()
        rollouts = await written_between(described["rollouts"])
        self._channel.send(Description(self._index, revision, described["errors"], rollouts, id=question))

    def _send_metrics(self, app: Application, question: int) -> None:
        """The counts; with the keys of all rollouts when those may have changed since they were last sent."""
        keys = app.rollouts() if app.revision != self._keys_sent_at else None
        self._keys_sent_at = app.revision
        self._channel.send(WorkerCounted(app.dump(), app.revision, keys, id=question))

    async def _tell_decided(self, app: Application) -> None:
        """Tell each second what was decided in it."""
        while True:
            await asyncio.sleep(_TELL_SECONDS - time.time() % _TELL_SECONDS)
            self._send_decided(app)

    def _send_decided(self, app: Application) -> None:
        if (decided := app.take_decided()) is not None:
            self._channel.send(DecisionCounts(written(decided.counts), written(decided.units)))

    def _closed(self) -> None:
        """The supervisor is gone."""
        self._alone = True
        if not self._started.done():
            self._started.set_exception(ConnectionError())
        elif self._app is None:
            os._exit(0)  # it never served, so nobody waits for it
        elif not self._stop.is_set():
            self._tasks.once("outlive", self._outlive())

    async def _outlive(self) -> None:
        """Serve on until a successor has taken the socket, or there is none; a port can only be left at once."""
        try:
            await self._until_succeeded(self._started.result().config)
        finally:
            self._stop.set()

    async def _until_succeeded(self, config: WorkerConfig) -> None:
        if config.unix is not None and config.lock is not None:
            path, lock = Path(config.unix), Path(config.lock)
            mine = _inode(path)
            now = time.monotonic()
            last, until = now + self._settings.start_timeout, now + self._settings.orphan_grace
            while now < until and not self._stop.is_set() and not self._taken_over:
                await asyncio.sleep(_TICK_SECONDS)
                now = time.monotonic()
                self._taken_over = _inode(path) != mine
                if has_successor(lock, self._supervisor, path.name):
                    until = min(last, now + self._settings.orphan_grace)

    # -- the end

    @staticmethod
    async def _say_draining(servers: Sequence[Server]) -> None:
        with contextlib.suppress(TimeoutError):  # a watcher that takes no answer must not hold up the end
            await asyncio.wait_for(asyncio.gather(*(server.say_draining() for server in servers)), _IDLE_SECONDS)

    async def _drain(self, config: WorkerConfig) -> None:
        """Say so, leave the proxies a moment to see it, take nothing new, finish the rest, send the last counts."""
        assert self._app is not None
        app = self._app
        self._channel.send(Draining())
        await self._say_draining(self._servers)
        if not self._alone or isinstance(config.endpoint, UnixEndpoint):
            await self._lame_duck(app, config.endpoint)
        until = time.monotonic() + config.drain_timeout
        await asyncio.gather(*(server.stop(config.drain_timeout) for server in self._servers))
        await self._tasks.end()
        await app.close(max(_CLOSE_SECONDS, until - time.monotonic()))
        self._send_decided(app)
        self._send_metrics(app, 0)
        self._channel.close()
        await asyncio.sleep(0.01)

    async def _lame_duck(self, app: Application, endpoint: UnixEndpoint | TcpEndpoint) -> None:
        """Go on answering until no requests come, a successor has the socket, or the time is up."""
        mine = _inode(endpoint.path) if isinstance(endpoint, UnixEndpoint) else None
        start = seen_at = time.monotonic()
        seen = app.decided
        while not self._taken_over and time.monotonic() - start < self._settings.lame_duck:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            if app.decided != seen:
                seen, seen_at = app.decided, now
            if now - seen_at >= _IDLE_SECONDS:
                return
            if isinstance(endpoint, UnixEndpoint) and _inode(endpoint.path) != mine:
                return


def _inode(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return os.stat(path).st_ino  # noqa: PTH116  # asked 20 times a second
    return None
