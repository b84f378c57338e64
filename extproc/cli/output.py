"""How commands answer: text for people, or one JSON document (or one per line) with ``-o json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
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


def to_json(document: Any) -> bytes:
    """One JSON document on one line; bytes of a path or an argument that are not UTF-8 become question marks."""
    try:
        return orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        # Python keeps such bytes as lone surrogates, which are no JSON.
        return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")


def print_json(document: Any) -> None:
    """One JSON document on a line of its own."""
    click.echo(to_json(document))


def print_faults(faults: Iterable[Fault], *, as_json: bool) -> None:
    """Faults as sentences on stderr, or as ``{"errors": [...]}`` on stdout."""
    if as_json:
        print_json({"errors": [fault.as_dict() for fault in faults]})
        return
    for fault in faults:
        click.echo(str(fault), err=True)


def print_notes(notes: Iterable[Fault]) -> None:
    """What is right and easily overlooked, on stderr: as faults are, and called a note."""
    for note in notes:
        click.echo(str(replace(note, message=f"note: {note.message}")), err=True)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def printable(text: object) -> str:
    """What somebody else wrote, without what a terminal would obey."""
    return shown if (shown := str(text)).isprintable() else ascii(shown)
