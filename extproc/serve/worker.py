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
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import uvloop

from extproc.datapath.ports import PolicyEngine
from extproc.datapath.transports.exchange import Process
from extproc.errors import DropoutError
from extproc.serve.endpoints import TcpEndpoint, UnixEndpoint, has_successor
from extproc.serve.heartbeat import BEAT_SECONDS, STACKS_SIGNAL, HeartbeatPage, arm_dead_man_switch
from extproc.serve.messages import Channel, Message, written_between
from extproc.serve.server import MakeServer, Server
from extproc.serve.tasks import Tasks
from extproc.serve.watchdog import PATIENCE, WatchedEngine
from extproc.serve.worker_config import WorkerConfig
from extproc.settings import Settings, settings
from extproc.snapshot.trips import LocalTrip

logger = logging.getLogger(__name__)

_IDLE_SECONDS: Final = 0.25
_TICK_SECONDS: Final = 0.05
_TELL_SECONDS: Final = 1.0


class PolicySlot:
    """The policies in force, swapped whole; what is in quarantine belongs to one revision of them."""

    def __init__(self, page: HeartbeatPage) -> None:
        self._page = page
        self._watched: WatchedEngine | None = None
        self.current: PolicyEngine | None = None

    @property
    def revision(self) -> str:
        """The revision of the policies, empty without any."""
        return self.current.revision if self.current is not None else ""

    def swap(self, engine: PolicyEngine, quarantined: Collection[str] = ()) -> None:
        """Decide by ``engine`` from now on."""
        watched = WatchedEngine(engine, self._page)
        watched.quarantine(frozenset(quarantined))
        self.current = self._watched = watched

    def quarantine(self, revision: str, paths: Collection[str]) -> None:
        """Take rules out, if ``revision`` is still the one in force."""
        if self._watched is not None and self._watched.revision == revision:
            self._watched.quarantine(frozenset(paths))


class Application(Protocol):
    """What a worker runs, put together by the composition root. Everything happens on the event loop's thread."""

    @property
    def decided(self) -> int:
        """Requests decided so far."""
        ...

    @property
    def revision(self) -> int:
        """The store's revision that requests are decided from."""
        ...

    def engine(self, sources: str) -> PolicyEngine:
        """An engine of ``sources``, policies as JSON text. Raises ``InvalidInput``."""
        ...

    def load(self) -> None:
        """Everything that must be there before the first request; may block. Raises ``DropoutError``."""
        ...

    def trials(self) -> dict[str, Any]:
        """For each rule that a rollout asks, an input on which it can be tried."""
        ...

    @property
    def process(self) -> Process:
        """What replies to one request's headers."""
        ...

    def count_fault(self, fault: str) -> None:
        """Something was wrong with an exchange with Envoy."""
        ...

    def count_failure(self, task: str) -> None:
        """Work in the background failed by a bug."""
        ...

    async def follow(self) -> None:
        """Follow the store, until cancelled."""
        ...

    def describe(self) -> dict[str, Any]:
        """For /snapshot: ``errors``, and ``rollouts`` to be iterated over later."""
        ...

    def dump(self) -> dict[str, Any]:
        """The metrics."""
        ...

    def rollouts(self) -> list[str]:
        """The keys of all rollouts."""
        ...

    def policies_swapped(self, revision: str) -> None:
        """Other policies are in force."""
        ...

    def hold(self, trips: Sequence[LocalTrip], killed: Sequence[str]) -> None:
        """Go by these trips and killed rollouts, all that are in force on this host."""
        ...

    def listening(self) -> None:
        """Somebody listens to ``take_decided`` who has heard of nothing yet."""
        ...

    def take_decided(self) -> dict[str, Any] | None:
        """What was decided since this was last asked, as JSON; None when nothing was."""
        ...

    def reload(self) -> None:
        """Open again what was opened by name."""
        ...

    def close(self) -> None:
        """Write what is still to be written and let go of everything."""
        ...


Assemble = Callable[[WorkerConfig, PolicySlot], Application]


def run_worker(pipe: int, page: int, assemble: Assemble, make_server: MakeServer) -> int:
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
        assemble: Assemble,
        make_server: MakeServer,
        tuning: Settings,
    ) -> None:
        self._pipe = pipe
        self._page = page
        self._assemble = assemble
        self._make_server = make_server
        self._settings = tuning
        self._slot = PolicySlot(page)
        self._channel = Channel(self._received, self._closed)
        self._started: asyncio.Future[Message] = asyncio.Future()
        self._stop = asyncio.Event()
        self._supervisor = os.getppid()
        self._alone = False
        self._taken_over = False
        self._app: Application | None = None
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
        config = WorkerConfig(**start["config"])
        self._index = config.index
        try:
            server = await self._start(config, start)
        except DropoutError as error:
            faults = [fault.as_dict() for fault in error.faults]
            self._channel.send("failed", faults=faults, exit_code=error.exit_code)
            self._channel.close()
            await asyncio.sleep(0)
            return error.exit_code
        await self._stop.wait()
        await self._drain(server, config)
        return 0

    # -- start

    async def _start(self, config: WorkerConfig, start: Message) -> Server:
        arm_dead_man_switch(self._settings.start_timeout)  # until it beats: policies are evaluated for the first time
        app = self._assemble(config, self._slot)
        if start["policies"] is not None:
            self._slot.swap(app.engine(start["policies"]), start["quarantined"])
        app.load()
        app.hold([LocalTrip(*trip) for trip in start["trips"]], start["killed"])
        if start["trial"] and self._slot.current is not None:
            for path, document in app.trials().items():
                self._slot.current.evaluate(path, document)
        app.policies_swapped(self._slot.revision)
        self._app = app
        gc.collect()
        gc.freeze()  # what was loaded stays: later collections need not walk it
        server = self._make_server(config, app.process, app.count_fault)
        await server.start()
        self._beat(0)
        self._tasks.keep("store", app.follow)
        if config.observed:
            self._tasks.keep("decided", partial(self._tell_decided, app))
        self._channel.send(
            "ready", revision=app.revision, policy_revision=self._slot.revision, target=config.endpoint.target
        )
        return server

    def _beat(self, turn: int) -> None:
        self._page.beat()
        if turn % 10 == 0:
            arm_dead_man_switch(PATIENCE * self._settings.hang_limit + self._settings.orphan_grace)
        asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat, turn + 1)

    def _count_failure(self, task: str) -> None:
        if self._app is not None:
            self._app.count_failure(task)

    # -- the pipe

    def _received(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "start":
            if not self._started.done():
                self._started.set_result(message)
            return
        if kind == "drain":
            self._stop.set()
            return
        app = self._app
        if app is None:
            return  # still loading; the supervisor asks again
        if kind == "policies":
            self._take_policies(app, message)
        elif kind == "quarantine":
            self._slot.quarantine(message["revision"], message["paths"])
            self._channel.send("quarantined", id=message["id"])
        elif kind == "metrics":
            self._send_metrics(app, message["id"])
        elif kind == "describe":
            self._tasks.once("describe", self._describe(app, message["id"]))
        elif kind == "trials":
            self._channel.send("trials", id=message["id"], trials=app.trials())
        elif kind == "held":
            app.hold([LocalTrip(*trip) for trip in message["trips"]], message["killed"])
        elif kind == "listening":
            app.listening()
        elif kind == "reload":
            app.reload()

    def _take_policies(self, app: Application, message: Message) -> None:
        asked = message.get("id", 0)
        try:
            engine = app.engine(message["sources"])
        except DropoutError as error:
            self._channel.send("policies_refused", id=asked, faults=[fault.as_dict() for fault in error.faults])
            return
        self._slot.swap(engine)
        app.policies_swapped(engine.revision)
        self._channel.send("swapped", id=asked, policy_revision=engine.revision)

    async def _describe(self, app: Application, question: int) -> None:
        """Answer for /snapshot between requests: ten thousand rollouts at once would hold them up for 60 ms."""
        revision, described = app.revision, app.describe()
        rollouts = await written_between(described["rollouts"])
        self._channel.send(
            "description",
            id=question,
            worker=self._index,
            revision=revision,
            errors=described["errors"],
            rollouts=rollouts,
        )

    def _send_metrics(self, app: Application, question: int) -> None:
        """The counts; with the keys of all rollouts when those may have changed since they were last sent."""
        keys = app.rollouts() if app.revision != self._keys_sent_at else None
        self._keys_sent_at = app.revision
        self._channel.send("metrics", id=question, dump=app.dump(), rollouts=keys, revision=app.revision)

    async def _tell_decided(self, app: Application) -> None:
        """Tell each second what was decided in it."""
        while True:
            await asyncio.sleep(_TELL_SECONDS - time.time() % _TELL_SECONDS)
            self._send_decided(app)

    def _send_decided(self, app: Application) -> None:
        if (decided := app.take_decided()) is not None:
            self._channel.send("decided", **decided)

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
            await self._until_succeeded(WorkerConfig(**self._started.result()["config"]))
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

    async def _drain(self, server: Server, config: WorkerConfig) -> None:
        """Say so, leave the proxies a moment to see it, take nothing new, finish the rest, send the last counts."""
        assert self._app is not None
        app = self._app
        self._channel.send("draining")
        with contextlib.suppress(TimeoutError):  # a watcher that takes no answer must not hold up the end
            await asyncio.wait_for(server.say_draining(), _IDLE_SECONDS)
        if not self._alone or isinstance(config.endpoint, UnixEndpoint):
            await self._lame_duck(app, config.endpoint)
        await server.stop(config.drain_timeout)
        await self._tasks.end()
        app.close()
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
