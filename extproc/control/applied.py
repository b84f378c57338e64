"""Who applied the document that is in force, and when: it stands in the row, beside the document that it is said of.

History is asked for rows of an earlier version alone. Where it does not go back so far nobody knows, which is not the
same as somebody else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
from xxhash import xxh64_hexdigest

from extproc.resources.rollout import Rollout
from extproc.store.ports import Rollouts
from extproc.store.records import HistoryEntry, StoredRollout, UnreadableRollout

_PAST: Final = 1000
"""Entries of history that are looked through, in a row that says nothing."""


class Applied(NamedTuple):
    """By whom, and when (Unix seconds)."""

    by: str
    at: float


def record(rollout: Rollout, body: Mapping[str, Any], applied: Applied) -> dict[str, Any]:
    """What ``Status.applied`` is when ``body``, which is ``rollout``, was ``applied``."""
    upstream = servers_of(rollout, "{version}")
    return {"by": applied.by, "at": applied.at, "document": _digest(body), "upstream": upstream}


def servers_of(rollout: Rollout, version: str) -> str:
    """What serves ``version``: its cluster, and where the cluster's servers are if the document says so."""
    cluster, address = rollout.upstream_of(version), rollout.address_of(version)
    return cluster if address is None else f"{cluster} at {address[0]}:{address[1]}"


def in_row(row: StoredRollout) -> Applied | None:
    """What the row says, if it says it of the document that it has: an earlier version changes that one alone."""
    found = row.status.applied
    by, at = found.get("by"), found.get("at")
    if not isinstance(by, str) or not isinstance(at, (int, float)) or found.get("document") != _digest(row.document):
        return None
    return Applied(by, float(at))


def who_applied(store: Rollouts, row: StoredRollout | UnreadableRollout) -> Applied | None:
    """Who applied the document in ``row``; None if that is not known any more."""
    known = in_row(row) if isinstance(row, StoredRollout) else None
    return known or _in_history(store.history(row.namespace, row.name, _PAST))


def _in_history(past: Sequence[HistoryEntry]) -> Applied | None:
    applied = [entry for entry in past if entry.action == "apply" and not entry.detail.get("denied")]
    return Applied(applied[-1].actor, applied[-1].at) if applied else None


def _digest(body: Mapping[str, Any]) -> str:
    return xxh64_hexdigest(orjson.dumps(body, option=orjson.OPT_SORT_KEYS))
