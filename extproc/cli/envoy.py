"""``dropout envoy``: what Envoy starts with, and the files that it routes by."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import yaml

from extproc.bundled import bundled
from extproc.cli.options import opened, store_option
from extproc.cli.output import output_option, print_json
from extproc.cli.state_option import state_option
from extproc.clock import Clock, SystemClock
from extproc.control.intent import intent_of
from extproc.control.transitions import create
from extproc.decision_id import KeyFile
from extproc.envoy.bootstrap import TEMPLATES, Places, configured
from extproc.envoy.files import CLUSTERS_FILE, ROUTES_FILE, write_envoy_dir
from extproc.errors import InvalidInput
from extproc.net.endpoints import TcpEndpoint, parse_host_port, single_endpoint, worker_endpoints
from extproc.net.tls import TlsFiles
from extproc.resources.loading import load_valid, of_kind
from extproc.resources.rollout import Rollout
from extproc.settings import settings
from extproc.snapshot.compile import compile_rollout
from extproc.snapshot.holder import SnapshotHolder
from extproc.snapshot.model import CompiledRollout
from extproc.state import StateFolder
from extproc.store.records import Tombstone

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def envoy() -> None:
    """Write what Envoy reads."""


@envoy.command(short_help="Write the routes and fallback clusters of all rollouts.")
@store_option
@state_option()
@click.option(
    "--rollouts",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Render these documents as they would be adopted, instead of a store's rollouts.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="The folder that Envoy watches."
)
@output_option
def render(store: str, state: Path | None, rollouts: Path | None, out: Path, output: str) -> None:
    """Write routes (rds.json) and fallback clusters (cds.json) for all rollouts.

    Each file is swapped by a rename, and only if the routes changed. 'dropout serve --envoy-dir' does the same by
    itself whenever a rollout changes. The routes take for decided what a 'dropout serve' of this --state answered, also
    where the documents are a folder's.
    """
    clock = SystemClock()
    compiled = _of_store(store, clock) if rollouts is None else _of_folder(rollouts, clock)
    keys = KeyFile(StateFolder.made(store, state).ids, clock)
    written = write_envoy_dir(out, compiled, keys.current.marks, settings().replay_bytes)
    if output == "json":
        files = {"routes": str(out / ROUTES_FILE), "clusters": str(out / CLUSTERS_FILE)}
        print_json({"rollouts": len(compiled), "written": written, **files})
        return
    of = f"the routes of {len(compiled)} {'rollout' if len(compiled) == 1 else 'rollouts'}"
    click.echo(f"{out}: wrote {of}." if written else f"{out}: {of} are unchanged.")


@envoy.command(short_help="Write a configuration for Envoy to start with.")
@click.option(
    "--ingress", default="0.0.0.0:8080", show_default=True, metavar="ADDRESS", help="Where requests are taken."
)
@click.option("--tls-cert", type=_FILE, metavar="FILE", help="Envoy's certificate: requests are taken over TLS.")
@click.option("--tls-key", type=_FILE, metavar="FILE", help="The key of --tls-cert.")
@click.option(
    "--envoy-admin", default="127.0.0.1:9901", show_default=True, metavar="ADDRESS", help="Envoy's admin endpoint."
)
@click.option(
    "--listen",
    default="unix:/run/dropout/worker-{worker}.sock",
    show_default=True,
    metavar="ADDRESS",
    help="Where workers are found, as of 'dropout serve'.",
)
@click.option(
    "--workers", type=click.IntRange(1, 256), default=None, help="As of 'dropout serve'.  [default: the cores]"
)
@click.option(
    "--transport", type=click.Choice(tuple(TEMPLATES)), default="grpc", show_default=True, help="As of 'dropout serve'."
)
@click.option(
    "--access-log-listen", metavar="ADDRESS", help="As of 'dropout serve'; left out, it is told of no outcome."
)
@click.option(
    "--dropout-ca", type=_FILE, metavar="FILE", help="What signed the certificate of Dropout, asked over a port."
)
@click.option(
    "--envoy-dir",
    default="/run/dropout/envoy",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="As of 'dropout serve'.",
)
@click.option(
    "--upstream",
    "upstreams",
    multiple=True,
    metavar="NAME=HOST:PORT",
    help="The cluster of a version whose rollout has no endpoints; may be given several times.",
)
@output_option
def init(
    ingress: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    envoy_admin: str,
    listen: str,
    workers: int | None,
    transport: str,
    access_log_listen: str | None,
    dropout_ca: Path | None,
    envoy_dir: Path,
    upstreams: Sequence[str],
    output: str,
) -> None:
    """Write what Envoy starts with, as YAML: 'dropout envoy init > envoy.yaml'.

    The flags that 'dropout serve' has too are given as there. Envoy starts when 'dropout serve --envoy-dir' has written
    its files.
    """
    if dropout_ca is not None and transport != "grpc":
        raise InvalidInput.of("tls_needs_grpc", "TLS is for gRPC; HTTP is for one machine", field="--dropout-ca")
    places = Places(
        ingress=TcpEndpoint(*parse_host_port(ingress, "--ingress")),
        admin=TcpEndpoint(*parse_host_port(envoy_admin, "--envoy-admin")),
        workers=worker_endpoints(listen, workers or len(os.sched_getaffinity(0))),
        envoy_dir=envoy_dir.absolute(),
        upstreams=dict(_upstream(each) for each in upstreams),
        observer=single_endpoint(access_log_listen, "--access-log-listen") if access_log_listen else None,
        tls=_tls(tls_cert, tls_key),
        ca=dropout_ca.absolute() if dropout_ca is not None else None,
    )
    config = configured(bundled("envoy") / TEMPLATES[transport], places)
    if output == "json":
        print_json(config)
    else:
        click.echo(yaml.safe_dump(config, sort_keys=False, width=120), nl=False)


def _tls(certificate: Path | None, key: Path | None) -> TlsFiles | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing, given = ("--tls-cert", "--tls-key") if certificate is None else ("--tls-key", "--tls-cert")
        raise InvalidInput.of("tls_incomplete", f"it goes with {missing}, which is not given", field=given)
    tls = TlsFiles(certificate.absolute(), key.absolute())
    tls.check()
    return tls


def _upstream(text: str) -> tuple[str, TcpEndpoint]:
    name, equals, address = text.partition("=")
    if not equals or not name:
        raise InvalidInput.of("address_invalid", f"{text!r} is not NAME=HOST:PORT", field="--upstream")
    return name, TcpEndpoint(*parse_host_port(address, "--upstream"))


def _of_store(url: str, clock: Clock) -> list[CompiledRollout]:
    """What the store's rollouts route at this moment. Raises ``Unreachable``."""
    with opened(url) as store:
        holder = SnapshotHolder(store, clock)
        holder.load()
        return list(holder.current.rollouts.values())


def _of_folder(folder: Path, clock: Clock) -> list[CompiledRollout]:
    """The documents of a folder as a first apply would adopt them. Raises ``InvalidInput``."""
    now = clock.now()
    return [
        compile_rollout(
            document.resource,
            create(intent_of(document.resource), Tombstone(), now).status,
            now,
        )
        for document in of_kind(load_valid([folder]), Rollout)
    ]
