"""Trips of this host's own: they reach workers by pipe and stand beside what the store says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from extproc.snapshot.model import NO_OVERLAY, Overlay, Snapshot


class LocalTrip(NamedTuple):
    """``version`` of ``rollout`` (``namespace/name``) is taken away for as long as the rollout is in ``attempt``.

    While ``probing`` a few of its buckets get it. ``probes`` are how often that has failed so far.
    """

    rollout: str
    version: str
    attempt: int
    probing: bool = False
    probes: int = 0


def with_trips(snapshot: Snapshot, trips: Iterable[LocalTrip]) -> Snapshot:
    """``snapshot`` with those of ``trips`` that hold for its rollouts; nothing is compiled for it."""
    local: dict[str, Overlay] = {}
    for trip in trips:
        rollout = snapshot.rollouts.get(trip.rollout)
        if (
            rollout is None
            or rollout.attempt != trip.attempt
            or trip.version not in rollout.versions - {rollout.stable}
        ):
            continue
        before = local.get(trip.rollout) or snapshot.overlay.get(trip.rollout, NO_OVERLAY)
        local[trip.rollout] = Overlay(
            before.killed,
            before.tripped | {trip.version},
            before.probing | {trip.version} if trip.probing else before.probing,
        )
    return replace(snapshot, local=local) if local or snapshot.local else snapshot
