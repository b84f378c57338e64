"""``dropout log``: what a decision log holds."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, Final

import click

from extproc.cli.logs import lines_of
from extproc.cli.output import output_option, print_json, printable
from extproc.datapath.logged import LoggedEvents
from extproc.datapath.sinks.gaps import Gap, WorkerNumbers, find_gaps
from extproc.errors import InvalidInput, Refused

_SHOWN: Final = 20
"""Gaps of a worker that text lists."""


@click.group()
def log() -> None:
    """Look at decision logs."""


@log.command(short_help="Find what is missing in a log, by the numbers of its events.")
@click.argument("logs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="LOG...")
@output_option
def gaps(logs: tuple[Path, ...], output: str) -> int:
    """Find what is missing in decision logs, by the numbers that each worker gives its decisions.

    Several LOGs are read as one, in any order; one may be packed by gzip, and - is standard input.
    What is missing before a worker's first line, or behind its last, shows in no number.
    Ends with 1 if anything is missing.
    """
    found: dict[str, WorkerNumbers] = {}
    unnumbered = _read(logs, found)
    described = [_described(life, numbers) for life, numbers in found.items()]
    missing = sum(one["missing"] for one in described)
    if output == "json":
        print_json({"workers": described, "missing": missing, "unnumbered": unnumbered})
    else:
        for one in described:
            click.echo(_sentence(one))
        events = sum(one["events"] for one in described)
        click.echo(f"{events} decisions of {len(found)} workers: {missing} missing; {unnumbered} lines have no number.")
    if unnumbered and not found:
        return InvalidInput.exit_code
    return Refused.exit_code if missing else 0


def _read(logs: tuple[Path, ...], found: dict[str, WorkerNumbers]) -> int:
    """Count all lines; how many have no number."""
    unnumbered = 0
    for each in logs:
        events = LoggedEvents()
        for line in lines_of(each):
            if not line.strip():
                continue
            try:
                event = events.read(line)
            except ValueError:
                unnumbered += 1
                continue
            unnumbered += event is not None and not find_gaps(found, event)
    return unnumbered


def _described(life: str, numbers: WorkerNumbers) -> dict[str, Any]:
    gaps = list(numbers.gaps())
    return {
        "id": life,
        "worker": numbers.worker,
        "first": numbers.first,
        "last": numbers.last,
        "events": numbers.events,
        "left_out": numbers.left_out,
        "missing": sum(gap.last - gap.first + 1 for gap in gaps),
        "gaps": gaps,
    }


def _sentence(one: dict[str, Any]) -> str:
    spans = ", ".join(map(_span, islice(one["gaps"], _SHOWN)))
    more = ", ..." if len(one["gaps"]) > _SHOWN else ""
    missing = f"{one['missing']} missing: {spans}{more}" if one["missing"] else "nothing missing"
    return f"worker {printable(one['worker'])} ({printable(one['id'])}), {one['first']} to {one['last']}: {missing}"


def _span(gap: Gap) -> str:
    return str(gap.first) if gap.first == gap.last else f"{gap.first}-{gap.last}"
