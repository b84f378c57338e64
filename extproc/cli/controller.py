"""``dropout controller``: moves rollouts by their steps, and lets others move them."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import click

from extproc.cli.controller_options import DEFAULT_LISTEN, Options, control_endpoint, feedback_endpoint
from extproc.serve.children import GRPC_SETTINGS
from extproc.serve.endpoints import TcpEndpoint, parse_host_port
from extproc.settings import settings

_GC_THRESHOLD: Final = (20_000, 20, 20)
"""A measurement makes and drops thousands of small lists. By default each would walk all rollouts, for nothing."""


@click.command(short_help="Move rollouts by their steps; one leader among many.")
@click.option("--store", default=lambda: settings().store, metavar="URL", help="The store. [DROPOUT_STORE]")
@click.option(
    "--listen", default=DEFAULT_LISTEN, show_default=True, metavar="unix:PATH", help="The socket of the control API."
)
@click.option(
    "--envoy-admin",
    multiple=True,
    metavar="HOST:PORT",
    help="An Envoy's admin endpoint: no weight for a version that it cannot serve; may be given several times.",
)
@click.option("--feedback-listen", metavar="HOST:PORT", help="Where labels are taken over HTTP.")
@click.option(
    "--policies",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder of Rego policies; package control is asked about control actions.",
)
@click.option("--insecure", is_flag=True, help="Allow labels on an address that other machines can reach.")
@click.option("--admin", metavar="HOST:PORT", help="/metrics, /healthz and /readyz; port 0 takes a free one.")
@click.option("--pipe", type=int, hidden=True, help="The socket of the supervisor that started it.")
def controller(
    store: str,
    listen: str,
    envoy_admin: Sequence[str],
    feedback_listen: str | None,
    policies: Path | None,
    insecure: bool,
    admin: str | None,
    pipe: int | None,
) -> None:
    """Move rollouts by their steps, measure, promote and abort; serve the control API and feedback.

    Any number may run on one store: one leads, by a lease. SIGTERM gives the lease up and exits 0.
    """
    options = Options(
        store=store,
        listen=control_endpoint(listen, "--listen"),
        envoys=[parse_host_port(address, "--envoy-admin") for address in envoy_admin],
        feedback=feedback_endpoint(feedback_listen, allow_insecure=insecure) if feedback_listen else None,
        policies=policies,
        admin=TcpEndpoint(*parse_host_port(admin, "--admin")) if admin else None,
        pipe=pipe,
    )
    _run(options)


def _run(options: Options) -> NoReturn:
    # It has nothing to read again, and a closing terminal is no reason to let the lease run out.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for name, value in GRPC_SETTINGS.items():  # read once, when grpc is imported
        os.environ.setdefault(name, value)
    from extproc.cli.controller_parts import Controller
    from extproc.serve.logs import configure_logging

    configure_logging()
    gc.set_threshold(*_GC_THRESHOLD)

    async def live() -> NoReturn:
        running = Controller(options, lambda line: click.echo(f"dropout: {line}", err=True))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, running.stop)
        await running.run()
        sys.stderr.flush()
        os._exit(0)  # all is done; a thread that waits for a store or an Envoy must not hold up the end

    asyncio.run(live())
