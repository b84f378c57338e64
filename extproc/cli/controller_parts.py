"""What a controller is put together from."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from extproc.adapters.control_policy import ControlPolicies
from extproc.adapters.envoy_admin import EnvoyClusters
from extproc.adapters.sqlite_feedback import SqliteFeedback
from extproc.adapters.sqlite_observations import ObservationsReader
from extproc.adapters.stores import beside, open_store
from extproc.cli.controller_options import Options, actor
from extproc.cli.feedback_parts import feedback_service
from extproc.cli.safety import StoreRegister
from extproc.clock import SystemClock
from extproc.control.access import DirectControl
from extproc.control.analysis.measuring import AllMetrics, FeedbackMetrics, ObservedMetrics
from extproc.control.api.feedback_service import FeedbackService
from extproc.control.api.server import ControlServer
from extproc.control.feedback import Code
from extproc.control.fleet import FleetBreaker
from extproc.control.hearing import Hearing
from extproc.control.holding import PolicyHold
from extproc.control.observing import Senses
from extproc.control.reconciler import TICK_SECONDS, Reconciler
from extproc.control.ticking import tick_until
from extproc.errors import Unreachable
from extproc.metrics import (
    CONTROLLER_LEADS,
    CONTROLLER_ROLLOUTS,
    CONTROLLER_STABLE_TRIPPED,
    CONTROLLER_TRANSITIONS,
    FEEDBACK,
    TASK_FAILURES,
    Metrics,
    merge,
)
from extproc.serve.admin import AdminServer, Page
from extproc.serve.hosts import Hosts
from extproc.serve.messages import Channel, Message
from extproc.serve.tasks import Tasks
from extproc.settings import settings
from extproc.snapshot.store import RolloutStore

GRACE_SECONDS: Final = 1.0
"""What calls under way get at the end."""

_TELL_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.5


class Controller:
    """One run of ``dropout controller``. Belongs to one event loop.

    Rollouts are moved, and the lease is renewed, on a thread with a store connection of its own, which waits for
    nothing that happens on the event loop: what listeners have to do holds up no abort.
    """

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._clock = SystemClock()
        self._metrics = Metrics(self._clock)
        self._tasks = Tasks(lambda name: self._metrics.count(TASK_FAILURES, name))
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End it: give up the lease, and let calls under way end."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until told to stop.

        Raises:
            DropoutError: why it could not start.
        """
        async with AsyncExitStack() as parts:
            policy, clusters = self._policy(parts), self._clusters(parts)
            hearing = Hearing(self._observations(parts), self._clock.monotonic)
            reconciler = self._reconciler(parts, policy, clusters, hearing)
            self._watch(reconciler)
            feedback = self._feedback(parts)
            server = self._server(parts, policy, clusters, hearing, feedback)
            await server.start()
            parts.push_async_callback(server.stop, GRACE_SECONDS)
            observed = self._observations(parts)
            parts.callback(self._tasks.cancel)
            self._tasks.keep("control", partial(self._watch_socket, server))
            await self._start_feedback(parts, feedback)
            await self._start_admin(parts, reconciler, server)
            await self._start_pipe(parts)
            self._tasks.keep("fallbacks", partial(self._relay_fallbacks, observed, feedback))
            self._say(f"ready: control API on {self._options.listen.target}")
            await self._reconcile(reconciler)

    # -- parts

    def _store(self, parts: AsyncExitStack, *, create: bool = False) -> RolloutStore:
        store = open_store(self._options.store, create=create)
        parts.callback(store.close)
        return store

    def _policy(self, parts: AsyncExitStack) -> ControlPolicies | None:
        if self._options.policies is None:
            return None
        policies = ControlPolicies(self._options.policies)
        parts.callback(policies.close)
        if not policies.asked:
            self._say("policies: there is no rule control/decision: every control action is allowed")
        return policies

    def _clusters(self, parts: AsyncExitStack) -> EnvoyClusters | None:
        if not self._options.envoys:
            return None
        clusters = EnvoyClusters(self._options.envoys)
        clusters.start()
        parts.callback(clusters.close)
        return clusters

    def _reconciler(
        self,
        parts: AsyncExitStack,
        policy: ControlPolicies | None,
        clusters: EnvoyClusters | None,
        hearing: Hearing,
    ) -> Reconciler:
        store = self._store(parts, create=True)
        hold = {"hold": PolicyHold(store, policy, actor(), self._clock.monotonic)} if policy is not None else {}
        return Reconciler(
            store,
            self._clock,
            self._senses(parts, clusters),
            holder=f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}",
            actor=actor(),
            lease_seconds=settings().lease,
            say=self._say,
            hearing=hearing,
            clusters=clusters,
            **hold,
        )

    def _senses(self, parts: AsyncExitStack, clusters: EnvoyClusters | None) -> Senses:
        labels = SqliteFeedback(beside(self._options.store, ".feedback"), create=True)
        parts.callback(labels.close)
        observed = self._observations(parts)
        metrics = AllMetrics(ObservedMetrics(observed), FeedbackMetrics(labels, observed))
        monotonic = self._clock.monotonic
        return Senses(metrics, monotonic, clusters=clusters, source=observed, fleet=FleetBreaker(observed, monotonic))

    def _observations(self, parts: AsyncExitStack) -> ObservationsReader:
        """What observers counted; for one thread at a time."""
        reader = ObservationsReader(beside(self._options.store, ".observed"), self._clock)
        parts.callback(reader.close)
        return reader

    def _server(
        self,
        parts: AsyncExitStack,
        policy: ControlPolicies | None,
        clusters: EnvoyClusters | None,
        hearing: Hearing,
        feedback: FeedbackService,
    ) -> ControlServer:
        store, hosts = self._store(parts), Hosts(beside(self._options.store, ".serving"))
        return ControlServer(
            self._options.listen,
            lambda user: DirectControl(
                store, user, self._clock, policy, clusters=clusters, hosts=hosts, hearing=hearing
            ),
            [feedback.handler()],
        )

    def _feedback(self, parts: AsyncExitStack) -> FeedbackService:
        def count(code: Code, records: int) -> None:
            self._metrics.count(FEEDBACK, code, amount=records)

        return parts.enter_context(feedback_service(self._options.store, self._clock, count))

    async def _start_feedback(self, parts: AsyncExitStack, feedback: FeedbackService) -> None:
        parts.push_async_callback(feedback.stop, GRACE_SECONDS)
        endpoint = self._options.feedback
        if endpoint is not None:
            await feedback.start(endpoint.host, endpoint.port)
            self._say(f"feedback http://{feedback.address}/v1/feedback")

    # -- the loop

    async def _reconcile(self, reconciler: Reconciler) -> None:
        """Tick until told to stop; then let another lead."""
        register = StoreRegister(self._options.store)

        def tick() -> None:
            if register.tell_first():
                reconciler.tick()
            else:
                reconciler.look()

        def lead() -> None:
            tick_until(self._stopping, tick, TICK_SECONDS)
            reconciler.release()

        with ThreadPoolExecutor(1, "reconcile") as thread:
            await asyncio.get_running_loop().run_in_executor(thread, lead)

    # -- what it says of itself

    def _watch(self, reconciler: Reconciler) -> None:
        self._metrics.gauge(CONTROLLER_LEADS, lambda: float(reconciler.leading))
        self._metrics.gauge(CONTROLLER_ROLLOUTS, lambda: float(reconciler.under_way))
        self._metrics.gauge(CONTROLLER_STABLE_TRIPPED, lambda: float(reconciler.alarms))
        self._metrics.watch(CONTROLLER_TRANSITIONS, lambda: reconciler.transitions)
        self._metrics.watch(TASK_FAILURES, lambda: reconciler.failures, "rollouts")

    async def _watch_socket(self, server: ControlServer) -> None:
        """Have the control API found by clients, whatever becomes of its socket; what is in the way is said once."""
        said = ""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await server.look()
            if server.hindrance not in ("", said):
                self._say(f"the socket of the control API is gone: {server.hindrance}")
            said = server.hindrance

    async def _start_admin(self, parts: AsyncExitStack, reconciler: Reconciler, server: ControlServer) -> None:
        if self._options.admin is None:
            return

        async def healthz() -> Page:
            return Page(200, b"ok\n")

        async def readyz() -> Page:
            if reconciler.fault is not None:
                return Page(503, f"{reconciler.fault}\n".encode())
            if server.hindrance:
                return Page(503, f"the control API is not found: {server.hindrance}\n".encode())
            return Page(200, b"leads\n" if reconciler.leading else b"stands by\n")

        async def metrics() -> Page:
            body = merge([self._metrics.dump()]).encode()
            return Page(200, body, "text/plain; version=0.0.4; charset=utf-8")

        admin = AdminServer({"/healthz": healthz, "/readyz": readyz, "/metrics": metrics})
        await admin.start(self._options.admin)
        parts.callback(admin.close)
        self._say(f"admin http://{admin.address}")

    async def _start_pipe(self, parts: AsyncExitStack) -> None:
        """Tell the supervisor that started this process what was counted, and end when it does."""
        if self._options.pipe is None:
            return
        channel = Channel(_ignore, self.stop)
        pipe = socket.socket(fileno=self._options.pipe)
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=pipe)
        parts.callback(channel.close)

        async def tell() -> None:
            while True:
                channel.send("metrics", dump=self._metrics.dump())
                await asyncio.sleep(_TELL_SECONDS)

        self._tasks.keep("metrics", tell)

    async def _relay_fallbacks(self, observed: ObservationsReader, feedback: FeedbackService) -> None:
        """Tell feedback which decisions stable answered in the version's place: their labels are not the version's.

        From the first that is remembered on: what was told before is told again after a restart, and counts once.
        """
        loop, seen, fault = asyncio.get_running_loop(), 0, ""
        with ThreadPoolExecutor(1, "fallbacks") as thread:
            while True:
                try:
                    found = await loop.run_in_executor(thread, observed.fallbacks, seen)
                    for epoch in await feedback.mark_fallbacks([fallback.decision_id for fallback in found]):
                        message = f"rollout {epoch.namespace}/{epoch.name}, epoch {epoch.epoch}: stable answered more "
                        message += "requests in the version's place than are remembered one by one"
                        self._say(f"{message}; labels of their time are {Code.FALLBACKS_UNCLEAR}")
                except Unreachable as error:
                    found = ()
                    if error.code != fault:
                        self._say(f"fallbacks are told later: {error}")
                    fault = error.code
                else:
                    fault = ""
                seen = found[-1].seq if found else seen
                if not found:
                    await asyncio.sleep(TICK_SECONDS)


def _ignore(_message: Message) -> None:
    """A supervisor has nothing to say but that it is there."""
