"""Saying that metrics should have been measured and were not. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from extproc.control.analysis.runs import Metric, Outcome, RunPlan, overdue
from extproc.control.intent import Transition
from extproc.control.status_changes import METRIC_OVERDUE
from extproc.resources.fields import format_duration
from extproc.store.status import Status


def how_long(metric: Metric) -> str:
    """``errors for more than 40s``."""
    return f"{metric.name} for more than {format_duration(metric.overdue_after)}"


def _last_error(metric: Metric, run: Mapping[str, Any]) -> str:
    """What became of the last try, if there was one."""
    last = run["metrics"].get(metric.name, {}).get("measurements", [])[-1:]
    return "".join(f" ({one['message']})" for one in last if one["outcome"] == Outcome.ERROR)


def told(status: Status, runs: Mapping[str, RunPlan], now: float) -> Transition | None:
    """The status with a condition about what of ``runs``, by their keys in ``Status.analysis``, is overdue.

    It is written when other metrics are overdue than it says; none, and it is taken away.
    """
    late = [
        (kind, metric)
        for kind, run in sorted(runs.items())
        for metric in overdue(run, status.analysis[kind], now, status.step)
    ]
    metrics = [f"{kind}/{metric.name}" for kind, metric in late]
    known = [one.get("metrics") for one in status.conditions if one["type"] == METRIC_OVERDUE]
    if known == ([metrics] if metrics else []):
        return None
    conditions = tuple(one for one in status.conditions if one["type"] != METRIC_OVERDUE)
    if not metrics:
        return Transition(replace(status, conditions=conditions), "every metric is measured again, or need not be")
    why = "; ".join(f"{how_long(metric)}{_last_error(metric, status.analysis[kind])}" for kind, metric in late)
    message = f"not measured: {why}"
    condition = {"type": METRIC_OVERDUE, "status": "True", "metrics": metrics, "message": message}
    return Transition(replace(status, conditions=(*conditions, condition)), message)
