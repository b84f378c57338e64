"""The policy shadow's process: it is shown decisions, asks other policies about them, and counts what would change.

It is nobody's to wait for: workers write into a socket that drops what is too much, the supervisor replaces the process
whatever it dies of. An evaluation that does not end is ended by the kernel, and the process with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, assert_never

from extproc.datapath.embedded_policy import EngineWrapper
from extproc.datapath.model import PolicyVerdict
from extproc.datapath.policy_shadow.shown import MAX_MESSAGE_BYTES
from extproc.datapath.ports import EmbeddedEngine
from extproc.errors import DropoutError
from extproc.lifeline import arm_dead_man_switch
from extproc.metrics.counting import Dump
from extproc.serve.channel import Channel, faults_of, written
from extproc.serve.heartbeat import BEAT_SECONDS, HeartbeatPage
from extproc.serve.memory import MemoryGauge, limit_memory
from extproc.serve.messages import (
    TO_POLICY_SHADOW,
    Failed,
    FromPolicyShadow,
    MaskByPolicies,
    PolicyShadowState,
    Reload,
    RolloutsServed,
    StartPolicyShadow,
    SwapPolicies,
    ToPolicyShadow,
    WantPlans,
)
from extproc.serve.watchdog import WatchedEngine
from extproc.serve.worker_config import PolicyShadowConfig

LOOK_SECONDS: Final = 0.01
"""Between two looks at what is shown: to wake who waits for it would cost a worker more than all else about it."""

STATE_SECONDS: Final = 0.5
WANT_SECONDS: Final = 1.0
"""Between two times that workers are asked to tell their rollouts again."""

NICENESS: Final = 10
"""A worker that wants the processor has it nine times out of ten."""

_MANY: Final = 32
"""Decisions that are looked at before the pipe and the clock have their turn."""

_OOM_SCORE: Final = Path("/proc/self/oom_score_adj")


class PolicyShadowApplication(Protocol):
    """What the process runs, put together by the composition root. Everything happens on the event loop's thread."""

    def engine(self, policies: str) -> EmbeddedEngine:
        """An engine of policies, which are JSON text. Raises ``InvalidInput``."""
        ...

    def use(self, engine: EmbeddedEngine) -> None:
        """Compare with these policies from now on."""
        ...

    def take(self, data: memoryview) -> bool:
        """Compare a decision, or take note of a rollout; False when its rollout is not known."""
        ...

    def retain(self, rollouts: Sequence[str]) -> None:
        """Forget what is known of others."""
        ...

    def state(self) -> tuple[str, Dump, list[Mapping[str, Any]]]:
        """The revision of the policies, what was counted, and the ways in which decisions change."""
        ...

    def mask_by(self, policies: str | None) -> None:
        """Have the masks of these, which are JSON text, hold for what is logged from now on."""
        ...

    def reopen(self) -> None:
        """Open again what was opened by name."""
        ...

    def close(self) -> None:
        """Write what can still be written."""
        ...


AssemblePolicyShadow = Callable[[PolicyShadowConfig], PolicyShadowApplication]


class LimitedEvaluation(EngineWrapper):
    """An ``EmbeddedEngine`` whose evaluations the kernel ends after ``limit`` seconds of a processor, and this process.

    What a process uses is counted, not what passes: it stands behind the workers in the queue.
    """

    def __init__(self, engine: EmbeddedEngine, limit: float) -> None:
        super().__init__(engine)
        self._limit = limit

    def evaluate(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
        """The verdict of the rule at ``path``; never raises."""
        arm_dead_man_switch(self._limit)
        try:
            return self._engine.evaluate(path, document)
        finally:
            arm_dead_man_switch(0)


def run_policy_shadow(shown: int, page: int, pipe: int, assemble: AssemblePolicyShadow, limit: float) -> int:
    """Compare until told to stop; the exit status. ``shown``, ``page`` and ``pipe`` are inherited descriptors."""
    os.nice(NICENESS)
    with suppress(OSError):
        _OOM_SCORE.write_text("1000")  # where a container's memory runs out, this is what nobody needs

    async def live() -> int:
        sockets = socket.socket(fileno=pipe), socket.socket(fileno=shown)
        return await PolicyShadowProcess(*sockets, HeartbeatPage(page), assemble, limit).run()

    return asyncio.run(live())


class PolicyShadowProcess:
    """The life of one, which is ``shown`` decisions. ``limit`` is what an evaluation may take, in processor seconds."""

    def __init__(
        self,
        pipe: socket.socket,
        shown: socket.socket,
        page: HeartbeatPage,
        assemble: AssemblePolicyShadow,
        limit: float,
    ) -> None:
        self._pipe = pipe
        self._shown = shown
        self._page = page
        self._assemble = assemble
        self._limit = limit
        self._gauge = MemoryGauge()
        self._channel = Channel[FromPolicyShadow, ToPolicyShadow](TO_POLICY_SHADOW, self._received, self._stop)
        self._started: asyncio.Future[StartPolicyShadow | None] = asyncio.Future()
        self._stopped = asyncio.Event()
        self._app: PolicyShadowApplication | None = None
        self._buffer = bytearray(MAX_MESSAGE_BYTES)
        self._early: list[ToPolicyShadow] = []
        self._wanted_at = 0.0

    async def run(self) -> int:
        """From the first message to the end of the pipe; the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        await loop.create_unix_connection(lambda: self._channel, sock=self._pipe)
        start = await self._started
        if start is None:
            return 0
        limit_memory(start.config.memory)
        try:
            app = self._assemble(start.config)
            self._use(app, start.policies, start.quarantined)
        except DropoutError as error:
            self._channel.send(Failed(faults_of(error), error.exit_code))
            self._channel.close()
            await asyncio.sleep(0)
            return error.exit_code
        self._app = app
        for message in self._early:
            self._received(message)
        self._shown.setblocking(False)
        self._channel.send(WantPlans())
        self._beat(0)
        self._take_some(app)
        await self._stopped.wait()
        app.close()
        return 0

    def _use(self, app: PolicyShadowApplication, policies: str, quarantined: Sequence[str] = ()) -> None:
        self._page.beat(self._gauge.read())
        watched = WatchedEngine(LimitedEvaluation(app.engine(policies), self._limit), self._page)
        watched.quarantine(frozenset(quarantined))
        app.use(watched)
        self._page.beat(self._gauge.read())

    def _beat(self, turn: int) -> None:
        self._page.beat(self._gauge.read())
        if turn % round(STATE_SECONDS / BEAT_SECONDS) == 0 and self._app is not None:
            revision, dump, changes = self._app.state()
            self._channel.send(PolicyShadowState(revision, dump, written(changes)))
        asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat, turn + 1)

    def _take_some(self, app: PolicyShadowApplication) -> None:
        """Take some of what workers showed, and look again: at once if there may be more."""
        view = memoryview(self._buffer)
        wait = 0.0
        for _ in range(_MANY):
            try:
                size = self._shown.recv_into(view)
            except OSError:
                wait = LOOK_SECONDS
                break
            if not size:  # no worker is left, nor who could start one
                self._stop()
                return
            if not app.take(view[:size]):
                self._want_plans()
        asyncio.get_running_loop().call_later(wait, self._take_some, app)

    def _want_plans(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._wanted_at + WANT_SECONDS:
            self._wanted_at = now
            self._channel.send(WantPlans())

    def _received(self, message: ToPolicyShadow) -> None:
        app = self._app
        match message:
            case StartPolicyShadow():
                if not self._started.done():
                    self._started.set_result(message)
            case _ if app is None:
                self._early.append(message)
            case SwapPolicies():
                self._swap(app, message)
            case MaskByPolicies():
                app.mask_by(message.policies)
            case RolloutsServed():
                app.retain(message.keys)
            case Reload():
                app.reopen()
            case _:
                assert_never(message)

    def _swap(self, app: PolicyShadowApplication, message: SwapPolicies) -> None:
        try:
            self._use(app, message.sources)
        except DropoutError as error:  # they were tried before, so it is this process
            self._channel.send(Failed(faults_of(error), error.exit_code))

    def _stop(self) -> None:
        self._stopped.set()
        if not self._started.done():
            self._started.set_result(None)
