"""An observer in a test: told of snapshots, of decisions and of what came of them, and asked what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from extproc.decision_id import IdFault, Opened, open_id, sealed_code
from extproc.protect.access_log import LogEntry
from extproc.protect.observer import Observer, Requests
from extproc.protect.outcome import RequestEnd, RequestOutcome
from extproc.snapshot.model import CompiledRollout, Overlay
from extproc.snapshot.trips import LocalTrip
from tests.support.clock import FakeClock
from tests.support.ids import ID_KEYS, make_ids
from tests.support.rollouts import canary, snapshot

BREAKER = {"window": "10s", "minRequests": 20, "errorRate": 0.2, "consecutive": 10}
LIMIT = 15.0


class Ids:
    """Opens the ids of ``tests.support.ids``."""

    def open(self, text: str) -> Opened | IdFault:
        """See ``OpenIds``."""
        return open_id(ID_KEYS, text)


class Watching:
    """An ``Observer`` of ``rollouts`` (a canary at weight 50 by default), and everything that it told."""

    def __init__(self, *rollouts: CompiledRollout, limit: float = LIMIT, trips: Iterable[LocalTrip] = ()) -> None:
        self.clock = FakeClock()
        self.ids = make_ids(self.clock)
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.drops: Counter[str] = Counter()
        self.surpluses: Counter[str] = Counter()
        self.reasons: list[tuple[str, str]] = []
        self.told: list[list[LocalTrip]] = []
        self.lifted: list[tuple[str, float]] = []
        self.observer = Observer(Ids(), limit, self.clock, self, trips)
        self.rollouts = rollouts or (canary(5000, breaker=BREAKER),)
        self.follow(*self.rollouts)

    def follow(self, *rollouts: CompiledRollout, tripped: Iterable[str] = ()) -> None:
        """Another snapshot; ``tripped`` is what the store says of the first rollout."""
        self.rollouts = rollouts
        overlay = {rollouts[0].key: Overlay(tripped=frozenset(tripped))} if tripped else None
        self.observer.follow(snapshot(*rollouts, overlay=overlay))

    # -- what it is told

    def entry(self, version: str = "4", status: int = 200, *flags: str, **changes: object) -> LogEntry:
        """The end of a request that was decided now for ``version``, by the first rollout."""
        rollout = self.rollouts[0]
        arm = changes.pop("arm", None) or ("control" if version == rollout.stable else "canary")
        stream, ended = bool(changes.pop("stream", False)), bool(changes.pop("ended", True))
        number, code = changes.pop("number", rollout.number), sealed_code(rollout.arm_codes[str(arm)], stream=stream)
        group = int(str(changes.pop("group", 7)))
        decision_id = self.ids.seal(self.ids.nonce(), int(str(number)), code, group)
        answer = {
            "status": status,
            "flags": flags,
            "cluster": rollout.upstreams.get(version, ""),
            "route": f"{rollout.key}@{version}",
            "attempts": 1,
            "milliseconds": 12.0,
            **changes,
        }
        return LogEntry(decision_id, rollout.key, version, RequestEnd(**answer), ended)  # type: ignore[arg-type]

    def ended(self, version: str = "4", status: int = 200, *flags: str, times: int = 1, **changes: object) -> None:
        """``times`` requests for ``version`` ended so, one after another."""
        for _ in range(times):
            self.observer.take([self.entry(version, status, *flags, **dict(changes))])

    def decided(
        self, version: str, requests: int, *, seconds_ago: int = 0, arm: str = "", stream: bool = False
    ) -> None:
        """Workers decided so many requests for ``version``."""
        rollout = self.rollouts[0]
        arm = arm or ("control" if version == rollout.stable else "canary")
        second = int(self.clock.now()) - seconds_ago
        self.observer.decided([Requests(rollout.key, rollout.epoch_id, arm, version, second, requests, stream)])

    def wait(self, seconds: float) -> None:
        """Time passes, with ticks."""
        until = self.clock.now() + seconds
        while self.clock.now() < until:
            self.clock.advance(min(0.25, until - self.clock.now()))
            self.observer.tick()

    # -- what it tells

    def outcome(self, rollout: str, version: str, outcome: RequestOutcome, count: int) -> None:
        """See ``Events``."""
        self.outcomes[(version, outcome)] += count

    def dropped(self, why: str, count: int) -> None:
        """See ``Events``."""
        self.drops[why] += count

    def surplus(self, rollout: str, version: str, count: int) -> None:
        """See ``Events``."""
        self.surpluses[version] += count

    def tripped(self, rollout: CompiledRollout, version: str, why: str) -> None:
        """See ``Events``."""
        self.reasons.append((version, why))

    def trips(self, in_force: Sequence[LocalTrip], lifted: Sequence[LocalTrip]) -> None:
        """See ``Events``; when and why is left out."""
        self.told.append([trip._replace(at=0.0, why="") for trip in in_force])
        self.lifted += [(trip.version, trip.at) for trip in lifted]

    @property
    def in_force(self) -> list[LocalTrip]:
        """The trips as they were told last."""
        return self.told[-1] if self.told else []
