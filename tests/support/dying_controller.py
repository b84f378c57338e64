"""A controller on the real store that kills itself at its n-th write, for tests of what is left then.

    python -m tests.support.dying_controller

reads a life from each line of its input, ``["STORE", "TICKS", NUMBER, "before|after", "OUTCOME"]``, and writes its exit
status. Each life is a process of its own, but has nothing to import, which costs ten times what it does.

Every measurement that is due comes to OUTCOME. Time is counted in ticks of a second and kept in the file TICKS, which
outlives the process: a controller that is started again goes on at the tick at which the last one died.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from extproc.adapters.sqlite.store import SqliteStore
from extproc.control.active_rollouts import ActiveRollout
from extproc.control.analysis.runs import Measured, Outcome
from extproc.control.reconciler import Reconciler
from extproc.control.rollout import Evidence, due
from extproc.store.records import Lease, StoredRollout, Write
from extproc.store.status import Status
from tests.support.clock import FakeClock

MOST_TICKS = 200


def is_over(status: Status) -> bool:
    """Whether it has come to its end; an experiment has once what was measured of it is told."""
    decided = status.canary is not None or bool(status.conditions)
    return status.phase == "Degraded" or (status.phase == "Healthy" and decided)


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

    def collect(self, under_way: Iterable[ActiveRollout], now: float) -> None:
        """Nobody else saw anything."""

    def begin(self, now: float) -> None:
        """There is nothing to get ready."""

    def evidence_of(self, followed: ActiveRollout, now: float) -> Evidence:
        wanted = due(followed.plan, followed.row.status, now)
        return Evidence(
            measured={
                kind: [Measured(metric.name, now, self._outcome, None, "as written") for metric in metrics]
                for kind, metrics in wanted.items()
            }
        )


def live(store: str, ticks: str, at: int, when: str, outcome: str) -> None:
    """Tick until the rollout is at its end, or the write number ``at`` comes."""
    counter = Path(ticks)
    clock = FakeClock()
    clock.advance(int(counter.read_text()))
    reconciler = Reconciler(
        DyingStore(Path(store), clock, at, when),
        clock,
        Script(Outcome(outcome)),
        holder=str(os.getpid()),
        actor="controller@test",
        lease_seconds=3.0,
    )
    done = SqliteStore(Path(store), clock=clock)
    while not is_over(done.documents().rollouts[0].status) and int(counter.read_text()) < MOST_TICKS:
        reconciler.tick()
        clock.advance(1)
        counter.write_text(str(int(counter.read_text()) + 1))
    reconciler.release()


def main() -> None:
    import_module("cel")  # costs more than the rest together, and is imported when it is needed
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            live(*json.loads(line))
            os._exit(0)  # to clean up costs more than the whole life
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
