"""``--state``, for every command that needs more than the store."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from extproc.state import FLAG

state_option = partial(
    click.option,
    FLAG,
    envvar="DROPOUT_STATE",
    show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The folder of keys, tokens, labels and kills.  [default: beside the store's file]",
)
