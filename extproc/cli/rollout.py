"""``dropout rollout``, ``kill`` and ``restore``: where rollouts stand, and what an operator does to them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import click

from extproc.assignment import parse_percent
from extproc.cli.options import name_argument, opened, store_option, user
from extproc.cli.output import aligned, output_option, print_json
from extproc.clock import SystemClock
from extproc.control.actions import Abort, Adopt, Change, Kill, Restore, Result, Retry, SetWeight, act, load
from extproc.errors import InvalidInput
from extproc.resources.fields import format_percent
from extproc.snapshot.store import HistoryEntry, Status, StoredRollout

_CAMEL = re.compile(r"_([a-z])")
_PERCENTS = ("weight", "previous_weight", "drawn", "shadow")
_INTERNAL = ("ranges_key", "steps_key")


@click.group()
def rollout() -> None:
    """See where rollouts stand, and move them."""


@rollout.command(name="list")
@store_option
@output_option
def list_command(store: str, output: str) -> None:
    """List all rollouts."""
    with opened(store) as opened_store:
        rows = opened_store.documents().rollouts
    if output == "json":
        print_json({"rollouts": [row_json(row) for row in rows]})
        return
    heads = ("NAMESPACE", "NAME", "STABLE", "CANARY", "WEIGHT", "PHASE", "REASON", "KILLED", "CONDITIONS")
    for line in aligned([heads, *(_cells(row) for row in rows)]):
        click.echo(line)


@rollout.command(name="get")
@name_argument
@store_option
@output_option
def get_command(name: tuple[str, str], store: str, output: str) -> None:
    """Show where one rollout stands."""
    with opened(store) as opened_store:
        row = load(opened_store, *name)
    if output == "json":
        print_json(row_json(row))
        return
    for line in aligned(_details(row)):
        click.echo(line)


@rollout.command(short_help="Show what happened to a rollout: when, by whom, what.")
@name_argument
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many, newest last.")
@store_option
@output_option
def history(name: tuple[str, str], limit: int, store: str, output: str) -> None:
    """Show what happened to a rollout: when, by whom, what, why. A deleted rollout's history stays for a while."""
    with opened(store) as opened_store:
        entries = opened_store.history(*name, limit)
        if not entries:
            load(opened_store, *name)
    if output == "json":
        print_json({"history": [entry_json(entry) for entry in entries]})
        return
    for line in aligned([(timestamp(e.at), e.actor, e.action, e.message) for e in entries]):
        click.echo(line)


@rollout.command()
@name_argument
@store_option
@output_option
def adopt(name: tuple[str, str], store: str, output: str) -> None:
    """Take as stable the version that spec.stable names now."""
    _act(Adopt(*name), store, output)


@rollout.command(name="set-weight", short_help="Give the canary a percentage of the units.")
@name_argument
@click.argument("percent")
@store_option
@output_option
def set_weight(name: tuple[str, str], percent: str, store: str, output: str) -> None:
    """Give the canary PERCENT of the units: a fall at once, a rise in all workers together a moment later."""
    try:
        weight = parse_percent(percent)
    except ValueError as error:
        raise InvalidInput.of("weight_invalid", str(error), field="PERCENT") from None
    _act(SetWeight(*name, weight), store, output)


@rollout.command(short_help="Take the canary away now, and keep it away until a retry.")
@name_argument
@store_option
@output_option
def abort(name: tuple[str, str], store: str, output: str) -> None:
    """Take the canary away now, and keep its version away until a retry."""
    _act(Abort(*name), store, output)


@rollout.command()
@name_argument
@store_option
@output_option
def retry(name: tuple[str, str], store: str, output: str) -> None:
    """Let the aborted canary start over, from weight 0."""
    _act(Retry(*name), store, output)


@click.command()
@name_argument
@store_option
@output_option
def kill(name: tuple[str, str], store: str, output: str) -> None:
    """Serve only stable, at once, until restored."""
    _act(Kill(*name), store, output)


@click.command()
@name_argument
@store_option
@output_option
def restore(name: tuple[str, str], store: str, output: str) -> None:
    """Undo a kill."""
    _act(Restore(*name), store, output)


def _act(action: Change, store: str, output: str) -> None:
    with opened(store) as opened_store:
        (result,) = act(opened_store, user(), action, SystemClock())
    if output == "json":
        print_json({**result_json(result), "message": result.message, "status": status_json(result.row.status)})
    else:
        print_result(result)


def print_result(result: Result) -> None:
    """``rollout payments/fraud-detector configured: weight 5 to 25``."""
    click.echo(f"rollout {result.row.key} {result.result}" + (f": {result.message}" if result.message else ""))


def result_json(result: Result) -> dict[str, Any]:
    """What became of a rollout, for ``-o json``."""
    row = result.row
    return {
        "kind": "Rollout",
        "namespace": row.namespace,
        "name": row.name,
        "result": result.result,
        "resourceVersion": row.resource_version,
    }


def row_json(row: StoredRollout) -> dict[str, Any]:
    """A rollout's status with its name, for ``-o json``."""
    return {
        "namespace": row.namespace,
        "name": row.name,
        "resourceVersion": row.resource_version,
        "source": row.source,
        **status_json(row.status),
    }


def status_json(status: Status) -> dict[str, Any]:
    """A status in the documents' style: camelCase, weights in percent, times in RFC 3339."""
    body = {name: value for name, value in status.as_dict().items() if name not in _INTERNAL}
    body |= {name: format_percent(body[name]) for name in _PERCENTS}
    body |= {name: timestamp(body[name]) for name in ("effective_at", "step_at")}
    return {_CAMEL.sub(lambda found: found[1].upper(), name): value for name, value in body.items()}


def entry_json(entry: HistoryEntry) -> dict[str, Any]:
    """An entry of history, for ``-o json``."""
    return {
        "at": timestamp(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "message": entry.message,
        "detail": entry.detail,
    }


def timestamp(at: float) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cells(row: StoredRollout) -> tuple[str, ...]:
    status = row.status
    conditions = ",".join(condition["type"] for condition in status.conditions)
    weight = "-" if status.canary is None else str(format_percent(status.weight))
    killed = "yes" if status.killed else "no"
    names = (row.namespace, row.name, status.stable, status.canary or "-", weight)
    return (*names, status.phase, status.reason, killed, conditions or "-")


def _details(row: StoredRollout) -> list[tuple[str, str]]:
    status = row.status
    lines = [
        ("name:", row.key),
        ("phase:", f"{status.phase} ({status.reason})"),
        ("message:", status.message or "-"),
        ("stable:", status.stable),
        ("canary:", status.canary or "-"),
    ]
    if status.canary is not None:
        lines.append(("weight:", f"{format_percent(status.weight)} since {timestamp(status.effective_at)}"))
        lines.append(("step:", str(status.step)))
    lines += [
        ("epoch:", str(status.epoch)),
        ("killed:", "yes" if status.killed else "no"),
        ("aborted:", ", ".join(status.aborted) or "-"),
        ("source:", row.source or "-"),
        ("resource version:", str(row.resource_version)),
    ]
    return lines + [(f"{condition['type']}:", condition["message"]) for condition in status.conditions]
