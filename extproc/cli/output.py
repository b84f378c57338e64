"""How commands answer: text for people, or one JSON document (or one per line) with ``-o json``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click
import orjson

from extproc.errors import Fault

output_option: Callable[[Any], Any] = click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Answer as text, or as JSON.",
)


def print_json(document: Any) -> None:
    """One JSON document on a line of its own."""
    click.echo(orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS))


def print_faults(faults: Iterable[Fault], *, as_json: bool) -> None:
    """Faults as sentences on stderr, or as ``{"errors": [...]}`` on stdout."""
    if as_json:
        print_json({"errors": [fault.as_dict() for fault in faults]})
        return
    for fault in faults:
        click.echo(str(fault), err=True)
