"""What takes away, ahead of everything that has to be compiled: kills, aborts and trips as the store has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from extproc.snapshot.model import NO_OVERLAY, CompiledRollout, Overlay, Snapshot
from extproc.store.status import Stops, StopsAt


def with_stops(snapshot: Snapshot, stops: Iterable[StopsAt]) -> Snapshot:
    """``snapshot`` with those of ``stops`` that are of its rollouts, over what it has; nothing is given back."""
    rollouts, overlay = dict(snapshot.rollouts), dict(snapshot.overlay)
    for at in stops:
        if (compiled := rollouts.get(at.key)) is not None:
            rollouts[at.key] = without_aborted(compiled, frozenset(at.stops.aborted))
            overlay[at.key] = over(overlay.get(at.key, NO_OVERLAY), at.stops)
    return replace(snapshot, rollouts=rollouts, overlay=overlay)


def without_aborted(compiled: CompiledRollout, aborted: frozenset[str]) -> CompiledRollout:
    """``compiled`` without those versions, now and when a pending rise falls due."""
    if aborted <= compiled.aborted:
        return compiled
    successor = compiled.successor
    return replace(
        compiled,
        aborted=compiled.aborted | aborted,
        successor=without_aborted(successor, aborted) if successor is not None else None,
    )


def over(before: Overlay, stops: Stops) -> Overlay:
    """``before`` and ``stops`` together."""
    return replace(before, killed=before.killed or stops.killed, tripped=before.tripped | frozenset(stops.tripped))
