"""Rollouts as text: a table of all, one with its steps, one as a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from extproc.cli.output import aligned
from extproc.control.access import RolloutListing
from extproc.control.as_json import applied_json, shadow_json, timestamp, variants_json
from extproc.control.experiments import VARIANT
from extproc.control.result import ActionResult
from extproc.control.steps.kinds import kind_of
from extproc.errors import InvalidInput
from extproc.resources.fields import format_percent
from extproc.resources.loading import parse_rollout
from extproc.store.records import HistoryEntry, StoredRollout
from extproc.store.status import Status

_HEADS = ("NAMESPACE", "NAME", "STABLE", "CANARY", "WEIGHT", "STEP", "PHASE", "REASON", "KILLED", "CONDITIONS")
_DONE, _CURRENT, _TO_COME = "✓", "●", "○"


def print_result(result: ActionResult) -> None:
    """``rollout payments/fraud-detector configured: weight 5 to 25``."""
    click.echo(f"rollout {result.row.key} {result.result}" + (f": {result.message}" if result.message else ""))


def result_json(result: ActionResult) -> dict[str, Any]:
    """What became of a rollout, for ``-o json``."""
    row = result.row
    return {
        "kind": "Rollout",
        "namespace": row.namespace,
        "name": row.name,
        "result": result.result,
        "resourceVersion": row.resource_version,
        **({"message": result.message} if result.message else {}),
    }


def table(found: RolloutListing) -> list[str]:
    """A line for each rollout under the names of the columns; of damaged ones last."""
    unknown = ("-",)
    damaged = [
        (row.namespace, row.name, *unknown * 4, "Unreadable", row.fault.code, *unknown * 2) for row in found.unreadable
    ]
    return aligned([_HEADS, *(_cells(row) for row in found.rollouts), *damaged])


def details(row: StoredRollout, now: float) -> list[str]:
    """All that a status says at ``now`` (Unix seconds), and the steps with the one in force marked."""
    return [*aligned(_fields(row)), *_steps(row, now), *_variants(row, now)]


def as_line(row: StoredRollout) -> str:
    """Where a rollout stands, in a line."""
    if row.deleted:
        return f"{row.key} deleted"
    status = row.status
    parts = [row.key, f"{status.phase} ({status.reason})", f"stable {status.stable}"]
    if status.canary is not None:
        parts += [f"canary {status.canary}", f"weight {format_percent(status.weight)}", f"step {status.step}"]
    parts += ["killed"] if status.killed else []
    return "  ".join([*parts, *([status.message] if status.message else [])])


def entry_cells(entry: HistoryEntry) -> tuple[str, ...]:
    """When, by whom, what and why; what was repeated says how often and since when."""
    repeated = f" ({entry.count} times since {timestamp(entry.first_at)})" if entry.first_at is not None else ""
    return timestamp(entry.at), entry.actor, entry.action, entry.message + repeated


def _cells(row: StoredRollout) -> tuple[str, ...]:
    status = row.status
    conditions = ",".join(dict.fromkeys(condition["type"] for condition in status.conditions))
    canary, weight, step = status.canary or "-", "-", "-"
    if status.canary is not None:
        weight, step = str(format_percent(status.weight)), str(status.step)
    elif variants := variants_json(row):
        canary = ",".join(variant["version"] for variant in variants[:-1])
        weight = ",".join(str(variant["weight"]) for variant in variants[:-1])
    killed = "yes" if status.killed else "no"
    names = (row.namespace, row.name, status.stable, canary, weight, step)
    return (*names, status.phase, status.reason, killed, conditions or "-")


def _fields(row: StoredRollout) -> list[tuple[str, str]]:
    status = row.status
    lines = [
        ("name:", row.key),
        ("phase:", f"{status.phase} ({status.reason})"),
        ("message:", status.message or "-"),
        ("stable:", status.stable),
        ("canary:", status.canary or "-"),
    ]
    if applied := applied_json(status):
        lines.append(("applied:", f"by {applied['by']} at {applied['at']}"))
    if status.previous:
        lines.append(("replaced:", f"{status.previous['stable']} at {timestamp(status.previous['at'])}"))
    if status.canary is not None:
        since = f"since {timestamp(status.effective_at)}{_aborted_at(status)}"
        lines.append(("weight:", f"{format_percent(status.weight)} {since}"))
    if (shadow := shadow_json(row)) is not None:
        lines.append(("shadow:", f"{shadow['version']}, {shadow['percent']} %"))
    lines += [
        ("epoch:", str(status.epoch)),
        ("killed:", "yes" if status.killed else "no"),
        ("aborted:", ", ".join(status.aborted) or "-"),
        ("tripped:", ", ".join(status.tripped) or "-"),
        *([("not waited for:", ", ".join(status.without))] if status.without else []),
        ("source:", row.source or "-"),
        ("resource version:", str(row.resource_version)),
    ]
    return lines + [(f"{condition['type']}:", condition["message"]) for condition in status.conditions]


def _steps(row: StoredRollout, now: float) -> Iterator[str]:
    """The steps as a tree; under the one in force what is measured for it."""
    try:
        steps = parse_rollout(row.document).spec.steps
    except InvalidInput:  # an earlier version of Dropout took it
        return
    if steps:
        yield "steps:"
    for index, step in enumerate(steps):
        mark = _DONE if index < row.status.step else _CURRENT if index == row.status.step else _TO_COME
        yield f"  {mark} {index}  {kind_of(step).summary}{_standing(row.status) if mark == _CURRENT else ''}"
        if mark == _CURRENT:
            yield from _run(row.status.analysis.get("step"), now)
    if background := list(_run(row.status.analysis.get("background"), now)):
        yield "in the background:"
        yield from background


def _variants(row: StoredRollout, now: float) -> Iterator[str]:
    """The arms of an experiment; under each what is measured of it against the last one, the control."""
    variants = variants_json(row)
    if not variants:
        return
    yield "variants:"
    for variant in variants:
        standing = variant["takenAway"] or ("control" if variant is variants[-1] else "served")
        yield f"  {variant['name']}  version {variant['version']}  weight {variant['weight']}  {standing}"
        yield from _run(row.status.analysis.get(VARIANT + variant["name"]), now)


def _standing(status: Status) -> str:
    return f"   {status.phase} ({status.reason}) since {timestamp(status.step_at)}{_aborted_at(status)}"


def _aborted_at(status: Status) -> str:
    """The weight that an aborted canary had, which its step need not say: it may have been set by hand."""
    if status.canary not in status.aborted or not status.drawn:
        return ""
    return f", aborted at weight {format_percent(status.drawn)}"


def _run(run: Any, now: float) -> Iterator[str]:
    """The metrics of an analysis: how often each came to what, and what was measured last."""
    if not isinstance(run, Mapping):
        return
    for name, metric in run.get("metrics", {}).items():
        counts = ", ".join(f"{count} {outcome}" for outcome, count in metric["counts"].items() if count)
        yield f"      {name}: {counts or 'not measured yet'}{_overdue(metric, now)}"
        for last in metric["measurements"][-1:]:
            yield f"        {timestamp(last['at'])} {last['outcome']}" + (
                f": {last['message']}" if last["message"] else ""
            )


def _overdue(metric: Mapping[str, Any], now: float) -> str:
    """That a measurement should have come, and since when."""
    at = metric.get("overdueAt")
    return f", overdue since {timestamp(at)}" if at is not None and now > at else ""
