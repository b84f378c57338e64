"""The supervisor's part in the protect loop: the observer's place, and who tells whom what.

Workers tell what they decide, the observer tells what is tripped; both through here. An observer that ends or hangs is
replaced and told the trips in force. Nothing that serves waits for it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from extproc.metrics import Totals
from extproc.serve.children import Backoff, Child, spawn
from extproc.serve.endpoints import UnixEndpoint
from extproc.serve.heartbeat import BEAT_SECONDS
from extproc.serve.messages import Channel, Message
from extproc.serve.watchdog import Limits, Watchdog, process_state
from extproc.serve.worker_config import ObserverPlan
from extproc.settings import Settings

OBSERVER: Final = -1
"""The observer's number, where workers have theirs."""

_ANSWER_SECONDS: Final = 1.0
_LAST_WORDS_SECONDS: Final = 2.0

Tell = Callable[..., None]


class Protection:
    """The observer of one run, if ``plan`` asks for one.

    ``tell`` sends a message to every worker that serves, ``say`` writes a line for people, ``replaced`` hears of each
    observer that ended. ``trips`` are rows of ``LocalTrip``: what every worker is to go by.
    """

    def __init__(
        self,
        plan: ObserverPlan,
        tuning: Settings,
        totals: Totals,
        *,
        tell: Tell,
        say: Callable[[str], None],
        replaced: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._settings = tuning
        self._totals = totals
        self._tell = tell
        self._say = say
        self._replaced = replaced
        self._child: Child | None = None
        self._channel: Channel | None = None
        self._state = "starting"
        self._why = ""
        self._ended = asyncio.Event()
        self._backoff = Backoff()
        self._answer: asyncio.Future[None] | None = None
        self._stopping = False
        self.trips: Sequence[Any] = ()

    # -- its life

    async def run(self) -> None:
        """Keep an observer alive, until cancelled."""
        while True:
            began = time.monotonic()
            try:
                child = spawn(OBSERVER, self._plan.command)
            except OSError as error:
                self._why = error.strerror or str(error)
            else:
                await self._live(child)
            self._state = "dead"
            wait = self._backoff.after(time.monotonic() - began)
            self._say(f"the observer ended: {self._why}; the next starts in {wait:g} s")
            self._replaced()
            await asyncio.sleep(wait)

    async def _live(self, child: Child) -> None:
        """One life, from its first message to its end."""
        loop = asyncio.get_running_loop()
        self._child, self._state, self._why = child, "starting", ""
        self._ended = asyncio.Event()
        loop.add_reader(child.exit_fd, self._exited, child)
        self._channel = Channel(self._received, lambda: None)
        channel = self._channel
        await loop.create_unix_connection(lambda: channel, sock=child.pipe)
        self._note()
        channel.send("start", config=asdict(self._plan.config), trips=self.trips)
        watchdog = Watchdog(Limits(self._settings.evaluation_limit, self._settings.hang_limit), process_state)
        while not self._ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), BEAT_SECONDS)
            self._kill_if_it_hangs(child, watchdog)
        self._totals.retire(child.life)

    def _kill_if_it_hangs(self, child: Child, watchdog: Watchdog) -> None:
        late = time.monotonic() - child.born > self._settings.start_timeout
        if self._state == "serving":
            late = bool(watchdog.judge([(OBSERVER, child.pid, child.page)], time.monotonic_ns()))
        if late and not self._ended.is_set():
            self._why = "it did not answer"
            child.kill()

    def _exited(self, child: Child) -> None:
        asyncio.get_running_loop().remove_reader(child.exit_fd)
        os.close(child.exit_fd)
        child.process.wait()
        if self._channel is not None:
            self._channel.close()
        child.page.close()
        self._state = "dead"
        self._why = self._why or f"status {child.process.returncode}"
        self._ended.set()

    def _note(self) -> None:
        if self._plan.lock is not None and self._child is not None:
            with suppress(OSError):  # a full disk: a successor has to wait for this observer to end
                self._plan.lock.note([self._child.pid])

    # -- what is said

    def _received(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "ready":
            self._state = "serving"
            self._tell("listening")
        elif kind == "failed":
            self._why = "; ".join(fault["message"] for fault in message["faults"])
        elif kind == "trips":
            self.trips = message["trips"]
            self._tell("trips", trips=self.trips)
        elif kind == "metrics" and self._child is not None:
            self._totals.update(self._child.life, message["dump"])
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(None)

    def decided(self, message: Message) -> None:
        """A worker tells what it decided."""
        if self.up and self._channel is not None:
            self._channel.send("decided", counts=message["counts"], units=message["units"])

    @property
    def up(self) -> bool:
        """Whether an observer takes the access log."""
        return self._state == "serving"

    async def gather_metrics(self) -> None:
        """Have the observer's counts among the totals; an observer that does not answer is passed over."""
        if not self.up or self._channel is None:
            return
        self._answer = asyncio.get_running_loop().create_future()
        if self._channel.send("metrics", id=0):
            await asyncio.wait([self._answer], timeout=_ANSWER_SECONDS)

    def described(self) -> Mapping[str, Any]:
        """For /snapshot."""
        return {
            "pid": self._child.pid if self._child is not None else None,
            "address": self._plan.config.endpoint.target,
            "state": self._state,
            "trips": [
                {"rollout": rollout, "version": version, "attempt": attempt, "probing": probing}
                for rollout, version, attempt, probing, *_ in self.trips
            ],
        }

    # -- the end

    def release(self) -> None:
        """Let a successor have the socket."""
        if self._plan.lock is not None:
            self._plan.lock.release()

    async def stop(self) -> None:
        """Let the observer write what it knows, and end it."""
        child = self._child
        if child is not None and self._state != "dead":
            child.process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), _LAST_WORDS_SECONDS)
        self.kill()
        endpoint = self._plan.config.endpoint
        if self._plan.lock is not None and isinstance(endpoint, UnixEndpoint):
            self._plan.lock.clean_up([endpoint])

    def kill(self) -> None:
        """End it now."""
        if self._child is not None:
            self._child.kill()
            self._child.process.wait()
