"""How the log on stderr is written, for the commands that start processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from extproc.settings import LOG_FORMATS, in_help, variable


def _hand_down(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    """A flag is the setting of this process, and of those that it starts."""
    if value is not None:
        os.environ[variable("log_format")] = value


log_format_option: Callable[[Any], Any] = click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    callback=_hand_down,
    expose_value=False,
    help=f"How the log on stderr is written.  {in_help('log_format')}",
)
