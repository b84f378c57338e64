"""The workers of one run, each in its slot: their pipes, what they say of themselves, their ends and who comes next."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from extproc.errors import Fault
from extproc.serve.children import Backoff, Child, spawn
from extproc.serve.endpoints import FolderLock
from extproc.serve.messages import Channel, Message
from extproc.serve.worker_config import WorkerConfig

_LAST_WORDS_SECONDS: Final = 0.01


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

    def send(self, kind: str, **body: Any) -> bool:
        """Tell the worker something; False when there is nobody to hear it."""
        return self.channel is not None and self.channel.send(kind, **body)

    def heard(self, message: Message) -> None:
        """Take over what the worker says of itself."""
        kind = message["kind"]
        if kind == "ready":
            self.state, self.reasons = "serving", ()
            self.revision, self.policy_revision = message["revision"], message["policy_revision"]
        elif kind == "failed":
            self.reasons, self.exit_code = [Fault(**fault) for fault in message["faults"]], message["exit_code"]
        elif kind == "draining":
            self.state = "draining"
        elif kind == "swapped":
            self.policy_revision = message["policy_revision"]
        elif kind == "metrics":
            self.revision = message["revision"]
            if message["rollouts"] is not None:
                self.rollouts = frozenset(message["rollouts"])


class Workers:
    """All slots. ``children`` were started already and wait for their first message.

    ``opening`` gives what a worker is told to begin with, beside its configuration. ``heard`` gets each message of a
    slot's present life, ``ended`` each life that is over. ``run`` runs a coroutine to its end, ``say`` writes a line
    for people. ``changed`` is set whenever something is heard or a worker ends.
    """

    def __init__(
        self,
        configs: Sequence[WorkerConfig],
        children: Sequence[Child],
        command: Sequence[str],
        lock: FolderLock | None,
        *,
        opening: Callable[[], Mapping[str, Any]],
        heard: Callable[[Slot, Message], None],
        ended: Callable[[Slot], None],
        run: Callable[[Coroutine[Any, Any, None]], None],
        say: Callable[[str], None],
    ) -> None:
        self.slots = [Slot(config, child) for config, child in zip(configs, children, strict=True)]
        self.changed = asyncio.Event()
        self.phase: Literal["starting", "kept", "ending"] = "starting"
        """While they are kept, another one takes the place of each that ends."""
        self._command = command
        self._lock = lock
        self._opening = opening
        self._heard = heard
        self._ended = ended
        self._run = run
        self._say = say
        self._questions: dict[int, tuple[Child, asyncio.Future[Message]]] = {}
        self._asked = 0

    @property
    def serving(self) -> list[Slot]:
        """Those that take requests."""
        return [slot for slot in self.slots if slot.serving]

    @property
    def deciding(self) -> list[Slot]:
        """Those that serve, and those that drain and answer what still comes."""
        return [slot for slot in self.slots if slot.state in ("serving", "draining")]

    # -- what is said

    @staticmethod
    def tell(slots: Iterable[Slot], kind: str, **body: Any) -> None:
        """Send a message to each of ``slots``."""
        for slot in slots:
            slot.send(kind, **body)

    async def ask(self, slots: Sequence[Slot], kind: str, within: float, **body: Any) -> list[Message]:
        """The answers that come ``within`` so many seconds, one for each of ``slots`` at most."""
        futures: list[asyncio.Future[Message]] = []
        for slot in slots:
            self._asked += 1
            future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            self._questions[self._asked] = (slot.child, future)
            if slot.send(kind, id=self._asked, **body):
                futures.append(future)
            else:
                del self._questions[self._asked]
        if futures:
            await asyncio.wait(futures, timeout=within)
        for number in [number for number, (_, future) in self._questions.items() if future in futures]:
            del self._questions[number]
        return [future.result() for future in futures if future.done() and not future.cancelled()]

    def _received(self, slot: Slot, child: Child, message: Message) -> None:
        if slot.child is not child:
            return
        slot.heard(message)
        self._heard(slot, message)
        _, waiting = self._questions.pop(message.get("id", 0), (child, None))
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

    def _watch(self, slot: Slot) -> None:
        """Hear of the end of a new life of the worker."""
        asyncio.get_running_loop().add_reader(slot.child.exit_fd, self._exited, slot, slot.child)

    async def _open(self, slot: Slot) -> None:
        """Open the pipe to a new life of the worker."""
        child = slot.child
        channel = Channel(lambda message: self._received(slot, child, message), lambda: self._hung_up(child))
        slot.channel = channel
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=child.pipe)
        if self._lock is not None:
            with suppress(OSError):  # a full disk: a successor has to wait for these workers to end
                self._lock.note(slot.child.pid for slot in self.slots)

    def start(self, slot: Slot, *, trial: bool = False) -> None:
        """Tell a worker what to serve; on ``trial`` it tries every policy first."""
        slot.send("start", config=asdict(slot.config), trial=trial, **self._opening())

    def _exited(self, slot: Slot, child: Child) -> None:
        """A worker process is no more."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(child.exit_fd)
        os.close(child.exit_fd)
        child.process.wait()
        self.changed.set()
        # Its last words may still be in the pipe: hear them first.
        loop.call_later(_LAST_WORDS_SECONDS, self._bury, slot, child)

    def _bury(self, slot: Slot, child: Child) -> None:
        if slot.channel is not None:
            slot.channel.close()
        slot.died_in = child.page.read().path if child.crashed() else None
        child.page.close()
        slot.state = "dead"
        self._ended(slot)
        self.changed.set()
        if self.phase == "kept":
            wait = slot.backoff.after(time.monotonic() - child.born)
            why = f": {slot.reasons[0].message}" if slot.reasons else f" with status {child.process.returncode}"
            self._say(f"worker {slot.config.index} (pid {child.pid}) ended{why}; the next starts in {wait:g} s")
            slot.restart = asyncio.get_running_loop().call_later(wait, self._respawn, slot)

    def _respawn(self, slot: Slot) -> None:
        slot.restart = None
        if self.phase != "kept":
            return
        try:
            slot.child = spawn(slot.config.index, self._command)
        except OSError as error:
            wait = slot.backoff.after(0.0)
            self._say(f"worker {slot.config.index} cannot be started: {error.strerror}; the next try is in {wait:g} s")
            slot.restart = asyncio.get_running_loop().call_later(wait, self._respawn, slot)
            return
        slot.reasons, slot.exit_code, slot.state = (), None, "starting"
        self._watch(slot)
        self._run(self._introduce(slot))

    async def _introduce(self, slot: Slot) -> None:
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
            if slot.state not in ("serving", "draining") or not slot.send("drain"):
                slot.child.kill()

    def kill(self) -> None:
        """End all of them now."""
        for slot in self.slots:
            slot.child.kill()
