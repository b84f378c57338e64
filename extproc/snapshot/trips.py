"""What this host takes away by itself: it reaches workers by pipe and stands beside what the store says."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import replace
from math import inf, nextafter
from typing import Final, NamedTuple

from extproc.snapshot.model import NO_OVERLAY, CompiledRollout, Overlay, Snapshot
from extproc.store.status import Status

_NEVER: Final = -inf


class LocalTrip(NamedTuple):
    """``version`` of ``rollout`` (``namespace/name``) is taken away for as long as the rollout is in ``attempt``.

    While ``probing`` a few of its buckets get it. ``probes`` are how often that has failed so far. ``at`` is when it
    was tripped (Unix seconds), or a probe failed last, ``why`` what was seen, as a part of a sentence.
    """

    rollout: str
    version: str
    attempt: int
    probing: bool = False
    probes: int = 0
    at: float = 0.0
    why: str = ""


def is_void(trip: LocalTrip, current: CompiledRollout | Status) -> bool:
    """Whether ``trip`` was of another attempt of its rollout, or was lifted since."""
    return trip.attempt != current.attempt or trip.at <= current.lifted.get(trip.version, _NEVER)


def tripped_at(compiled: CompiledRollout, version: str, wall: float) -> float:
    """When a trip of now is (Unix seconds): after ``version`` was lifted, though the clock was set back since."""
    return max(wall, nextafter(compiled.lifted.get(version, _NEVER), inf))


def with_held(snapshot: Snapshot, trips: Iterable[LocalTrip], killed: Set[str] = frozenset()) -> Snapshot:
    """``snapshot`` with the ``trips`` that hold for its rollouts and the rollouts ``killed`` of this host.

    Nothing is compiled for it.
    """
    overlays: dict[str, Overlay] = {}
    for trip in trips:
        compiled = snapshot.rollouts.get(trip.rollout)
        if compiled is None or is_void(trip, compiled) or trip.version not in compiled.versions - {compiled.stable}:
            continue
        before = overlays.get(trip.rollout) or snapshot.overlay.get(trip.rollout, NO_OVERLAY)
        overlays[trip.rollout] = replace(
            before,
            tripped=before.tripped | {trip.version},
            probing=before.probing | {trip.version} if trip.probing else before.probing,
        )
    for key in snapshot.rollouts.keys() & killed:
        overlays[key] = replace(overlays.get(key) or snapshot.overlay.get(key, NO_OVERLAY), killed=True)
    return replace(snapshot, host_overlay=overlays) if overlays or snapshot.host_overlay else snapshot
