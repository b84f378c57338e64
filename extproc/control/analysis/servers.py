"""Measurements of servers, beside the tick: asked in one tick, taken over in a later one.

Each server has a pool of its own, so that one that hangs takes nobody's place. A measurement is asked for once at a
time in each run, and is void when that run is over, or its metric another. What did not come within its metric's
timeout is an Error; the time in the queue is a part of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import Final, NamedTuple

from extproc.control.analysis.ports import MetricProvider, MetricQuery, Reading, Subject
from extproc.control.analysis.runs import Metric
from extproc.resources.fields import format_duration
from extproc.resources.providers.kind import ServerSpec

logger = logging.getLogger(__name__)

AT_ONCE: Final = 8
"""Questions that a server has to answer at once; the others wait for their turn."""

KEPT_SECONDS: Final = 10.0
"""How long an answer that nobody took over says something about now."""

_CLOSE_SECONDS: Final = 1.0


class Run(NamedTuple):
    """A run of an analysis: the rollout's, in an attempt and an epoch, of one kind, begun at a time (Unix seconds)."""

    rollout: str
    attempt: int
    epoch: int
    kind: str
    started: float


@dataclass(slots=True)
class _Asked:
    """A measurement that was asked for, when (monotonic seconds), and in which tick it is wanted."""

    metric: Metric
    server: str
    at: float
    tick: int
    is_sent: bool = False
    reading: Reading | None = None
    answer: Future[None] | None = None


class _Server(NamedTuple):
    provider: MetricProvider
    places: asyncio.Semaphore


class MetricServers:
    """Asks ``servers``, by the names that the operator gave them, on a thread of its own; the methods are one thread's.

    Call ``begin`` as each tick begins, and ``expire`` whenever time has passed.
    """

    def __init__(self, servers: Mapping[str, MetricProvider], monotonic: Callable[[], float]) -> None:
        self._servers = {name: _Server(provider, asyncio.Semaphore(AT_ONCE)) for name, provider in servers.items()}
        self._monotonic = monotonic
        self._asked: dict[tuple[Run, str], _Asked] = {}
        self._tick = 0
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="metrics", daemon=True)

    def begin(self) -> None:
        """A tick begins; what nobody wanted to know in the last one is void."""
        for key, asked in list(self._asked.items()):
            if asked.tick != self._tick:
                self._forget(key)
        self._tick += 1

    def expire(self) -> None:
        """Give up what has had its time."""
        late = [asked for asked in self._asked.values() if asked.reading is None and self._left(asked) <= 0]
        for asked in late:
            asked.reading = Reading(error=_timed_out(asked))
        for asked in late:  # only now, because each gives its place to one that waits
            _give_up(asked)

    def measure(self, run: Run, metric: Metric, of: Subject) -> Reading | None:
        """The reading of ``metric``, whose provider asks a server; None while there is none. Asks if nobody did."""
        key = (run, metric.name)
        asked = self._asked.get(key)
        if asked is not None and (asked.metric != metric or self._left(asked) < -KEPT_SECONDS):
            self._forget(key)
            asked = None
        if asked is None:
            spec = metric.provider.spec
            assert isinstance(spec, ServerSpec)
            if refusal := self._refusal(spec.server, metric.provider.name):
                return Reading(error=refusal)
            asked = self._asked[key] = self._ask(spec.server, metric, of)
        asked.tick = self._tick
        if asked.reading is not None:
            del self._asked[key]
        return asked.reading

    def close(self) -> None:
        """Give up all that was asked, and let go of the servers."""
        for key in list(self._asked):
            self._forget(key)
        if self._thread.ident is not None:
            closing = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
            with suppress(TimeoutError):
                closing.result(_CLOSE_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    def _left(self, asked: _Asked) -> float:
        """Seconds until the measurement is late."""
        return asked.at + asked.metric.timeout - self._monotonic()

    def _forget(self, key: tuple[Run, str]) -> None:
        _give_up(self._asked.pop(key))

    def _refusal(self, server: str, provider: str) -> str:
        """Why the server cannot be asked; empty if it can."""
        if server not in self._servers:
            known = f"; there is {', '.join(sorted(self._servers))}" if self._servers else ""
            return f"no metric server is called {server}{known}: start the controller with --metrics {server}=URL"
        found = self._servers[server].provider.provider
        return "" if found == provider else f"the metric server {server} is of {found}, and is asked as {provider}"

    def _ask(self, server: str, metric: Metric, of: Subject) -> _Asked:
        if self._thread.ident is None:
            self._thread.start()
        asked = _Asked(metric, server, self._monotonic(), self._tick)
        asked.answer = asyncio.run_coroutine_threadsafe(self._answer(asked, of), self._loop)
        return asked

    async def _answer(self, asked: _Asked, of: Subject) -> None:
        """Wait for a place, ask, and keep the answer if it is in time."""
        server, metric = self._servers[asked.server], asked.metric
        async with server.places:
            asked.is_sent = True
            question = MetricQuery(metric.provider.spec, metric.args, of)
            try:
                reading = await server.provider.measure(question, self._left(asked))
            except Exception as error:
                logger.exception("%s of %s cannot be measured", metric.name, of.rollout)
                reading = Reading(error=f"it cannot be measured: {error!r}")
        asked.reading = asked.reading or (reading if self._left(asked) > 0 else Reading(error=_timed_out(asked)))

    async def _close(self) -> None:
        for server in self._servers.values():
            try:
                await server.provider.close()
            except Exception:
                logger.exception("a metric server cannot be let go of")


def _give_up(asked: _Asked) -> None:
    if asked.answer is not None:
        asked.answer.cancel()


def _timed_out(asked: _Asked) -> str:
    within = f"within {format_duration(asked.metric.timeout)}"
    if asked.is_sent:
        return f"the metric server {asked.server} did not answer {within}"
    return f"the metric server {asked.server} could not be asked {within}: {AT_ONCE} others wait for its answer"
