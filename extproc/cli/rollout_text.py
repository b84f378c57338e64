"""Rollouts as text: a table of all, one with its steps, one as a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from extproc.cli.output import aligned
from extproc.control.access import Listing
from extproc.control.actions import Result
from extproc.control.described import timestamp
from extproc.errors import InvalidInput
from extproc.resources.fields import format_duration, format_percent
from extproc.resources.loading import parse_rollout
from extproc.resources.rollout import Step
from extproc.snapshot.store import Status, StoredRollout

_HEADS = ("NAMESPACE", "NAME", "STABLE", "CANARY", "WEIGHT", "STEP", "PHASE", "REASON", "KILLED", "CONDITIONS")
_DONE, _CURRENT, _TO_COME = "✓", "●", "○"


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


def table(found: Listing) -> list[str]:
    """A line for each rollout under the names of the columns; of damaged ones last."""
    unknown = ("-",)
    damaged = [
        (row.namespace, row.name, *unknown * 4, "Unreadable", row.fault.code, *unknown * 2) for row in found.unreadable
    ]
    return aligned([_HEADS, *(_cells(row) for row in found.rollouts), *damaged])


def details(row: StoredRollout) -> list[str]:
    """All that a status says, and the steps with the one in force marked."""
    return [*aligned(_fields(row)), *_steps(row)]


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


def _cells(row: StoredRollout) -> tuple[str, ...]:
    status = row.status
    conditions = ",".join(condition["type"] for condition in status.conditions)
    canary = status.canary is not None
    weight, step = (str(format_percent(status.weight)), str(status.step)) if canary else ("-", "-")
    killed = "yes" if status.killed else "no"
    names = (row.namespace, row.name, status.stable, status.canary or "-", weight, step)
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
    if status.previous:
        lines.append(("replaced:", f"{status.previous['stable']} at {timestamp(status.previous['at'])}"))
    if status.canary is not None:
        lines.append(("weight:", f"{format_percent(status.weight)} since {timestamp(status.effective_at)}"))
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


def _steps(row: StoredRollout) -> Iterator[str]:
    """The steps as a tree; under the one in force what is measured for it."""
    try:
        steps = parse_rollout(row.document).spec.steps
    except InvalidInput:  # an earlier version of Dropout took it
        return
    if steps:
        yield "steps:"
    for index, step in enumerate(steps):
        mark = _DONE if index < row.status.step else _CURRENT if index == row.status.step else _TO_COME
        yield f"  {mark} {index}  {_step_words(step)}{_standing(row.status) if mark == _CURRENT else ''}"
        if mark == _CURRENT:
            yield from _run(row.status.analysis.get("step"))
    if isinstance(background := row.status.analysis.get("background"), Mapping):
        yield "in the background:"
        yield from _run(background)


def _standing(status: Status) -> str:
    return f"   {status.phase} ({status.reason}) since {timestamp(status.step_at)}"


def _step_words(step: Step) -> str:
    if step.set_weight is not None:
        return f"setWeight {format_percent(step.set_weight)}"
    if step.shadow is not None:
        return f"shadow {format_percent(step.shadow.percent)}"
    if step.pause is not None:
        return f"pause {format_duration(step.pause.duration)}" if step.pause.duration is not None else "pause"
    assert step.analysis is not None
    return "analysis " + ", ".join(template.template_name for template in step.analysis.templates)


def _run(run: Any) -> Iterator[str]:
    """The metrics of an analysis: how often each came to what, and what was measured last."""
    if not isinstance(run, Mapping):
        return
    for name, metric in run.get("metrics", {}).items():
        counts = ", ".join(f"{count} {outcome}" for outcome, count in metric["counts"].items() if count)
        yield f"      {name}: {counts or 'not measured yet'}"
        for last in metric["measurements"][-1:]:
            yield f"        {timestamp(last['at'])} {last['outcome']}" + (
                f": {last['message']}" if last["message"] else ""
            )
