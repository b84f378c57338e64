"""A controller on the real store that kills itself at its n-th write, for tests of what is left then.

    python -m tests.support.dying_controller STORE TICKS NUMBER before|after OUTCOME

Every measurement that is due comes to OUTCOME. Time is counted in ticks of a second and kept in the file TICKS, which
outlives the process: a controller that is started again goes on at the tick at which the last one died.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from extproc.adapters.sqlite_store import SqliteStore
from extproc.control.analysis.runs import Measured, Outcome
from extproc.control.following import Followed
from extproc.control.reconciler import Reconciler
from extproc.control.rollout import Observations, due
from extproc.snapshot.store import Lease, StoredRollout, Write
from tests.support.clock import FakeClock

MOST_TICKS = 200
OVER = ("Healthy", "Degraded")


class DyingStore(SqliteStore):
    """Kills the process before or after its write number ``at``, counted from 1."""

    def __init__(self, path: Path, clock: FakeClock, at: int, when: str) -> None:
        super().__init__(path, clock=clock)
        self._left = at
        self._when = when

    def write(self, writes: Sequence[Write], **options: Any) -> Sequence[StoredRollout]:
        self._die("before")
        rows = super().write(writes, **options)
        self._die("after")
        return rows

    def acquire(self, holder: str, seconds: float) -> Lease | None:
        self._die("before")
        lease = super().acquire(holder, seconds)
        self._die("after")
        return lease

    def _die(self, when: str) -> None:
        if when == "before":
            self._left -= 1
        if when == self._when and self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Script:
    """All upstreams are ready, and what is measured comes to ``outcome``."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def look(self, under_way: Iterable[Followed], now: float) -> None:
        """Nobody else saw anything."""

    def begin(self, now: float) -> None:
        """There is nothing to get ready."""

    def observe(self, followed: Followed, now: float) -> Observations:
        wanted = due(followed.plan, followed.row.status, now)
        return Observations(
            measured={
                kind: [Measured(metric.name, now, self._outcome, None, "as written") for metric in metrics]
                for kind, metrics in wanted.items()
            }
        )


def main(store: str, ticks: str, at: str, when: str, outcome: str) -> None:
    counter = Path(ticks)
    clock = FakeClock()
    clock.advance(int(counter.read_text()))
    reconciler = Reconciler(
        DyingStore(Path(store), clock, int(at), when),
        clock,
        Script(Outcome(outcome)),
        holder=str(os.getpid()),
        actor="controller@test",
        lease_seconds=3.0,
    )
    done = SqliteStore(Path(store), clock=clock)
    while done.documents().rollouts[0].status.phase not in OVER and int(counter.read_text()) < MOST_TICKS:
        reconciler.tick()
        clock.advance(1)
        counter.write_text(str(int(counter.read_text()) + 1))
    reconciler.release()


if __name__ == "__main__":
    main(*sys.argv[1:])
