"""Who hangs, and why: evaluations that can be watched, and whether a worker without a heartbeat hangs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from extproc.datapath.model import PolicyVerdict
from extproc.datapath.ports import EmbeddedEngine, InputReads
from extproc.names import Reason
from extproc.serve.heartbeat import ANY_PATH, BEAT_SECONDS, Beat, HeartbeatPage

PATIENCE: Final = 3
"""How many times its limit a worker may be silent that waits for a processor most of the time."""


class WatchedEngine:
    """A policy engine whose evaluations the supervisor can see, and whose rules it can take out.

    A rule in quarantine is not evaluated: its verdict is ``policy_quarantined``. Quarantine belongs to one set of
    policies and ends with it.
    """

    def __init__(self, engine: EmbeddedEngine, page: HeartbeatPage) -> None:
        self._evaluate = engine.evaluate
        self._engine = engine
        self._begin = page.begin
        self._end = page.end
        self._quarantined: frozenset[str] = frozenset()

    @property
    def revision(self) -> str:
        """The fingerprint of the policies."""
        return self._engine.revision

    def has(self, path: str) -> bool:
        """Whether anything gives ``path`` a value."""
        return self._engine.has(path)

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
                allow=not self.can_deny(path),
                fault=Reason.POLICY_QUARANTINED,
                message="an evaluation of this rule did not end, or ended its worker; the rule waits for an edit",
            )
        self._begin(path)
        try:
            return self._evaluate(path, document)
        finally:
            self._end()

    def reads(self, path: str) -> InputReads:
        """The parts of the input that the rule at ``path`` can read."""
        return self._engine.reads(path)

    def can_deny(self, path: str) -> bool:
        """Whether the rule at ``path`` can deny."""
        return self._engine.can_deny(path)


@dataclass(frozen=True, slots=True)
class HangLimits:
    """Seconds: of one evaluation, and without any heartbeat."""

    evaluation: float
    hang: float


@dataclass(frozen=True, slots=True)
class Hung:
    """A worker to be replaced; ``path`` is the rule to be quarantined first, None when no policy is to blame.

    ``evidence`` says what is known of the time without a heartbeat.
    """

    worker: int
    path: str | None
    evidence: str


class ProcessState(NamedTuple):
    """A process: the CPU time that it has used, in seconds; whether a signal or a debugger stopped it; and for how
    many seconds its threads, taken together, have waited for a processor."""

    cpu_seconds: float
    stopped: bool
    waited_seconds: float = 0.0


@dataclass(slots=True)
class _Seen:
    """What was seen of one worker: its last heartbeat and evaluation, and for how long, in ns, neither has changed.

    ``at_first`` is what its process had used when its silence was noticed, ``cpu`` the seconds when the evaluation was.
    """

    beat: Beat
    silent: int = 0
    evaluated: int = 0
    at_first: ProcessState | None = None
    cpu: float | None = None

    def note(self, beat: Beat, passed: int) -> None:
        """``passed`` ns after the last check it says ``beat``."""
        self.silent += passed
        self.evaluated += passed
        if beat.at != self.beat.at:
            self.silent, self.at_first = 0, None
        if beat.at != self.beat.at or beat.evaluating_since != self.beat.evaluating_since:
            self.evaluated, self.cpu = 0, None
        self.beat = beat


@dataclass(slots=True)
class Watchdog:
    """Decides which workers hang, from their pages.

    It wants proof before it blames a policy: the process must have used the time, not only let it pass, because on a
    crowded or paused machine an evaluation of microseconds can take its place in the queue for a second. For the same
    reason the time in which a worker waited for a processor does not count as hanging, up to a limit: another process
    in its place would have to wait too. A process that was stopped needs no more proof.

    Time is what passes between two checks of the supervisor: never a difference between its clock and a worker's,
    which is large for a page that nobody wrote yet and when a virtual machine goes on with another clock. After the
    supervisor was held up itself, or its clock jumped, everybody's time begins anew.
    """

    limits: HangLimits
    state_of: Callable[[int], ProcessState]
    _seen: dict[int, _Seen] = field(default_factory=dict)
    _checked_at: int = 0

    def hung(self, pages: Sequence[tuple[int, int, HeartbeatPage]], now: int) -> list[Hung]:
        """The hung ones among (worker, pid, page); ``now`` is monotonic ns."""
        passed, self._checked_at = now - self._checked_at, now
        if not 0 <= passed <= _ns(4 * BEAT_SECONDS):
            passed = 0
            self._seen.clear()
        hung = [self._hung(worker, pid, page.read(), passed) for worker, pid, page in pages]
        return [one for one in hung if one is not None]

    def forget(self, worker: int) -> None:
        """The worker was replaced."""
        self._seen.pop(worker, None)

    def _hung(self, worker: int, pid: int, beat: Beat, passed: int) -> Hung | None:
        seen = self._seen.setdefault(worker, _Seen(beat))
        seen.note(beat, passed)
        if seen.silent < _ns(2 * BEAT_SECONDS):
            return None
        process = self.state_of(pid)
        if seen.at_first is None:
            seen.at_first = process
        if seen.cpu is None:
            seen.cpu = process.cpu_seconds
        used = process.cpu_seconds - seen.at_first.cpu_seconds
        waited = min(process.waited_seconds - seen.at_first.waited_seconds, seen.silent / 1e9)
        evidence = (
            f"no heartbeat for {seen.silent / 1e9:.1f} s, in which it used {used:.1f} s of a processor "
            f"and waited {waited:.1f} s for one"
        )
        # One evaluation has lasted for the limit, and the process was running for half of it or more.
        burnt = process.cpu_seconds - seen.cpu >= self.limits.evaluation / 2
        if beat.evaluating_since and seen.evaluated >= _ns(self.limits.evaluation) and burnt:
            return Hung(worker, beat.path, evidence)
        limit = self.limits.evaluation if process.stopped else self._patience(waited)
        return Hung(worker, None, evidence) if seen.silent >= _ns(limit) else None

    def _patience(self, waited: float) -> float:
        """Seconds of silence that a worker is given which waited for a processor in ``waited`` of them."""
        return min(self.limits.hang + waited, PATIENCE * self.limits.hang)


def process_state(pid: int) -> ProcessState:
    """What /proc says about a process; nothing when it is gone."""
    folder = Path(f"/proc/{pid}")
    try:
        fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
        threads = list((folder / "task").iterdir())
    except OSError:
        return ProcessState(0.0, stopped=False)
    ticks = int(fields[11]) + int(fields[12])
    waited = sum(_waited_ns(thread) for thread in threads)
    return ProcessState(ticks / os.sysconf("SC_CLK_TCK"), fields[0] in (b"T", b"t"), waited / 1e9)


def _waited_ns(thread: Path) -> int:
    """How long a thread stood in line; 0 when it has ended, or the kernel does not count it."""
    try:
        return int((thread / "schedstat").read_bytes().split()[1])
    except OSError:
        return 0


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
