"""``dropout backup`` and ``dropout restore-backup``: a store and its state, out of harm's way and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from extproc.cli.options import store_option
from extproc.cli.output import output_option, print_json
from extproc.cli.state_option import state_option
from extproc.clock import SystemClock
from extproc.control.as_json import timestamp
from extproc.run.backup import Backup, back_up, restore
from extproc.state import StateFolder

_folder = click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))


@click.command(short_help="Copy the store, its state and its keys into a folder; nothing has to stop.")
@_folder
@store_option
@state_option()
@output_option
def backup(folder: Path, store: str, state: Path | None, output: str) -> None:
    """Copy the store and its state, keys and tokens too, into a new folder, while Dropout runs.

    Each file is a copy of one moment, and whole. The folder is for its owner alone: whoever has it can make decision
    ids and send labels.
    """
    made = back_up(store, StateFolder.of(store, state), folder, SystemClock().now())
    _print(_told(folder, made), f"{folder}: a backup of {', '.join(made.digests)}", output)


@click.command(short_help="Put a backup in the place of the store and its state.")
@_folder
@click.option("--replace", is_flag=True, help="Even if there is a store or a part of its state: it is gone then.")
@store_option
@state_option()
@output_option
def restore_backup(folder: Path, replace: bool, store: str, state: Path | None, output: str) -> None:
    """Put a backup in the place of the store and its state, while nothing works on them.

    What was applied, killed or taken away since the backup is not in it, but for kills and trips that this host holds.
    A part of the state that the backup does not have is removed.
    """
    made, removed = restore(folder, store, StateFolder.made(store, state), replace=replace)
    since = "what was applied, killed or taken away since then is not in it"
    if removed:
        since += f", and what it does not have is removed: {', '.join(removed)}"
    told = {**_told(folder, made), "removed": list(removed)}
    _print(told, f"{store} is as it was at {timestamp(made.at)}: {since}", output)


def _told(folder: Path, made: Backup) -> dict[str, Any]:
    return {"folder": str(folder), "at": timestamp(made.at), "files": list(made.digests)}


def _print(told: dict[str, Any], sentence: str, output: str) -> None:
    if output == "json":
        print_json(told)
        return
    click.echo(sentence)
