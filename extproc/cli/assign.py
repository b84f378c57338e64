"""``dropout assign``: which bucket a unit falls into, for support questions and for checking another implementation."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from extproc.assignment import bucket_of
from extproc.cli.output import output_option, print_json


@click.command(short_help="Print the bucket of each unit under a seed.")
@click.option("--seed", required=True, help="The rollout's seed; by default namespace/name@canary-version.")
@click.option("--unit", help="The unit. Without it units are read from standard input, one a line.")
@click.option("--crlf", is_flag=True, help="Lines end in CR LF: take off both.")
@output_option
def assign(seed: str, unit: str | None, crlf: bool, output: str) -> None:
    """Print the bucket, from 0 to 9999, of each unit under a seed.

    Only the newline is taken off a line: spaces and carriage returns are part of a unit, as in a header. Of lines that
    end in CR LF that is said once, on standard error; --crlf takes off both.
    """
    for value in _units(crlf) if unit is None else [unit.encode("utf-8", "surrogateescape")]:
        bucket = bucket_of(seed.encode("utf-8", "surrogateescape"), value)
        text = value.decode("utf-8", "backslashreplace")
        if output == "json":
            print_json({"unit": text, "bucket": bucket})
        else:
            click.echo(f"{text}\t{bucket}")


def _units(crlf: bool) -> Iterator[bytes]:
    if sys.stdin is None:  # closed by whoever started this
        raise click.UsageError("there is no standard input to read units from; give --unit")
    told = crlf
    for line in sys.stdin.buffer:
        if not told and line.endswith(b"\r\n"):
            told = True
            click.echo("lines end in CR LF, and the CR is hashed as part of each unit; --crlf takes it off", err=True)
        yield line.removesuffix(b"\r\n" if crlf and line.endswith(b"\r\n") else b"\n")
