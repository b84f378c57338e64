"""``dropout controller``: moves rollouts by their steps, and lets others move them."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from extproc.cli.listeners import TOKENS_HELP, needs, security, security_options, tokens_file
from extproc.cli.log_option import log_format_option
from extproc.cli.metric_servers import metric_servers, metrics_option
from extproc.cli.policy_options import policy_options
from extproc.cli.state_option import state_option
from extproc.net.endpoints import parse_host_port
from extproc.net.listening import ADMIN, BESIDE_SERVE, CONTROL, FEEDBACK
from extproc.run.controller_options import DEFAULT_LISTEN, ControllerOptions
from extproc.run.serve_options import PolicyOptions
from extproc.serve.supervisor.children import GRPC_SETTINGS
from extproc.settings import in_help, settings
from extproc.state import StateFolder

_GC_THRESHOLD: Final = (20_000, 20, 20)
"""A measurement makes and drops thousands of small lists. By default each would walk all rollouts, for nothing."""


@click.command(short_help="Move rollouts by their steps; one leader among many.")
@click.option(
    "--store",
    default=lambda: settings().store,
    metavar="URL",
    help=f"Where rollouts are kept; made if it is not there.  {in_help('store')}",
)
@state_option()
@click.option(
    "--listen",
    default=DEFAULT_LISTEN,
    show_default=True,
    metavar="ADDRESS",
    help="Where the control API is: unix:PATH or HOST:PORT.",
)
@click.option("--control-tokens", metavar="FILE", help=f"For --listen. {TOKENS_HELP}")
@click.option(
    "--envoy-admin",
    multiple=True,
    metavar="HOST:PORT",
    help="An Envoy's admin endpoint: no weight for a version that it cannot serve; may be given several times.",
)
@click.option(
    "--envoy-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="What those Envoys read: no weight for a version while one of them does not have what was rendered last.",
)
@click.option(
    "--feedback-listen",
    metavar="ADDRESS",
    help="Where labels are taken over HTTP: [https://]HOST:PORT or unix:PATH.",
)
@metrics_option
@policy_options
@click.option(
    "--admin",
    metavar="ADDRESS",
    help="/metrics, /healthz and /readyz: [https://]HOST:PORT or unix:PATH; port 0 takes a free one.",
)
@security_options
@log_format_option
@click.option("--pipe", type=int, hidden=True, help="The socket of the supervisor that started it.")
def controller(
    store: str,
    state: Path | None,
    listen: str,
    control_tokens: str | None,
    envoy_admin: Sequence[str],
    envoy_dir: Path | None,
    feedback_listen: str | None,
    metrics: Sequence[str],
    policies: PolicyOptions,
    admin: str | None,
    pipe: int | None,
    **secured: Any,
) -> None:
    """Move rollouts by their steps, measure, promote and abort; serve the control API and feedback.

    Any number may run on one store: one leads, by a lease. SIGTERM gives the lease up and exits 0.
    """
    safe = security(**secured)
    needs("--envoy-dir", envoy_dir, "--envoy-admin", envoy_admin)
    needs("--admin-tokens", safe.admin_tokens, "--admin", admin)
    kept = StateFolder.made(store, state)
    options = ControllerOptions(
        store=store,
        state=kept,
        listen=safe.listening(CONTROL if pipe is None else BESIDE_SERVE, listen, tokens_file(control_tokens)),
        envoys=[parse_host_port(address, "--envoy-admin") for address in envoy_admin],
        envoy_dir=envoy_dir,
        feedback=safe.listening(FEEDBACK, feedback_listen, kept.token) if feedback_listen else None,
        metrics=metric_servers(metrics),
        policies=policies,
        admin=safe.listening(ADMIN, admin, safe.admin_tokens) if admin else None,
        pipe=pipe,
    )
    safe.check_use(options.listen, options.feedback, options.admin)
    _run(options)


def _run(options: ControllerOptions) -> NoReturn:
    # It has nothing to read again, and a closing terminal is no reason to let the lease run out.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for name, value in GRPC_SETTINGS.items():  # read once, when grpc is imported
        os.environ.setdefault(name, value)
    from extproc.run.controller import Controller
    from extproc.serve.logs import configure_logging, say, warn

    configure_logging("controller")
    gc.set_threshold(*_GC_THRESHOLD)

    async def live() -> NoReturn:
        running = Controller(options, say, warn)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, running.stop, number.name)
        await running.run()
        sys.stderr.flush()
        os._exit(0)  # all is done; a thread that waits for a store or an Envoy must not hold up the end

    asyncio.run(live())
