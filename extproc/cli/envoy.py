"""``dropout envoy``: the files that Envoy routes by."""

from __future__ import annotations

from pathlib import Path

import click

from extproc.adapters.stores import beside
from extproc.cli.options import opened, store_option
from extproc.cli.output import output_option, print_json
from extproc.clock import Clock, SystemClock
from extproc.control.intent import intent_of
from extproc.control.transitions import create
from extproc.decision_id import KeyFile
from extproc.envoy.files import CLUSTERS_FILE, ROUTES_FILE, write_envoy_dir
from extproc.resources.loading import load_valid, of_kind
from extproc.resources.rollout import Rollout
from extproc.snapshot.compile import compile_rollout
from extproc.snapshot.holder import SnapshotHolder
from extproc.snapshot.model import CompiledRollout
from extproc.snapshot.store import Remains


@click.group()
def envoy() -> None:
    """Write what Envoy reads."""


@envoy.command(short_help="Write the routes and fallback clusters of all rollouts.")
@store_option
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
def render(store: str, rollouts: Path | None, out: Path, output: str) -> None:
    """Write routes (rds.json) and fallback clusters (cds.json) for all rollouts.

    Each file is swapped by a rename, and only if the routes changed. 'dropout serve --envoy-dir' does the same by
    itself whenever a rollout changes. The routes take for decided what a 'dropout serve' of this --store answered, also
    where the documents are a folder's.
    """
    clock = SystemClock()
    compiled = _of_store(store, clock) if rollouts is None else _of_folder(rollouts, clock)
    keys = KeyFile(beside(store, ".ids"), clock)
    written = write_envoy_dir(out, compiled, keys.current.marks)
    if output == "json":
        files = {"routes": str(out / ROUTES_FILE), "clusters": str(out / CLUSTERS_FILE)}
        print_json({"rollouts": len(compiled), "written": written, **files})
        return
    of = f"the routes of {len(compiled)} {'rollout' if len(compiled) == 1 else 'rollouts'}"
    click.echo(f"{out}: wrote {of}." if written else f"{out}: {of} are unchanged.")


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
            create(intent_of(document.resource), Remains(), now).status,
            now,
        )
        for document in of_kind(load_valid([folder]), Rollout)
    ]
