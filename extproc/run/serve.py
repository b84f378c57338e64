"""What ``dropout serve`` is put together from, imported while its workers import theirs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from extproc.adapters.envoy.admin import ask_clusters
from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.control.absence import Grace
from extproc.control.folder import FollowedFolder
from extproc.errors import Fault, InvalidInput
from extproc.net.endpoints import FolderLock, TcpEndpoint, UnixEndpoint
from extproc.run.access_log import observer_config
from extproc.run.envoy_files import RenderedEnvoyFiles, delivery
from extproc.run.processes import OBSERVER, POLICY_SHADOW, POLICY_TRIAL, WORKER
from extproc.run.safety import StoreRegister
from extproc.run.serve_options import PolicyShadowOptions, ServeOptions
from extproc.run.served_policies import in_folder, serve_policies
from extproc.serve.logs import configure_logging, say, warn
from extproc.serve.supervisor.children import Child
from extproc.serve.supervisor.document_keeper import Folder
from extproc.serve.supervisor.plan import Parts, ServePlan
from extproc.serve.supervisor.service_manager import ServiceManager
from extproc.serve.supervisor.supervisor import Supervisor
from extproc.serve.worker_config import (
    ObserverPlan,
    PolicyShadowConfig,
    PolicyShadowPlan,
    SafetyPlan,
    ShownShare,
    WorkerConfig,
    as_config,
    of_tls,
)
from extproc.settings import settings
from extproc.store.ports import ActionStore

POLICY_SHADOW_MEMORY: Final = 2 << 30
"""Bytes of data that the policy shadow may hold where workers may hold what they like."""


def supervise(
    options: ServeOptions,
    endpoints: Sequence[UnixEndpoint | TcpEndpoint],
    children: Sequence[Child],
    lock: FolderLock | None,
    observer_lock: FolderLock | None,
) -> NoReturn:
    """Have ``children``, which were started already, serve at ``endpoints`` until told to stop.

    ``lock`` and ``observer_lock`` are those of Unix sockets, taken already.

    Raises:
        DropoutError: why it could not start.
    """
    configure_logging("serve")
    plan = _plan(options, endpoints, lock, observer_lock)
    parts = _parts(options)

    async def live() -> NoReturn:
        status = await Supervisor(plan, parts, settings(), children, lock).run()
        sys.stderr.flush()
        os._exit(status)  # all is done; a thread that reads ten thousand documents must not hold up the end

    asyncio.run(live())


def _plan(
    options: ServeOptions,
    endpoints: Sequence[UnixEndpoint | TcpEndpoint],
    lock: FolderLock | None,
    observer_lock: FolderLock | None,
) -> ServePlan:
    observer = None
    if options.access_log is not None:
        config = observer_config(options.access_log, options.store, options.state)
        observer = ObserverPlan(config, OBSERVER, observer_lock)
    return ServePlan(
        configs=[_config(index, endpoint, options, lock) for index, endpoint in enumerate(endpoints)],
        worker_command=(*WORKER, options.transport),
        trial_command=POLICY_TRIAL,
        admin=options.admin,
        drain_timeout=options.drain_timeout,
        beside=options.beside,
        safety=SafetyPlan(options.state.safety, options.state.serving),
        state=options.state,
        observer=observer,
        policy_shadow=_policy_shadow(options.policy_shadow, options) if options.policy_shadow is not None else None,
    )


def _policy_shadow(shadow: PolicyShadowOptions, options: ServeOptions) -> PolicyShadowPlan:
    """It may hold as much as a worker, and never without limit."""
    memory = options.worker_memory or POLICY_SHADOW_MEMORY
    config = PolicyShadowConfig(options.state.prefix, options.sinks, memory, options.policy_engine)
    return PolicyShadowPlan(shadow.share, shadow.reading.fileno(), config, POLICY_SHADOW)


def _parts(options: ServeOptions) -> Parts:
    served = serve_policies(options.policies, options.state)
    return Parts(
        open_folder=lambda: _open_folder(options),
        envoy_files=RenderedEnvoyFiles(options.store, options.state.ids, options.envoy_dir, say, warn)
        if options.envoy_dir
        else None,
        delivery=delivery(options.envoy_admin, options.envoy_dir),
        ask_envoys=partial(ask_clusters, options.envoy_admin) if options.envoy_admin and options.envoy_dir else None,
        policies=served.places,
        bundles=served.bundles,
        policies_shadow=in_folder(options.policy_shadow.folder) if options.policy_shadow is not None else None,
        register=StoreRegister(options.store, options.state.safety),
        open_store=partial(open_store, options.store),
        manager=ServiceManager(os.environ),
        say=say,
        warn=warn,
    )


def _config(
    index: int, endpoint: UnixEndpoint | TcpEndpoint, options: ServeOptions, lock: FolderLock | None
) -> WorkerConfig:
    shadow = options.policy_shadow
    return WorkerConfig(
        index=index,
        store=options.store,
        state=options.state.prefix,
        lock=str(lock.path) if lock is not None else None,
        features=options.features,
        policy_engine=options.policy_engine,
        sinks=options.sinks,
        log_full=options.decision_log_full,
        drain_timeout=options.drain_timeout,
        decision_deadline=options.decision_deadline,
        observed=options.access_log is not None,
        memory=options.worker_memory,
        policy_shadow=ShownShare(shadow.writing.fileno(), shadow.share) if shadow is not None else None,
        **as_config(endpoint),
        **of_tls(options.tls if isinstance(endpoint, TcpEndpoint) else None),
    )


class _FollowedRollouts:
    """The folder of documents, as the supervisor follows it."""

    def __init__(self, store: ActionStore, directory: Path, *, prune: bool, deadline: float) -> None:
        tuning = settings()
        grace = Grace(0, 0) if prune else Grace(tuning.delete_after, tuning.delete_many_after)
        self._store = store
        self._folder = FollowedFolder(store, directory, SystemClock(), grace, deadline=deadline)
        self._first = True

    @property
    def missing(self) -> int:
        """Documents that left the folder and are not deleted yet."""
        return self._folder.missing

    def sync(self, *, force: bool = False) -> list[Fault] | None:
        """Apply what changed; what is wrong or missing. None when nothing did.

        Raises:
            InvalidInput: the first time, when the documents are bad and the store has none from before either.
        """
        if not self._folder.changed(force=force):
            return None
        report = self._folder.sync()
        faults = [fault for place in report.faults.values() for fault in place]
        if self._first and faults and not self._store.documents().rollouts:
            raise InvalidInput(faults)
        self._first = False
        return [*faults, *report.missing]


def _open_folder(options: ServeOptions) -> Folder | None:
    """Make the store if need be, and the folder that it follows."""
    store = open_store(options.store, create=True)
    if options.rollouts is None:
        everything = store.changes(0)
        if everything is None or next(iter(everything.rollouts), None) is None:
            say(f"{options.store} has no rollouts yet: no request is decided")
        store.close()
        return None
    return _FollowedRollouts(store, options.rollouts, prune=options.prune, deadline=options.decision_deadline)
