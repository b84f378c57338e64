"""What ``dropout serve`` is to do, and what its composition root provides for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from extproc.net.listening import Listening
from extproc.serve.supervisor.bundle_keeper import BundlePlan
from extproc.serve.supervisor.children import AuxiliaryCommand
from extproc.serve.supervisor.document_keeper import Folder
from extproc.serve.supervisor.envoy_keeper import Delivery, EnvoyFiles
from extproc.serve.supervisor.policy_keeper import WatchedPolicies
from extproc.serve.supervisor.safety import Register
from extproc.serve.supervisor.service_manager import ServiceManager
from extproc.serve.supervisor.stable_clusters import AskEnvoys
from extproc.serve.supervisor.unmet import WatchedStore
from extproc.serve.worker_config import ObserverPlan, PolicyShadowPlan, SafetyPlan, WorkerConfig
from extproc.state import StateFolder


@dataclass(frozen=True, slots=True)
class ServePlan:
    """What to serve. ``configs`` has one entry for each worker; ``beside`` is what runs beside them."""

    configs: Sequence[WorkerConfig]
    worker_command: Sequence[str]
    trial_command: Sequence[str]
    admin: Listening
    drain_timeout: float
    safety: SafetyPlan
    state: StateFolder
    beside: Sequence[AuxiliaryCommand] = ()
    observer: ObserverPlan | None = None
    policy_shadow: PolicyShadowPlan | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """What the composition root provides: blocking calls, made on a thread, and who is told how the process is."""

    open_folder: Callable[[], Folder | None]
    envoy_files: EnvoyFiles | None
    delivery: Delivery | None
    ask_envoys: AskEnvoys | None
    policies: WatchedPolicies | None
    bundles: BundlePlan | None
    policies_shadow: WatchedPolicies | None
    register: Register
    open_store: Callable[[], WatchedStore]
    manager: ServiceManager
    say: Callable[[str], None]
    warn: Callable[[str], None]
