"""Counts of the last so many seconds, from counts that only grow: what they were at times is remembered and subtracted.

In memory, and bounded: a few snapshots for each rollout and length of window. Before a whole window was seen, after a
start or in a new epoch, the window reaches back to where the epoch began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from extproc.measure import ArmTotals, LatencySketch

SNAPSHOTS: Final = 8
"""In a window; it is longer than asked for by as much as one part of so many."""

MOST_WINDOWS: Final = 2048
"""Rollouts, times lengths of window, that are remembered; beyond it the one that was asked for longest ago is not."""

_Snapshot = tuple[float, tuple[bytes, ...]]


@dataclass(slots=True)
class _Window:
    """Snapshots of one epoch's arms, the oldest first: one from before the window, and those within."""

    epoch: int
    snapshots: deque[_Snapshot] = field(default_factory=lambda: deque(maxlen=SNAPSHOTS + 2))


class Windows:
    """The counts of windows. Use it from one thread."""

    def __init__(self) -> None:
        self._windows: dict[tuple[Hashable, float], _Window] = {}

    def within(
        self, seconds: float, compared: Hashable, epoch: int, now: float, arms: Sequence[ArmTotals]
    ) -> list[ArmTotals]:
        """What of ``arms``, which count since the epoch began, is of the last ``seconds`` before ``now``.

        ``compared`` says which arms of which rollout they are, in every epoch.
        """
        window = self._windows.pop((compared, seconds), None)
        before = [] if window is None else _last_before(window, now - seconds)
        if window is None or window.epoch != epoch or _went_back(window, now, arms, before):
            window, before = _Window(epoch), []
        self._windows[compared, seconds] = window
        if len(self._windows) > MOST_WINDOWS:
            del self._windows[next(iter(self._windows))]
        snapshots = window.snapshots
        if not snapshots or now - snapshots[-1][0] >= seconds / SNAPSHOTS:
            snapshots.append((now, tuple(orjson.dumps(arm.to_json()) for arm in arms)))
        return [_since(arm, earlier) for arm, earlier in zip(arms, before, strict=True)] if before else list(arms)


def _last_before(window: _Window, at: float) -> list[ArmTotals]:
    """The counts of the last snapshot at ``at`` or before; those before it are forgotten. Empty if there is none."""
    snapshots = window.snapshots
    while len(snapshots) > 1 and snapshots[1][0] <= at:
        snapshots.popleft()
    if not snapshots or snapshots[0][0] > at:
        return []
    return [ArmTotals.from_json(orjson.loads(arm)) for arm in snapshots[0][1]]


def _went_back(window: _Window, now: float, arms: Sequence[ArmTotals], before: Sequence[ArmTotals]) -> bool:
    """Whether the clock was set back, or the counts began anew, so that what is remembered is no part of them."""
    fewer = any(arm.requests < earlier.requests for arm, earlier in zip(arms, before, strict=False))
    return fewer or bool(window.snapshots and now < window.snapshots[-1][0])


def _since(arm: ArmTotals, before: ArmTotals) -> ArmTotals:
    """What ``arm`` has counted that ``before`` had not."""
    earlier = dict(before.latency.to_json())
    latency = ((bucket, count - earlier.get(bucket, 0)) for bucket, count in arm.latency.to_json())
    groups = {
        group: [now - then for now, then in zip(counts, before.groups.get(group, (0, 0)), strict=True)]
        for group, counts in arm.groups.items()
    }
    return ArmTotals(
        decided=arm.decided - before.decided,
        requests=arm.requests - before.requests,
        failures=arm.failures - before.failures,
        fallbacks=arm.fallbacks - before.fallbacks,
        missing=arm.missing - before.missing,
        surplus=arm.surplus - before.surplus,
        abandoned=arm.abandoned - before.abandoned,
        latency=LatencySketch((bucket, count) for bucket, count in latency if count > 0),
        groups={group: counts for group, counts in groups.items() if counts[0] > 0},
        abandoned_groups={
            group: count - before.abandoned_groups.get(group, 0) for group, count in arm.abandoned_groups.items()
        },
    )
