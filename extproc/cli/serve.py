"""``dropout serve``: decide for Envoy until told to stop.

Imports little before the workers are started: they import gRPC while this process applies documents.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from extproc.cli.observing import COMMAND, observer_config, observer_endpoint, take_observer
from extproc.cli.with_controller import ControllerFlags, controller_options
from extproc.errors import Fault, InvalidInput
from extproc.serve.children import Child, spawn
from extproc.serve.endpoints import (
    FolderLock,
    TcpEndpoint,
    UnixEndpoint,
    parse_host_port,
    prepare_folder,
    probe_tcp,
    probe_unix,
    worker_endpoints,
)
from extproc.serve.tls import TlsFiles, insecure, tls_files
from extproc.serve.worker_config import GRPC, HTTP, TRANSPORTS, ObserverPlan, SafetyPlan, WorkerConfig, as_config
from extproc.settings import settings

if TYPE_CHECKING:
    from extproc.decision_id import KeyFile
    from extproc.resources.folders import Listing
    from extproc.serve.document_keeper import Folder
    from extproc.serve.policy_trial import Sources
    from extproc.snapshot.holder import SnapshotHolder
    from extproc.snapshot.store import RolloutStore

_WORKER: Final = (sys.executable, "-P", "-m", "extproc.cli.worker")
_POLICY_TRIAL: Final = (sys.executable, "-P", "-m", "extproc.cli.policy_trial")
_ENVOY_FILES: Final = ("rds.json", "cds.json")
_ORPHANS_LEAVE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    store: str
    policies: Path | None
    listen: str
    transport: str
    workers: int
    admin: str
    rollouts: Path | None
    prune: bool
    features: str | None
    decision_log: Path | None
    envoy_dir: Path | None
    access_log_listen: str | None
    tls: TlsFiles | None
    insecure: bool
    drain_timeout: float
    decision_deadline: float
    controller: ControllerFlags | None


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number of seconds.", context, parameter)
    return value


def _folder(*, exists: bool) -> click.Path:
    return click.Path(exists=exists, file_okay=False, path_type=Path)


@click.command(short_help="Decide for Envoy until told to stop.")
@click.option("--store", default=lambda: settings().store, metavar="URL", help="The store. [DROPOUT_STORE]")
@click.option("--policies", type=_folder(exists=True), help="The folder of Rego policies; watched.")
@click.option(
    "--listen",
    default="unix:/run/dropout/worker-{worker}.sock",
    show_default=True,
    metavar="ADDRESS",
    help="unix:PATH with {worker} in it, or HOST:PORT, to which the worker's number is added.",
)
@click.option(
    "--transport", type=click.Choice(TRANSPORTS), default=GRPC, show_default=True, help="How Envoy asks: its two ways."
)
@click.option("--workers", type=click.IntRange(1, 256), default=None, help="Worker processes.  [default: the cores]")
@click.option(
    "--admin",
    default="127.0.0.1:9902",
    show_default=True,
    metavar="HOST:PORT",
    help="/metrics, /healthz, /readyz and /snapshot; port 0 takes a free one.",
)
@click.option("--rollouts", type=_folder(exists=True), help="A folder of documents to apply, now and when it changes.")
@click.option(
    "--prune",
    is_flag=True,
    help="Delete what the folder of --rollouts does not hold at once, an empty folder's too, and wait for nothing.",
)
@click.option(
    "--features",
    default=lambda: settings().features or None,
    metavar="sqlite:PATH",
    help="The feature store. [DROPOUT_FEATURES]",
)
@click.option("--decision-log", type=click.Path(dir_okay=False, path_type=Path), help="Where decisions are written.")
@click.option("--envoy-dir", type=_folder(exists=False), help="Where Envoy's routes and clusters are kept current.")
@click.option(
    "--access-log-listen",
    metavar="ADDRESS",
    help="Where Envoy sends its access log: unix:PATH or HOST:PORT. Versions that fail are then taken away.",
)
@click.option("--tls-cert", metavar="FILE", help="The server's certificate chain (PEM); read again when it changes.")
@click.option("--tls-key", metavar="FILE", help="Its key (PEM).")
@click.option("--tls-client-ca", metavar="FILE", help="Take only clients with a certificate of this authority (PEM).")
@click.option("--insecure", is_flag=True, help="Allow plaintext on an address that other machines can reach.")
@click.option(
    "--drain-timeout",
    type=click.FloatRange(0),
    callback=_finite,
    default=lambda: settings().drain_timeout,
    metavar="SECONDS",
    help="What streams in flight get after SIGTERM. [DROPOUT_DRAIN_TIMEOUT]",
)
@click.option(
    "--decision-deadline",
    type=click.FloatRange(0, min_open=True),
    callback=_finite,
    default=lambda: settings().decision_deadline,
    metavar="SECONDS",
    help="What a decision may wait for features: 0.8 of Envoy's message_timeout. [DROPOUT_DECISION_DEADLINE]",
)
@controller_options
def serve(
    workers: int | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    controller: ControllerFlags | None,
    **flags: Any,
) -> None:
    """Decide for Envoy: a supervisor and its workers, one endpoint each.

    SIGTERM drains and exits 0, SIGHUP reloads and opens the decision log again.
    """
    # Until there is something to reload; by default it would end a server that only begins.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _check_text({**flags, "tls_cert": tls_cert, "tls_key": tls_key, "tls_client_ca": tls_client_ca})
    options = Options(
        workers=workers or len(os.sched_getaffinity(0)),
        tls=tls_files(tls_cert, tls_key, tls_client_ca),
        controller=controller,
        **flags,
    )
    endpoints = worker_endpoints(options.listen, options.workers)
    admin = TcpEndpoint(*parse_host_port(options.admin, "--admin"))
    if not admin.loopback and not options.insecure:
        message = f"{admin.target} can be reached from other machines, and its pages ask nobody who they are: say "
        raise InvalidInput.of("insecure_admin", f"{message}--insecure if something protects it.", field="--admin")
    if options.prune and options.rollouts is None:
        raise InvalidInput.of("prune_needs_rollouts", "This is about what leaves --rollouts.", field="--prune")
    if options.decision_log is not None:
        _check_log(options.decision_log)
    lock = _take(endpoints, options)
    observer = _take_observer(endpoints, options)
    children: list[Child] = []
    try:
        children += [spawn(index, _worker_command(options)) for index in range(options.workers)]
        _supervise(options, endpoints, admin, children, lock, observer)
    finally:
        for child in children:
            child.kill()


def _worker_command(options: Options) -> tuple[str, ...]:
    return (*_WORKER, options.transport)


def _check_text(flags: Mapping[str, Any]) -> None:
    """Workers are told what to serve in JSON, which cannot hold the bytes of a path that are not UTF-8."""
    for name, value in flags.items():
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise InvalidInput.of("not_utf8", "This is not UTF-8.", field=f"--{name.replace('_', '-')}") from None
    try:
        str(Path.cwd()).encode()
    except UnicodeEncodeError:
        raise InvalidInput.of("not_utf8", "The path of the working directory is not UTF-8.") from None


def _check_log(path: Path) -> None:
    from extproc.datapath.decision_log import check_log_path

    check_log_path(path)


def _take(endpoints: Sequence[UnixEndpoint | TcpEndpoint], options: Options) -> FolderLock | None:
    """See that every endpoint is free, and ours from now on; the lock of Unix sockets."""
    first = endpoints[0]
    if options.tls is not None and options.transport == HTTP:
        raise InvalidInput.of("tls_needs_grpc", "TLS is for gRPC; HTTP is for one machine.", field="--tls-cert")
    if isinstance(first, TcpEndpoint):
        if not first.loopback and options.tls is None and not options.insecure:
            raise insecure(first.target, "--listen")
        for endpoint in endpoints:
            assert isinstance(endpoint, TcpEndpoint)
            probe_tcp(endpoint, _ORPHANS_LEAVE_SECONDS)
        return None
    if options.tls is not None:
        raise InvalidInput.of("tls_needs_port", "TLS is for HOST:PORT; a Unix socket is private.", field="--tls-cert")
    prepare_folder(first.path.parent)
    sockets = [endpoint for endpoint in endpoints if isinstance(endpoint, UnixEndpoint)]
    lock = FolderLock(sockets, options.listen.removeprefix("unix:"))
    leftovers = lock.take()
    for endpoint in sockets:
        probe_unix(endpoint, leftovers)
    return lock


def _take_observer(workers: Sequence[UnixEndpoint | TcpEndpoint], options: Options) -> ObserverPlan | None:
    if options.access_log_listen is None:
        return None
    endpoint = observer_endpoint(options.access_log_listen, workers)
    lock = take_observer(endpoint, allow_insecure=options.insecure)
    return ObserverPlan(observer_config(endpoint, options.store), COMMAND, lock)


def _supervise(
    options: Options,
    endpoints: Sequence[UnixEndpoint | TcpEndpoint],
    admin: TcpEndpoint,
    children: Sequence[Child],
    lock: FolderLock | None,
    observer: ObserverPlan | None,
) -> NoReturn:
    """Everything from here on is imported while the workers import theirs."""
    import asyncio

    from extproc.adapters.stores import beside
    from extproc.cli.safety import StoreRegister
    from extproc.serve.logs import configure_logging
    from extproc.serve.supervisor import Parts, Plan, Supervisor

    configure_logging()
    plan = Plan(
        configs=[_config(index, endpoint, options, lock) for index, endpoint in enumerate(endpoints)],
        worker_command=_worker_command(options),
        trial_command=_POLICY_TRIAL,
        admin=admin,
        policies=options.policies,
        drain_timeout=options.drain_timeout,
        beside=[options.controller.command(options.store, options.policies)] if options.controller else (),
        safety=SafetyPlan(beside(options.store, ".safety"), beside(options.store, ".serving")),
        observer=observer,
    )
    parts = Parts(
        open_folder=lambda: _open_folder(options),
        envoy_files=EnvoyFiles(options.store, options.envoy_dir) if options.envoy_dir else None,
        read_sources=_read_sources,
        register=StoreRegister(options.store),
        say=lambda line: click.echo(line, err=True),
    )

    async def live() -> NoReturn:
        status = await Supervisor(plan, parts, settings(), children, lock).run()
        sys.stderr.flush()
        os._exit(status)  # all is done; a thread that reads ten thousand documents must not hold up the end

    asyncio.run(live())


def _config(
    index: int, endpoint: UnixEndpoint | TcpEndpoint, options: Options, lock: FolderLock | None
) -> WorkerConfig:
    return WorkerConfig(
        index=index,
        store=options.store,
        lock=str(lock.path) if lock is not None else None,
        features=options.features,
        decision_log=str(options.decision_log) if options.decision_log else None,
        tls_certificate=str(options.tls.certificate) if options.tls else None,
        tls_key=str(options.tls.key) if options.tls else None,
        tls_client_ca=str(options.tls.client_ca) if options.tls and options.tls.client_ca else None,
        drain_timeout=options.drain_timeout,
        decision_deadline=options.decision_deadline,
        observed=options.access_log_listen is not None,
        **as_config(endpoint),
    )


class _FollowedRollouts:
    """The folder of documents, as the supervisor follows it."""

    def __init__(self, store: RolloutStore, directory: Path, *, prune: bool, deadline: float) -> None:
        from extproc.clock import SystemClock
        from extproc.control.absence import Grace
        from extproc.control.folder import FollowedFolder

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


def _open_folder(options: Options) -> Folder | None:
    """Make the store if need be, and the folder that it follows."""
    from extproc.adapters.stores import open_store

    store = open_store(options.store, create=True)
    if options.rollouts is None:
        everything = store.changes(0)
        if everything is None or next(iter(everything.rollouts), None) is None:
            click.echo(f"dropout: {options.store} has no rollouts yet: no request is decided", err=True)
        store.close()
        return None
    return _FollowedRollouts(store, options.rollouts, prune=options.prune, deadline=options.decision_deadline)


class EnvoyFiles:
    """Envoy's routes and clusters, written whenever the store's rollouts change."""

    def __init__(self, store: str, directory: Path) -> None:
        self._store = store
        self._directory = directory
        self._holder: SnapshotHolder | None = None
        self._keys: KeyFile | None = None
        self._written: Listing | None = None

    def exist(self) -> bool:
        """Whether Envoy has something to read."""
        return all((self._directory / name).is_file() for name in _ENVOY_FILES)

    def write(self) -> None:
        """Write what changed since it was last written, and what somebody else removed or changed."""
        from extproc.adapters.stores import beside, open_store
        from extproc.clock import SystemClock
        from extproc.decision_id import KeyFile
        from extproc.envoy.files import write_envoy_dir
        from extproc.resources.folders import list_folder
        from extproc.snapshot.holder import SnapshotHolder

        if self._holder is None:
            holder = SnapshotHolder(open_store(self._store), SystemClock())
            holder.load()
            self._holder, self._written = holder, None
        elif (snapshot := self._holder.refresh()) is not None:
            self._holder.current, self._written = snapshot, None
        if self._keys is None:
            self._keys = KeyFile(beside(self._store, ".ids"), SystemClock())
        elif self._keys.renewed():
            self._written = None
        if self._written != list_folder(self._directory, _ENVOY_FILES.__contains__):
            write_envoy_dir(self._directory, self._holder.current.rollouts.values(), self._keys.current.marks)
            self._written = list_folder(self._directory, _ENVOY_FILES.__contains__)


def _read_sources(directory: Path) -> Sources:
    from extproc.resources.policies import read_sources
    from extproc.serve.policy_trial import Sources

    read = read_sources(directory)
    return Sources(read.revision, read.to_json())
