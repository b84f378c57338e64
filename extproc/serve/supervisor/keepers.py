"""What the supervisor is put together from, and who of it is told what: its keepers, each with a part of the work.

What is told to workers goes through one pipe each (``messages``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Never, assert_never

import extproc
from extproc.clock import SystemClock
from extproc.control.absence import MISSING
from extproc.metrics.catalogue import (
    BUILD_INFO,
    DOCUMENTS_MISSING,
    OBSERVER_REPLACED,
    OBSERVER_UP,
    RELOADS_REFUSED,
    SAFETY_KEPT,
    SAFETY_WAITING,
    TASK_FAILURES,
    WORKERS_REPLACED,
)
from extproc.metrics.counting import Metrics
from extproc.metrics.merging import Totals
from extproc.net.admin import AdminServer
from extproc.net.endpoints import FolderLock
from extproc.serve.heartbeat import BEAT_SECONDS
from extproc.serve.messages import (
    FROM_BESIDE,
    Counted,
    DecisionCounts,
    Description,
    Draining,
    EngineState,
    Failed,
    FromWorker,
    ListensAgain,
    PoliciesRefused,
    Quarantined,
    StartWorker,
    Swapped,
    SwapPolicies,
    TellPlans,
    Trials,
    Unanswered,
    WorkerCounted,
    WorkerReady,
)
from extproc.serve.supervisor.auxiliary import Auxiliary
from extproc.serve.supervisor.bundle_keeper import BundleKeeper, BundlePlan
from extproc.serve.supervisor.children import Child
from extproc.serve.supervisor.count_keeper import CountKeeper
from extproc.serve.supervisor.document_keeper import DocumentKeeper
from extproc.serve.supervisor.envoy_keeper import EnvoyFiles, EnvoyKeeper
from extproc.serve.supervisor.folder_faults import FolderFaults
from extproc.serve.supervisor.hang_keeper import HangKeeper
from extproc.serve.supervisor.host_socket import HostSocket
from extproc.serve.supervisor.pages import Pages
from extproc.serve.supervisor.plan import Parts, ServePlan
from extproc.serve.supervisor.policy_keeper import PolicyKeeper, WatchedPolicies
from extproc.serve.supervisor.policy_shadow import NAME, PolicyShadowFaults, PolicyShadowKeeper
from extproc.serve.supervisor.policy_trial import Trial
from extproc.serve.supervisor.protection import Protection
from extproc.serve.supervisor.questions import Questions
from extproc.serve.supervisor.rollout_gauges import RolloutGauges
from extproc.serve.supervisor.safety import HostSafety
from extproc.serve.supervisor.safety_file import SafetyFile
from extproc.serve.supervisor.safety_store import SafetyStoreKeeper
from extproc.serve.supervisor.socket_keeper import SocketKeeper
from extproc.serve.supervisor.stable_clusters import StableClusters
from extproc.serve.supervisor.state_keeper import StateKeeper
from extproc.serve.supervisor.unmet import UnmetEntry, UnmetKeeper
from extproc.serve.supervisor.workers import Workers, WorkerSlot
from extproc.serve.tasks import Tasks
from extproc.serve.worker_config import ObserverPlan, PolicyShadowPlan, SafetyPlan, WorkerConfig
from extproc.settings import Settings


class Keepers:
    """The parts of one run of ``dropout serve``, made and not started.

    ``tasks`` are its background while it serves, ``last_tasks`` until its workers have ended, too.
    """

    def __init__(
        self, plan: ServePlan, parts: Parts, tuning: Settings, children: Sequence[Child], lock: FolderLock | None
    ) -> None:
        self.plan = plan
        self.parts = parts
        self.settings = tuning
        self.lock = lock
        self.metrics = Metrics(SystemClock())
        self.metrics.rows(lambda: [(BUILD_INFO, (extproc.__version__,), 1.0)])
        self.totals = Totals()
        self.tasks = Tasks(lambda name: self.metrics.count(TASK_FAILURES, name))
        self.last_tasks = Tasks(lambda name: self.metrics.count(TASK_FAILURES, name))
        self.workers = Workers(
            plan.configs,
            children,
            plan.worker_command,
            lock,
            opening=self._opening,
            heard=self._heard,
            ended=self._ended,
            blames=lambda slot, blamed: self.hangs.take_out(slot, blamed),
            run=lambda work: self.tasks.once("workers", work),
            warn=self.warn,
        )
        self.sockets = SocketKeeper(self.workers, lock, self.warn)
        self._questions = Questions(self.workers)
        self._of_documents, self._of_policies = self._refusals("rollouts", MISSING), self._refusals("policies")
        self._of_envoy = self._refusals("envoy")
        self._of_policy_shadow = PolicyShadowFaults(
            NAME, refused=lambda: self.metrics.count(RELOADS_REFUSED, "policies_shadow"), warn=self.warn
        )
        self._of_state = FolderFaults("state", refused=lambda: None, warn=self.warn)
        self.state = StateKeeper(plan.state, self._of_state)
        self.envoy = self._keep_envoy(parts.envoy_files) if parts.envoy_files is not None else None
        self.documents = DocumentKeeper(parts.open_folder, tuning.rollouts_poll, self._of_documents)
        self.metrics.gauge(DOCUMENTS_MISSING, lambda: self.documents.missing)
        self.policies = self._keep_policies(parts.policies) if parts.policies is not None else None
        self._of_bundles = self._refusals("bundles")
        self.bundles = self._keep_bundles(parts.bundles) if parts.bundles is not None else None
        self.policy_shadow = (
            self._compare_policies(plan.policy_shadow, parts.policies_shadow)
            if plan.policy_shadow is not None and parts.policies_shadow is not None
            else None
        )
        self.hangs = HangKeeper(self.workers, self.policies, tuning, self.warn)
        self.safety = self._be_safe(plan.safety)
        self.safety_store = SafetyStoreKeeper(self.safety, parts.register)
        self.gauges = RolloutGauges(parts.open_store, self.safety, SystemClock(), self.warn)
        self.metrics.rows(self.gauges.rows)
        self.unmet = UnmetKeeper(
            parts.open_store,
            observed=plan.observer is not None,
            controlled=bool(plan.beside),
            of_worker=self._questions.unanswered,
            of_envoys=self._stables(),
            monotonic=time.monotonic,
            warn=self.warn,
        )
        self.host_socket = HostSocket(plan.safety.sockets, self.safety, self.unmet.lacks, self.warn)
        self.protection = self._protect(plan.observer) if plan.observer is not None else None
        self.counts = CountKeeper(self.workers, self.protection, self.metrics, self.totals)
        self.beside = [
            Auxiliary[Never, Counted](what, self.warn, FROM_BESIDE, self._heard_beside, self.totals.retire)
            for what in plan.beside
        ]
        self.admin = AdminServer(
            plan.admin,
            Pages(
                self.workers,
                self.policies,
                self.bundles,
                (
                    self._of_documents,
                    self._of_policies,
                    self._of_bundles,
                    self._of_policy_shadow,
                    self._of_envoy,
                    self._of_state,
                ),
                self.policy_shadow,
                self.protection,
                self.safety,
                self.envoy,
                self.unmet,
                self.totals,
                self.counts.gather,
            ).routes(),
        )

    def _refusals(self, what: str, *expected: str) -> FolderFaults:
        refused = partial(self.metrics.count, RELOADS_REFUSED, what)
        return FolderFaults(what, refused=refused, warn=self.warn, expected=expected)

    def _keep_envoy(self, files: EnvoyFiles) -> EnvoyKeeper:
        keeper = EnvoyKeeper(files, self._of_envoy, self.parts.delivery, self.say, self.warn)
        self.metrics.rows(keeper.rows)
        return keeper

    def _keep_policies(self, places: WatchedPolicies) -> PolicyKeeper:
        return PolicyKeeper(
            places,
            Trial(self.plan.trial_command, self.settings.trial_limit),
            self.settings.policy_poll,
            self._of_policies,
            inputs=self._questions.trials,
            swap=self._questions.swap_policies,
            say=self.say,
            warn=self.warn,
        )

    def _keep_bundles(self, plan: BundlePlan) -> BundleKeeper:
        assert self.policies is not None  # bundles are policies
        return BundleKeeper(
            plan,
            Trial(self.plan.trial_command, self.settings.trial_limit),
            self._of_bundles,
            inputs=self._questions.trials,
            activate=self.policies.sync,
            warn=self.warn,
        )

    def _compare_policies(self, plan: PolicyShadowPlan, places: WatchedPolicies) -> PolicyShadowKeeper:
        return PolicyShadowKeeper(
            plan,
            places,
            Trial(self.plan.trial_command, self.settings.trial_limit),
            self.settings,
            self.metrics,
            self.totals,
            self._of_policy_shadow,
            inputs=self._questions.trials,
            served=lambda: self.policies.body if self.policies is not None else None,
            rollouts=lambda: self.workers.rollouts,
            want_plans=lambda: self.workers.tell(self.workers.deciding, TellPlans()),
            say=self.say,
            warn=self.warn,
        )

    def _be_safe(self, plan: SafetyPlan) -> HostSafety:
        safety = HostSafety(
            SafetyFile(plan.file, self.warn),
            changed=self._held_changed,
            adopted=lambda trips: self.protection.adopt(trips) if self.protection is not None else None,
            warn=self.warn,
        )
        self.metrics.gauge(SAFETY_WAITING, lambda: len(safety.waiting))
        self.metrics.gauge(SAFETY_KEPT, lambda: int(safety.is_kept()))
        return safety

    def _held_changed(self) -> None:
        self.workers.tell(self.workers.deciding, self.safety.in_force)
        self.gauges.held_changed()

    def _protect(self, plan: ObserverPlan) -> Protection:
        protection = Protection(
            plan,
            self.settings,
            self.totals,
            self.safety,
            tell=lambda message: self.workers.tell(self.workers.deciding, message),
            warn=self.warn,
            replaced=lambda: self.metrics.count(OBSERVER_REPLACED),
        )
        self.metrics.gauge(OBSERVER_UP, lambda: int(protection.up))
        return protection

    def _stables(self) -> Callable[[], Sequence[UnmetEntry]]:
        """What asks Envoys about stable versions; nothing where there is none to ask."""
        ask = self.parts.ask_envoys
        if ask is None:
            return tuple
        return StableClusters(self.parts.open_store, ask, time.monotonic).entries

    def say(self, line: str) -> None:
        """A line on ordinary life."""
        self.parts.say(line)

    def warn(self, line: str) -> None:
        """A line on what is wrong."""
        self.parts.warn(line)

    @property
    def serving(self) -> str:
        """Who serves where, for people."""
        listen = ", ".join(slot.config.endpoint.target for slot in self.workers.slots)
        workers = "1 worker" if len(self.workers.slots) == 1 else f"{len(self.workers.slots)} workers"
        return f"{workers} of dropout {extproc.__version__} on {listen}; admin {self.admin.url}"

    async def wait_for_change(self) -> None:
        """Wait until something becomes of a worker, and not for long."""
        self.workers.changed.clear()
        try:
            await asyncio.wait_for(self.workers.changed.wait(), BEAT_SECONDS)
        except TimeoutError:
            return

    # -- what workers hear, and say

    def _opening(self, config: WorkerConfig, trial: bool) -> StartWorker:
        """What a worker begins with."""
        policies = self.policies.body if self.policies is not None else None
        quarantined = self.policies.quarantined if self.policies is not None else []
        return StartWorker(config, trial, policies, quarantined, self.safety.in_force)

    def _heard(self, slot: WorkerSlot, message: FromWorker) -> None:
        """A worker says something that is of use to others."""
        match message:
            case WorkerReady():
                self.sockets.bound(slot)
                self._catch_up(slot)
            case DecisionCounts():
                if self.protection is not None:
                    self.protection.decided(message)
            case PoliciesRefused():
                self._of_policies.note(message.faults)
            case WorkerCounted():
                self.totals.update(slot.child.life, message.dump)
            case Failed() | Swapped() | EngineState() | Draining():
                pass  # of use to its slot
            case Quarantined() | Trials() | Unanswered() | Description() | ListensAgain():
                pass  # of use to whoever asked
            case _:
                assert_never(message)

    def _catch_up(self, slot: WorkerSlot) -> None:
        """A worker that was starting while policies, trips or kills changed was told the old ones."""
        slot.send(self.safety.in_force)
        if self.policy_shadow is not None and self.policy_shadow.up:
            slot.send(TellPlans())
        policies = self.policies
        if policies is not None and policies.body is not None and not policies.in_force(slot.fingerprint):
            slot.send(SwapPolicies(policies.body))
        elif policies is not None and policies.quarantined:
            slot.send(policies.quarantine)

    def _ended(self, slot: WorkerSlot) -> None:
        """A life of a worker is over."""
        self.totals.retire(slot.child.life)
        self.hangs.ended(slot)
        if self.workers.phase == "kept":
            self.metrics.count(WORKERS_REPLACED)

    def _heard_beside(self, life: str, counted: Counted) -> None:
        """A process that runs beside the workers says what it counted."""
        self.totals.update(life, counted.dump)
