"""What a kill or a restore reached, as text and as JSON."""

from __future__ import annotations

from typing import Any

import click

from extproc.cli.output import print_json
from extproc.cli.rollout_text import result_json
from extproc.control.as_json import status_json
from extproc.control.emergency import Reached


def print_reached(reached: Reached, done: str, output: str) -> None:
    """Say what was reached; ``done`` is what it is called: ``killed`` or ``restored``."""
    if output == "json":
        print_json(_json(reached, done))
        return
    result = reached.result
    if result is not None:
        click.echo(f"rollout {reached.key} {result.result}" + (f": {result.message}" if result.message else ""))
    else:
        assert reached.fault is not None
        later = "will be written when it is back" if done == "killed" else "will be told when it is back"
        click.echo(f"rollout {reached.key} {done} on this host; store: {reached.fault.code}, {later}")
    if reached.kills:
        places = ["the store"] if result is not None else []
        places += [_counted(reached.serves)] if reached.serves else []
        word = "kill" if len(reached.kills) == 1 else "kills"
        click.echo(f"{word} {', '.join(reached.kills)}: {done} in {' and '.join(places)}")
    if reached.unkept:
        click.echo(f"{_counted(reached.unkept)} could not write it down and would not outlive it", err=True)
    if reached.silent:
        click.echo(f"{_counted(reached.silent)} gave no answer", err=True)


def _counted(serves: int) -> str:
    return f"{serves} serve{'s' if serves > 1 else ''} of this host"


def _json(reached: Reached, done: str) -> dict[str, Any]:
    result, fault = reached.result, reached.fault
    body: dict[str, Any] = {
        "kind": "Rollout",
        "namespace": reached.namespace,
        "name": reached.name,
        "result": done,
        "message": "",
        "status": None,
    }
    if result is not None:
        body |= {**result_json(result), "message": result.message, "status": status_json(result.row.status)}
    return {
        **body,
        "kills": list(reached.kills),
        "reached": {
            "store": result is not None,
            "serves": reached.serves,
            "unkept": reached.unkept,
            "silent": reached.silent,
        },
        "store": fault.as_dict() if fault is not None else None,
    }
