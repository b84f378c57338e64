"""``dropout serve``: decide for Envoy until told to stop.

Imports little before the workers are started: they import gRPC while this process applies documents.
"""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from extproc.cli.listeners import TOKENS_HELP, Security, check_text, needs, security_options, tokens_file
from extproc.cli.log_option import log_format_option
from extproc.cli.policy_options import policy_options
from extproc.cli.policy_shadow import policy_shadow
from extproc.cli.state_option import state_option
from extproc.cli.with_controller import ControllerFlags, controller_options
from extproc.errors import InvalidInput
from extproc.net.endpoints import (
    FolderLock,
    TcpEndpoint,
    UnixEndpoint,
    prepare_folder,
    probe_tcp,
    probe_unix,
    worker_endpoints,
)
from extproc.net.listening import ACCESS_LOG, ADMIN
from extproc.net.tls import insecure
from extproc.run.access_log import take_observer
from extproc.run.processes import WORKER
from extproc.run.serve_options import ServeOptions
from extproc.serve.memory import LEAST_MEMORY
from extproc.serve.supervisor.children import Child, spawn
from extproc.serve.worker_config import DROP, GRPC, HTTP, TRANSPORTS, WHEN_FULL
from extproc.settings import in_help, settings
from extproc.state import StateFolder

_SIZES: Final = {"": 0, "K": 10, "M": 20, "G": 30}


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number of seconds", context, parameter)
    return value


def _size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    found = re.fullmatch(r"([0-9]{1,15})([KMG]?)", value)
    size = int(found[1]) << _SIZES[found[2]] if found is not None else -1
    if size < 0 or 0 < size < LEAST_MEMORY:
        message = (
            f"{value} is neither 0, for no limit, nor a size of {LEAST_MEMORY >> 20}M at least, such as 512M or 2G"
        )
        raise click.BadParameter(message, context, parameter)
    return size


def _folder(*, exists: bool) -> click.Path:
    return click.Path(exists=exists, file_okay=False, path_type=Path)


@click.command(short_help="Decide for Envoy until told to stop.")
@click.option(
    "--store",
    default=lambda: settings().store,
    metavar="URL",
    help=f"Where rollouts are kept; made if it is not there.  {in_help('store')}",
)
@state_option()
@policy_options
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
    metavar="ADDRESS",
    help="/metrics, /healthz, /readyz, /snapshot: [https://]HOST:PORT or unix:PATH; port 0 takes a free one.",
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
    metavar="URL",
    help=f"The feature store, sqlite:PATH for instance.  {in_help('features')}",
)
@click.option(
    "--policy-engine",
    metavar="URL",
    help="Ask an OPA about requests, opa+http://HOST:PORT, in place of the rules of --policies.",
)
@click.option(
    "--policies-shadow",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A second folder of policies, which decide nothing: what they would change is counted and logged; watched.",
)
@click.option(
    "--policies-shadow-share",
    metavar="PERCENT",
    help="The share of decisions that --policies-shadow is asked about, above 0 and up to 100.",
)
@click.option(
    "--decision-log", type=click.Path(dir_okay=False), help="Where decisions are written: the same as --sink file:PATH."
)
@click.option(
    "--sink",
    multiple=True,
    metavar="URL",
    help="Where the decision log goes, file:PATH or opa+http://HOST:PORT for instance; several may be given.",
)
@click.option(
    "--decision-log-full",
    type=click.Choice(WHEN_FULL),
    default=DROP,
    show_default=True,
    help="What becomes of decisions that find the log full: not logged, waiting for room, or stable.",
)
@click.option("--envoy-dir", type=_folder(exists=False), help="Where Envoy's routes and clusters are kept current.")
@click.option(
    "--access-log-listen",
    metavar="ADDRESS",
    help="Where Envoy sends its access log: unix:PATH or HOST:PORT. Versions that fail are then taken away.",
)
@click.option("--access-log-tokens", metavar="FILE", help=f"For --access-log-listen. {TOKENS_HELP}")
@click.option(
    "--drain-timeout",
    type=click.FloatRange(0),
    callback=_finite,
    default=lambda: settings().drain_timeout,
    metavar="SECONDS",
    help=f"What streams in flight get after SIGTERM.  {in_help('drain_timeout')}",
)
@click.option(
    "--decision-deadline",
    type=click.FloatRange(0, min_open=True),
    callback=_finite,
    default=lambda: settings().decision_deadline,
    metavar="SECONDS",
    help=f"What a decision may wait for others: 0.8 of Envoy's message_timeout.  {in_help('decision_deadline')}",
)
@click.option(
    "--worker-memory",
    default="2G",
    show_default=True,
    callback=_size,
    metavar="SIZE",
    help="What a worker may hold of data: bytes, or with K, M or G; 0 is no limit.",
)
@security_options
@log_format_option
@controller_options
def serve(
    workers: int | None,
    listen: str,
    admin: str,
    access_log_listen: str | None,
    access_log_tokens: str | None,
    decision_log: str | None,
    sink: tuple[str, ...],
    policies_shadow: Path | None,
    policies_shadow_share: str | None,
    controller: ControllerFlags | None,
    secured: Security,
    **flags: Any,
) -> None:
    """Decide for Envoy: a supervisor and its workers, one endpoint each.

    SIGTERM drains and exits 0, SIGHUP reloads and opens the decision log again.
    """
    # Until there is something to reload; by default it would end a server that only begins.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    check_text({**flags, "listen": listen, "controller": controller})
    check_text({"access_log_listen": access_log_listen, "access_log_tokens": access_log_tokens})
    check_text({"decision_log": decision_log, "sink": " ".join(sink)})
    check_text({"policies_shadow": policies_shadow})
    needs("--access-log-tokens", access_log_tokens, ACCESS_LOG.flag, access_log_listen)
    tokens = tokens_file(access_log_tokens)
    state = StateFolder.made(flags["store"], flags.pop("state"))
    options = ServeOptions(
        state=state,
        admin=secured.listening(ADMIN, admin, secured.admin_tokens),
        access_log=secured.listening(ACCESS_LOG, access_log_listen, tokens) if access_log_listen else None,
        sinks=(*sink, *([f"file:{decision_log}"] if decision_log else ())),
        tls=secured.tls,
        policy_shadow=policy_shadow(policies_shadow, policies_shadow_share),
        beside=[controller.command(flags["store"], flags["policies"], flags["envoy_dir"])] if controller else (),
        **flags,
    )
    endpoints = worker_endpoints(listen, workers or len(os.sched_getaffinity(0)))
    if options.prune and options.rollouts is None:
        raise InvalidInput.of("prune_needs_rollouts", "this is about what leaves --rollouts", field="--prune")
    if options.policies.places and options.policy_engine is not None:
        message = "requests are decided by --policies or by --policy-engine: leave one of them out"
        raise InvalidInput.of("policies_twice", message, field="--policy-engine")
    if options.decision_log_full != DROP and not options.sinks:
        message = "it is about the decision log, which goes nowhere: give --decision-log or --sink"
        raise InvalidInput.of("sink_missing", message, field="--decision-log-full")
    _check_sinks(options.sinks)
    lock = _take(endpoints, listen, options, secured, with_tls=controller is not None and controller.tls is not None)
    observer_lock = take_observer(options.access_log, endpoints) if options.access_log is not None else None
    children: list[Child] = []
    try:
        shown = (options.policy_shadow.writing.fileno(),) if options.policy_shadow is not None else ()
        children += [spawn(index, (*WORKER, options.transport), shown) for index in range(len(endpoints))]
        from extproc.run.serve import supervise

        supervise(options, endpoints, children, lock, observer_lock)
    finally:
        for child in children:
            child.kill()


def _check_sinks(sinks: Sequence[str]) -> None:
    """Once, before anything is served: a worker that takes another's place serves with a broken sink, too."""
    if sinks:
        from extproc.plugins import SINK, open_adapter

        for url in sinks:
            open_adapter(SINK, url, "--sink").check()


def _take(
    endpoints: Sequence[UnixEndpoint | TcpEndpoint],
    listen: str,
    options: ServeOptions,
    secured: Security,
    *,
    with_tls: bool,
) -> FolderLock | None:
    """See that every endpoint is free, and ours from now on; the lock of Unix sockets.

    ``with_tls``: the controller beside the workers has a use for the certificates.
    """
    first = endpoints[0]
    if isinstance(first, TcpEndpoint):
        if options.tls is not None and options.transport == HTTP:
            raise InvalidInput.of("tls_needs_grpc", "TLS is for gRPC; HTTP is for one machine", field="--tls-cert")
        if not first.loopback and options.tls is None and not secured.insecure:
            raise insecure(first.target, "--listen")
        for endpoint in endpoints:
            assert isinstance(endpoint, TcpEndpoint)
            probe_tcp(endpoint)
        return None
    secured.check_use(options.admin, options.access_log, used=with_tls)
    prepare_folder(first.path.parent)
    sockets = [endpoint for endpoint in endpoints if isinstance(endpoint, UnixEndpoint)]
    lock = FolderLock(sockets, listen.removeprefix("unix:"))
    leftovers = lock.take()
    for endpoint in sockets:
        probe_unix(endpoint, leftovers)
    return lock
