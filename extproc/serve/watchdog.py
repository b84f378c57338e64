"""Who hangs, and why: evaluations that can be watched, and the judgement on a worker without a heartbeat."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from extproc.datapath.model import PolicyVerdict
from extproc.datapath.ports import InputReads, PolicyEngine
from extproc.names import Reason
from extproc.serve.heartbeat import ANY_PATH, BEAT_SECONDS, Beat, HeartbeatPage


class WatchedEngine:
    """A policy engine whose evaluations the supervisor can see, and whose rules it can take out.

    A rule in quarantine is not evaluated: its verdict is ``policy_quarantined``. Quarantine belongs to one set of
    policies and ends with it.
    """

    def __init__(self, engine: PolicyEngine, page: HeartbeatPage) -> None:
        self._evaluate = engine.evaluate
        self._engine = engine
        self._begin = page.begin
        self._end = page.end
        self._quarantined: frozenset[str] = frozenset()

    @property
    def revision(self) -> str:
        """The fingerprint of the policies."""
        return self._engine.revision

    @property
    def quarantined(self) -> frozenset[str]:
        """The rules that are not evaluated."""
        return self._quarantined

    def quarantine(self, paths: frozenset[str]) -> None:
        """Stop evaluating the rules at ``paths``."""
        self._quarantined |= paths

    def evaluate(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
        """The verdict of the rule at ``path``; never raises."""
        if self._quarantined and (path in self._quarantined or ANY_PATH in self._quarantined):
            return PolicyVerdict(
                fault=Reason.POLICY_QUARANTINED, message="an evaluation of this rule did not end; it waits for an edit"
            )
        self._begin(path)
        try:
            return self._evaluate(path, document)
        finally:
            self._end()

    def reads(self, path: str) -> InputReads:
        """The parts of the input that the rule at ``path`` can read."""
        return self._engine.reads(path)


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: of one evaluation, and without any heartbeat."""

    evaluation: float
    hang: float


@dataclass(frozen=True, slots=True)
class Hung:
    """A worker to be replaced; ``path`` is the rule to be quarantined first, None when no policy is to blame."""

    worker: int
    path: str | None


class ProcessState(NamedTuple):
    """The CPU time that a process has used, in seconds, and whether it was stopped by a signal or a debugger."""

    cpu_seconds: float
    stopped: bool


@dataclass(slots=True)
class _Suspicion:
    since: int
    cpu: float


@dataclass(slots=True)
class Watchdog:
    """Decides which workers hang, from their pages.

    It wants proof before it blames a policy: the process must have used the time, not only let it pass, because on a
    crowded or paused machine an evaluation of microseconds can take its place in the queue for a second. A process
    that was stopped needs no more proof. And a supervisor that was held up itself gives everybody the benefit of the
    doubt for one more limit.
    """

    limits: Limits
    look_at: Callable[[int], ProcessState]
    _suspicions: dict[int, _Suspicion] = field(default_factory=dict)
    _last_look: int = 0
    _lenient_until: int = 0

    def judge(self, pages: Sequence[tuple[int, int, HeartbeatPage]], now: int) -> list[Hung]:
        """The hung ones among (worker, pid, page); ``now`` is monotonic ns."""
        if self._last_look and now - self._last_look > _ns(4 * BEAT_SECONDS):
            self._lenient_until = now + _ns(self.limits.evaluation)
        self._last_look = now
        hung = [self._judge_one(worker, pid, page.read(), now) for worker, pid, page in pages]
        return [] if now < self._lenient_until else [one for one in hung if one is not None]

    def forget(self, worker: int) -> None:
        """The worker was replaced."""
        self._suspicions.pop(worker, None)

    def _judge_one(self, worker: int, pid: int, beat: Beat, now: int) -> Hung | None:
        silent = now - beat.at
        if silent < _ns(2 * BEAT_SECONDS):
            self._suspicions.pop(worker, None)
            return None
        process = self.look_at(pid)
        if beat.evaluating_since and self._burnt(worker, process, beat.evaluating_since, now):
            return Hung(worker, beat.path)
        patience = self.limits.evaluation if process.stopped else self.limits.hang
        return Hung(worker, None) if silent >= _ns(patience) else None

    def _burnt(self, worker: int, process: ProcessState, since: int, now: int) -> bool:
        """Whether one evaluation has lasted for the limit, and the process was running for half of it or more."""
        suspicion = self._suspicions.get(worker)
        if suspicion is None or suspicion.since != since:
            suspicion = self._suspicions[worker] = _Suspicion(since, process.cpu_seconds)
        if now - since < _ns(self.limits.evaluation):
            return False
        return process.cpu_seconds - suspicion.cpu >= self.limits.evaluation / 2


def process_state(pid: int) -> ProcessState:
    """What /proc says about a process; nothing when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ProcessState(0.0, stopped=False)
    fields = stat.rpartition(b")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ProcessState(ticks / os.sysconf("SC_CLK_TCK"), stopped=fields[0] in (b"T", b"t"))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
