"""Rollouts and their history as JSON, in the style of the documents: for ``-o json``, and for policies."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from extproc.errors import InvalidInput
from extproc.resources.fields import format_percent
from extproc.resources.loading import parse_rollout
from extproc.store.records import HistoryEntry, StoredRollout, UnreadableRollout
from extproc.store.status import Status

_CAMEL = re.compile(r"_([a-z])")
_PERCENTS = ("weight", "previous_weight", "drawn", "shadow")
_INTERNAL = ("ranges_key", "steps_key", "restored", "lifted", "numbers")


def row_json(row: StoredRollout) -> dict[str, Any]:
    """A rollout's status with its name."""
    return {
        "namespace": row.namespace,
        "name": row.name,
        "resourceVersion": row.resource_version,
        "source": row.source,
        **status_json(row.status),
        **({"variants": variants} if (variants := variants_json(row)) else {}),
        **({"shadowing": shadow} if (shadow := shadow_json(row)) is not None else {}),
    }


def shadow_json(row: StoredRollout) -> dict[str, Any] | None:
    """The version that gets copies of requests, and of what share of the units (percent); None where none does.

    A shadow step in force says it, else the document, unless it cannot be read.
    """
    status = row.status
    if status.shadow and status.canary is not None:
        return {"version": status.canary, "percent": format_percent(status.shadow)}
    try:
        spec = parse_rollout(row.document).spec
        shadow = spec.shadow
        if shadow is None:
            return None
        return {"version": spec.resolve(shadow), "percent": format_percent(shadow.percent)}
    except InvalidInput:  # an earlier version of Dropout took it
        return None


def variants_json(row: StoredRollout) -> list[dict[str, Any]]:
    """The variants of an experiment, each with its version and weight (percent), as its document has them.

    ``takenAway`` is how its version was, None if it is served. The last one is the control.
    """
    how: dict[str, str | None] = dict.fromkeys(row.status.tripped, "tripped")
    how |= {**dict.fromkeys(row.status.aborted, "aborted"), row.status.stable: None}
    fields = ("name", "version", "weight")
    variants = row.document.get("spec", {}).get("variants") or ()
    return [{**{name: one.get(name) for name in fields}, "takenAway": how.get(one["version"])} for one in variants]


def unreadable_json(row: UnreadableRollout) -> dict[str, Any]:
    """A damaged rollout's name, and why it cannot be read."""
    return {
        "namespace": row.namespace,
        "name": row.name,
        "resourceVersion": row.resource_version,
        "code": row.fault.code,
        "message": row.fault.message,
    }


def status_json(status: Status) -> dict[str, Any]:
    """A status: camelCase, weights in percent, times in RFC 3339."""
    body = {name: value for name, value in status.as_dict().items() if name not in _INTERNAL}
    body |= {name: format_percent(body[name]) for name in _PERCENTS}
    body |= {name: timestamp(body[name]) for name in ("effective_at", "step_at")}
    body["applied"] = applied_json(status)
    if status.previous:
        body["previous"] = {**status.previous, "at": timestamp(status.previous["at"])}
    return {_CAMEL.sub(lambda found: found[1].upper(), name): value for name, value in body.items()}


def applied_json(status: Status) -> dict[str, Any]:
    """Who applied the document and when, as the row says; empty if it does not."""
    by, at = status.applied.get("by"), status.applied.get("at")
    return {"by": by, "at": timestamp(at)} if isinstance(by, str) and isinstance(at, (int, float)) else {}


def entry_json(entry: HistoryEntry) -> dict[str, Any]:
    """An entry of history."""
    return {
        "at": timestamp(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "message": entry.message,
        "detail": entry.detail,
        "count": entry.count,
        "firstAt": timestamp(entry.at if entry.first_at is None else entry.first_at),
    }


def timestamp(at: float) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
