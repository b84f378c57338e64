"""A rollout's row has two parts: what routes, which everybody who follows the store is told of, and its analysis.

A rollout under analysis is measured every few seconds. What was measured, and how that is put in words, is in the
status, for the controller that goes on from it and for people; no request is routed by it, and for it no worker of a
fleet compiles anything.

Everything else routes, or moves: weights, versions, instants, epochs, kills, trips and tombstones, of course; the phase
and its reason, because a controller that is not told of a pause and its end does not know what to do, and metrics show
it; conditions, one of which says that stable is tripped; and what a newer version of Dropout wrote, whatever it is.
"""

from __future__ import annotations

from dataclasses import replace

from extproc.store.records import StoredRollout
from extproc.store.status import Status


def routing_of(status: Status) -> Status:
    """``status`` without its analysis: runs of analysis, and the message."""
    return replace(status, analysis={}, message="")


def routes_alike(before: StoredRollout | None, after: StoredRollout) -> bool:
    """Whether a write that made ``before`` (None: none that could be read) into ``after`` changes its analysis only.

    ``ChangeFeed`` does not report it; the resource version is another one all the same.
    """
    return before is not None and _routing(before) == _routing(after)


def _routing(row: StoredRollout) -> tuple[object, ...]:
    return row.document, row.source, row.deleted, routing_of(row.status)
