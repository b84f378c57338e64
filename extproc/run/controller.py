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
from typing import Final, TypeVar

import msgspec

import extproc
from extproc.adapters.envoy.admin import Asking, EnvoyClusters
from extproc.adapters.envoy.delivery import DeliveredClusters, EnvoyDelivery
from extproc.adapters.regorus.control import ControlPolicies
from extproc.adapters.sqlite.feedback import SqliteFeedback
from extproc.adapters.sqlite.observations import ObservationsReader
from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.control.access import DirectControl
from extproc.control.actions import Lane
from extproc.control.analysis.measuring import FeedbackMetrics, ObservedMetrics
from extproc.control.analysis.ports import EmbeddedProvider
from extproc.control.analysis.servers import MetricServers
from extproc.control.api.feedback_service import FeedbackService
from extproc.control.api.server import ControlServer
from extproc.control.emergency import IMPATIENT_SECONDS
from extproc.control.evidence import EvidenceCollector
from extproc.control.feedback import Code
from extproc.control.fleet import FleetBreaker
from extproc.control.observer_reports import Hearing
from extproc.control.policy import InGroups
from extproc.control.policy_veto import PolicyVeto
from extproc.control.readiness import Clusters
from extproc.control.reconciler import TICK_SECONDS, Reconciler
from extproc.control.ticking import tick_until
from extproc.control.unmet import UnmetOnHosts
from extproc.errors import Unreachable
from extproc.metrics.catalogue import (
    BUILD_INFO,
    CONTROLLER_LEADS,
    CONTROLLER_ROLLOUTS,
    CONTROLLER_STABLE_TRIPPED,
    CONTROLLER_TRANSITIONS,
    FEEDBACK,
    TASK_FAILURES,
)
from extproc.metrics.counting import Metrics
from extproc.metrics.merging import merge
from extproc.net.actor import Actor
from extproc.net.admin import AdminServer, Page
from extproc.run.controller_options import ControllerOptions, actor
from extproc.run.feedback import feedback_service
from extproc.run.safety import StoreRegister
from extproc.run.served_policies import places_of
from extproc.serve.channel import Channel
from extproc.serve.hosts import HostSockets
from extproc.serve.messages import Counted
from extproc.serve.tasks import Tasks
from extproc.settings import settings
from extproc.store.ports import WAIT_SECONDS, RolloutStore
from extproc.trouble import Troubles

GRACE_SECONDS: Final = 1.0
"""What calls under way get at the end."""

_Asking = TypeVar("_Asking", bound=Asking)

_TELL_SECONDS: Final = 5.0
_CHECK_SECONDS: Final = 0.5


class Controller:
    """One run of ``dropout controller``. Belongs to one event loop.

    Rollouts are moved, and the lease is renewed, on a thread with a store connection of its own, which waits for
    nothing that happens on the event loop: what listeners have to do holds up no abort.
    """

    def __init__(self, options: ControllerOptions, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._warn = warn
        self._clock = SystemClock()
        self._metrics = Metrics(self._clock)
        self._tasks = Tasks(lambda name: self._metrics.count(TASK_FAILURES, name))
        self._unmet = UnmetOnHosts(HostSockets(options.state.serving).unmet)
        self._stopping = threading.Event()

    def stop(self, why: str = "the supervisor ended") -> None:
        """End it, told ``why``: give up the lease, and let calls under way end."""
        if not self._stopping.is_set():
            self._say(f"{why}: ends; calls under way have {GRACE_SECONDS:g} s")
        self._stopping.set()

    async def run(self) -> None:
        """Work until told to stop.

        Raises:
            DropoutError: why it could not start.
        """
        async with AsyncExitStack() as parts:
            policy, delivery = self._policy(parts), self._delivery(parts)
            clusters = self._clusters(parts, delivery)
            hearing = Hearing(self._observations(parts), self._clock.monotonic)
            reconciler = self._reconciler(parts, policy, self._evidence(parts, clusters, delivery), clusters, hearing)
            self._watch(reconciler)
            feedback = self._feedback(parts)
            server = self._server(parts, policy, clusters, hearing, feedback)
            await server.start()
            parts.push_async_callback(server.stop, GRACE_SECONDS)
            observed = self._observations(parts)
            parts.callback(self._tasks.cancel)
            self._tasks.keep("control", server.listener.watch)
            self._tasks.keep("unmet", self._unmet.follow)
            await self._start_feedback(parts, feedback)
            await self._start_admin(parts, reconciler, server)
            await self._start_pipe(parts)
            self._tasks.keep("fallbacks", partial(self._relay_fallbacks, observed, feedback))
            self._say(f"ready: control API on {server.listener.endpoint.target}")
            await self._reconcile(reconciler)
        self._say("ended")

    # -- parts

    def _store(self, parts: AsyncExitStack, *, create: bool = False, wait: float = WAIT_SECONDS) -> RolloutStore:
        store = open_store(self._options.store, create=create, wait=wait)
        parts.callback(store.close)
        return store

    def _policy(self, parts: AsyncExitStack) -> ControlPolicies | None:
        if not self._options.policies.places:
            return None
        policies = ControlPolicies(places_of(self._options.policies, self._options.state))
        parts.callback(policies.close)
        # Beside serve the folder is that of the policies on requests, which need none on control actions.
        if not policies.asked and (self._options.pipe is None or policies.meant):
            self._warn("policies: there is no rule control/decision: every control action is allowed")
        return policies

    def _delivery(self, parts: AsyncExitStack) -> EnvoyDelivery | None:
        if self._options.envoy_dir is None:
            return None
        return _asking(parts, EnvoyDelivery(self._options.envoys, self._options.envoy_dir))

    def _clusters(self, parts: AsyncExitStack, delivery: EnvoyDelivery | None) -> Clusters | None:
        if not self._options.envoys:
            return None
        clusters = _asking(parts, EnvoyClusters(self._options.envoys))
        return DeliveredClusters(clusters, delivery) if delivery is not None else clusters

    def _reconciler(
        self,
        parts: AsyncExitStack,
        policy: ControlPolicies | None,
        evidence: EvidenceCollector,
        clusters: Clusters | None,
        hearing: Hearing,
    ) -> Reconciler:
        store = self._store(parts, create=True)
        veto = {"veto": PolicyVeto(store, policy, actor(), self._clock.monotonic)} if policy is not None else {}
        return Reconciler(
            store,
            self._clock,
            evidence,
            holder=f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}",
            actor=actor(),
            lease_seconds=settings().lease,
            say=self._say,
            warn=self._warn,
            hearing=hearing,
            clusters=clusters,
            **veto,
        )

    def _evidence(
        self, parts: AsyncExitStack, clusters: Clusters | None, delivery: EnvoyDelivery | None
    ) -> EvidenceCollector:
        labels = SqliteFeedback(self._options.state.feedback, create=True)
        parts.callback(labels.close)
        observed = self._observations(parts)
        embedded: dict[str, EmbeddedProvider] = {
            "observed": ObservedMetrics(observed),
            "feedback": FeedbackMetrics(labels, observed),
        }
        monotonic = self._clock.monotonic
        servers = MetricServers(self._options.metrics, monotonic)
        parts.callback(servers.close)
        return EvidenceCollector(
            embedded,
            servers,
            monotonic,
            clusters=clusters,
            source=observed,
            fleet=FleetBreaker(observed, monotonic),
            undelivered=delivery.behind if delivery is not None else str,
            unmet=self._unmet.of,
            stale=self._unmet.stale,
        )

    def _observations(self, parts: AsyncExitStack) -> ObservationsReader:
        """What observers counted; for one thread at a time."""
        reader = ObservationsReader(self._options.state.observed, self._clock)
        parts.callback(reader.close)
        return reader

    def _server(
        self,
        parts: AsyncExitStack,
        policy: ControlPolicies | None,
        clusters: Clusters | None,
        hearing: Hearing,
        feedback: FeedbackService,
    ) -> ControlServer:
        hosts = HostSockets(self._options.state.serving)
        stores = {lane: self._store(parts) for lane in Lane}
        impatient = self._store(parts, wait=IMPATIENT_SECONDS)

        def control(who: Actor, lane: Lane) -> DirectControl:
            return DirectControl(
                impatient if lane is Lane.KILL and hosts.present() else stores[lane],
                who.name,
                self._clock,
                InGroups(policy, who.groups) if policy is not None else None,
                clusters=clusters,
                hosts=hosts,
                hearing=hearing,
            )

        return ControlServer(self._options.listen, control, [feedback.handler()])

    def _feedback(self, parts: AsyncExitStack) -> FeedbackService:
        def count(code: Code, records: int) -> None:
            self._metrics.count(FEEDBACK, code, amount=records)

        return parts.enter_context(feedback_service(self._options.store, self._options.state, self._clock, count))

    async def _start_feedback(self, parts: AsyncExitStack, feedback: FeedbackService) -> None:
        parts.push_async_callback(feedback.stop, GRACE_SECONDS)
        if self._options.feedback is not None:
            http = await feedback.start(self._options.feedback)
            self._tasks.keep("feedback", http.listener.watch)
            self._say(f"feedback {http.url}/v1/feedback")

    # -- the loop

    async def _reconcile(self, reconciler: Reconciler) -> None:
        """Tick until told to stop; then let another lead."""
        register = StoreRegister(self._options.store, self._options.state.safety)

        def tick() -> None:
            if register.tell_first():
                reconciler.tick()
            else:
                reconciler.collect()

        def lead() -> None:
            tick_until(self._stopping, tick, TICK_SECONDS)
            reconciler.release()

        with ThreadPoolExecutor(1, "reconcile") as thread:
            await asyncio.get_running_loop().run_in_executor(thread, lead)

    # -- what it says of itself

    def _watch(self, reconciler: Reconciler) -> None:
        self._metrics.rows(lambda: [(BUILD_INFO, (extproc.__version__,), 1.0)])
        self._metrics.gauge(CONTROLLER_LEADS, lambda: float(reconciler.leading))
        self._metrics.gauge(CONTROLLER_ROLLOUTS, lambda: float(reconciler.under_way))
        self._metrics.gauge(CONTROLLER_STABLE_TRIPPED, lambda: float(reconciler.alarms))
        self._metrics.watch(CONTROLLER_TRANSITIONS, lambda: reconciler.transitions)
        self._metrics.watch(TASK_FAILURES, lambda: reconciler.failures, "rollouts")

    async def _start_admin(self, parts: AsyncExitStack, reconciler: Reconciler, server: ControlServer) -> None:
        if self._options.admin is None:
            return

        async def healthz() -> Page:
            return Page(200, b"ok\n")

        async def readyz() -> Page:
            if reconciler.fault is not None:
                return Page(503, f"{reconciler.fault}\n".encode())
            if server.listener.hindrance:
                return Page(503, f"the control API is not found: {server.listener.hindrance}\n".encode())
            return Page(200, b"leads\n" if reconciler.leading else b"stands by\n")

        async def metrics() -> Page:
            body = merge([self._metrics.dump()]).encode()
            return Page(200, body, "text/plain; version=0.0.4; charset=utf-8")

        pages = {"/healthz": healthz, "/livez": healthz, "/readyz": readyz, "/metrics": metrics}
        admin = AdminServer(self._options.admin, pages)
        await admin.start()
        parts.callback(admin.close)
        self._tasks.keep("admin", admin.listener.watch)
        self._say(f"admin {admin.url}")

    async def _start_pipe(self, parts: AsyncExitStack) -> None:
        """Tell the supervisor that started this process what was counted, and end when it does."""
        if self._options.pipe is None:
            return
        channel = Channel[Counted, object](msgspec.json.Decoder(), _ignore, self.stop)
        pipe = socket.socket(fileno=self._options.pipe)
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=pipe)
        parts.callback(channel.close)

        async def tell() -> None:
            while True:
                channel.send(Counted(self._metrics.dump(), id=0))
                await asyncio.sleep(_TELL_SECONDS)

        self._tasks.keep("metrics", tell)

    async def _relay_fallbacks(self, observed: ObservationsReader, feedback: FeedbackService) -> None:
        """Tell feedback which decisions stable answered in the version's place: their labels are not the version's.

        From the first that is remembered on: what was told before is told again after a restart, and counts once.
        """
        loop, seen, troubles = asyncio.get_running_loop(), 0, Troubles(self._warn)
        with ThreadPoolExecutor(1, "fallbacks") as thread:
            while True:
                try:
                    found = await loop.run_in_executor(thread, observed.fallbacks, seen)
                    for epoch in await feedback.mark_fallbacks([fallback.decision_id for fallback in found]):
                        message = f"rollout {epoch.namespace}/{epoch.name}, epoch {epoch.epoch}: stable answered more "
                        message += "requests in the version's place than are remembered one by one"
                        self._warn(f"{message}; labels of their time are {Code.FALLBACKS_UNCLEAR}")
                except Unreachable as error:
                    found = ()
                    troubles.note("fallbacks", f"they are told later: {error}")
                else:
                    troubles.note("fallbacks")
                seen = found[-1].seq if found else seen
                if not found:
                    await asyncio.sleep(TICK_SECONDS)


def _asking(parts: AsyncExitStack, asking: _Asking) -> _Asking:
    """It asks from now on, for as long as ``parts`` are there."""
    asking.start()
    parts.callback(asking.close)
    return asking


def _ignore(_message: object) -> None:
    """A supervisor has nothing to say but that it is there."""
