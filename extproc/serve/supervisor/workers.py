"""The workers of one run, each in its slot: their pipes, what they say of themselves, their ends and who comes next."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, assert_never

from msgspec.structs import replace

from extproc.errors import Fault
from extproc.net.endpoints import FolderLock
from extproc.serve.channel import Channel
from extproc.serve.memory import blame
from extproc.serve.messages import (
    FROM_WORKER,
    Answer,
    DecisionCounts,
    Description,
    Drain,
    Draining,
    EngineState,
    Failed,
    FromWorker,
    ListensAgain,
    PoliciesRefused,
    Quarantined,
    QuestionToWorker,
    StartWorker,
    Swapped,
    ToWorker,
    Trials,
    Unanswered,
    WorkerCounted,
    WorkerReady,
    fingerprint,
)
from extproc.serve.supervisor.children import Backoff, Child, spawn
from extproc.serve.worker_config import WorkerConfig
from extproc.trouble import Troubles

_LAST_WORDS_SECONDS: Final = 0.01


class Blamed(NamedTuple):
    """The rule that ended a worker, and what it did to it."""

    path: str
    deed: str


@dataclass(slots=True)
class WorkerSlot:
    """A worker's place: its present life, if any, and what is known of it."""

    config: WorkerConfig
    child: Child
    channel: Channel[ToWorker, FromWorker] | None = None
    state: str = "starting"
    revision: int = 0
    policy_revision: str = ""
    fingerprint: str = ""
    engine_fault: Fault | None = None
    rollouts: frozenset[str] = frozenset()
    backoff: Backoff = field(default_factory=Backoff)
    restart: asyncio.TimerHandle | None = None
    reasons: Sequence[Fault] = ()
    exit_code: int | None = None
    blamed: Blamed | None = None

    @property
    def serving(self) -> bool:
        """Whether it takes requests."""
        return self.state == "serving"

    def send(self, message: ToWorker) -> bool:
        """Tell the worker something; False when there is nobody to hear it."""
        return self.channel is not None and self.channel.send(message)

    def heard(self, message: FromWorker) -> None:
        """Take over what the worker says of itself."""
        match message:
            case WorkerReady():
                self.state, self.reasons = "serving", ()
                self.revision, self.policy_revision = message.revision, message.policy_revision
            case Failed():
                self.reasons, self.exit_code = message.faults, message.exit_code
            case Draining():
                self.state = "draining"
            case Swapped():
                self.policy_revision, self.fingerprint = message.policy_revision, message.fingerprint
            case EngineState():
                self.policy_revision, self.engine_fault = message.policy_revision, message.fault
            case WorkerCounted():
                self.revision = message.revision
                if message.rollouts is not None:
                    self.rollouts = frozenset(message.rollouts)
            case PoliciesRefused() | Quarantined() | Trials() | Unanswered() | Description() | DecisionCounts():
                pass  # nothing of itself
            case ListensAgain():
                pass  # of use to whoever asked
            case _:
                assert_never(message)


class Workers:
    """All slots. ``children`` were started already and wait for their first message.

    ``opening`` gives what a worker is told to begin with, and whether it tries every policy first. ``heard`` gets each
    message of a slot's present life, ``ended`` each life that is over; before that it ``blames`` the rule that ended
    it, if one did. ``run`` runs a coroutine to its end, ``warn`` writes a line for people. ``changed`` is set whenever
    something is heard or a worker ends.
    """

    def __init__(
        self,
        configs: Sequence[WorkerConfig],
        children: Sequence[Child],
        command: Sequence[str],
        lock: FolderLock | None,
        *,
        opening: Callable[[WorkerConfig, bool], StartWorker],
        heard: Callable[[WorkerSlot, FromWorker], None],
        ended: Callable[[WorkerSlot], None],
        blames: Callable[[WorkerSlot, Blamed], None],
        run: Callable[[Coroutine[Any, Any, None]], None],
        warn: Callable[[str], None],
    ) -> None:
        self.slots = [WorkerSlot(config, child) for config, child in zip(configs, children, strict=True)]
        self.changed = asyncio.Event()
        self.phase: Literal["starting", "kept", "ending"] = "starting"
        """While they are kept, another one takes the place of each that ends."""
        self._command = command
        self._lock = lock
        self._opening = opening
        self._heard = heard
        self._ended = ended
        self._blames = blames
        self._run = run
        self._troubles = Troubles(warn)
        self._questions: dict[int, tuple[Child, asyncio.Future[Answer]]] = {}
        self._asked = 0

    @property
    def serving(self) -> list[WorkerSlot]:
        """Those that take requests."""
        return [slot for slot in self.slots if slot.serving]

    @property
    def deciding(self) -> list[WorkerSlot]:
        """Those that serve, and those that drain and answer what still comes."""
        return [slot for slot in self.slots if slot.state in ("serving", "draining")]

    @property
    def rollouts(self) -> frozenset[str]:
        """The keys of all rollouts that those know that take requests."""
        return frozenset().union(*(slot.rollouts for slot in self.serving))

    # -- what is said

    @staticmethod
    def tell(slots: Iterable[WorkerSlot], message: ToWorker) -> None:
        """Send a message to each of ``slots``."""
        for slot in slots:
            slot.send(message)

    async def ask(self, slots: Sequence[WorkerSlot], question: QuestionToWorker, within: float) -> list[Answer]:
        """The answers that come ``within`` so many seconds, one for each of ``slots`` at most."""
        futures: list[asyncio.Future[Answer]] = []
        for slot in slots:
            self._asked += 1
            future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._questions[self._asked] = (slot.child, future)
            if slot.send(replace(question, id=self._asked)):
                futures.append(future)
            else:
                del self._questions[self._asked]
        if futures:
            await asyncio.wait(futures, timeout=within)
        for number in [number for number, (_, future) in self._questions.items() if future in futures]:
            del self._questions[number]
        return [future.result() for future in futures if future.done() and not future.cancelled()]

    def _received(self, slot: WorkerSlot, child: Child, message: FromWorker) -> None:
        if slot.child is not child:
            return
        slot.heard(message)
        if isinstance(message, WorkerReady):
            self._troubles.note(f"worker {slot.config.index}")
        self._heard(slot, message)
        if isinstance(message, Answer):
            _, waiting = self._questions.pop(message.id, (child, None))
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        self.changed.set()

    def _hung_up(self, child: Child) -> None:
        """What it was asked it will not answer any more."""
        for asked, waiting in self._questions.values():
            if asked is child:
                waiting.cancel()

    # -- their lives

    async def adopt(self) -> None:
        """Open the pipes to those that were started already."""
        for slot in self.slots:
            self._watch(slot)
            await self._open(slot)

    def _watch(self, slot: WorkerSlot) -> None:
        """Hear of the end of a new life of the worker."""
        asyncio.get_running_loop().add_reader(slot.child.exit_fd, self._exited, slot, slot.child)

    async def _open(self, slot: WorkerSlot) -> None:
        """Open the pipe to a new life of the worker."""
        child = slot.child
        channel = slot.channel = Channel[ToWorker, FromWorker](
            FROM_WORKER, lambda message: self._received(slot, child, message), lambda: self._hung_up(child)
        )
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=child.pipe)
        if self._lock is not None:
            with suppress(OSError):  # a full disk: a successor has to wait for these workers to end
                self._lock.note(slot.child.pid for slot in self.slots)

    def start(self, slot: WorkerSlot, *, trial: bool = False) -> None:
        """Tell a worker what to serve; on ``trial`` it tries every policy first."""
        start = self._opening(slot.config, trial)
        slot.fingerprint = "" if start.policies is None else fingerprint(start.policies)
        slot.send(start)

    def _exited(self, slot: WorkerSlot, child: Child) -> None:
        """A worker process is no more."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(child.exit_fd)
        os.close(child.exit_fd)
        child.reap()
        if slot.child is child and (blamed := _blamed(child, slot.config.memory)) is not None:
            slot.blamed = blamed
            self._blames(slot, blamed)  # at once: what it was asked is asked of another one in a moment
        self.changed.set()
        # Its last words may still be in the pipe: hear them first.
        loop.call_later(_LAST_WORDS_SECONDS, self._bury, slot, child)

    def _bury(self, slot: WorkerSlot, child: Child) -> None:
        if slot.channel is not None:
            slot.channel.close()
        child.page.close()
        slot.state = "dead"
        self._ended(slot)
        self.changed.set()
        if self.phase == "kept":
            wait = slot.backoff.after(time.monotonic() - child.born)
            why = f": {slot.reasons[0].message}" if slot.reasons else f" with status {child.process.returncode}"
            why = f"pid {child.pid} ended{why}"
            self._troubles.note(f"worker {slot.config.index}", f"{why}; the next starts in {wait:g} s")
            slot.restart = asyncio.get_running_loop().call_later(wait, self._respawn, slot)

    def _respawn(self, slot: WorkerSlot) -> None:
        slot.restart = None
        if self.phase != "kept":
            return
        try:
            slot.child = spawn(slot.config.index, self._command, slot.config.inherited)
        except OSError as error:
            wait = slot.backoff.after(0.0)
            why = f"it cannot be started: {error.strerror}"
            self._troubles.note(f"worker {slot.config.index}", f"{why}; the next try is in {wait:g} s")
            slot.restart = asyncio.get_running_loop().call_later(wait, self._respawn, slot)
            return
        slot.reasons, slot.exit_code, slot.blamed, slot.state = (), None, None, "starting"
        slot.engine_fault = None
        self._watch(slot)
        self._run(self._introduce(slot))

    async def _introduce(self, slot: WorkerSlot) -> None:
        try:
            await self._open(slot)
            self.start(slot)
        except BaseException:
            slot.child.kill()  # nobody would ever tell it what to do; another one comes after it
            raise

    # -- the end

    def drain(self) -> None:
        """Have those that decide finish what they began and end, the others end now."""
        for slot in self.slots:
            if slot.restart is not None:
                slot.restart.cancel()
            if slot.state not in ("serving", "draining") or not slot.send(Drain()):
                slot.child.kill()

    def kill(self) -> None:
        """End all of them now."""
        for slot in self.slots:
            slot.child.kill()


def _blamed(child: Child, limit: int) -> Blamed | None:
    """The rule that is to blame for a worker's end."""
    beat = child.page.read()
    deed = blame(beat.memory, child.peak, limit, crashed=child.crashed()) if beat.path is not None else None
    return Blamed(beat.path, deed) if beat.path is not None and deed is not None else None
