"""Rises that are asked for at almost the same moment: no unit goes to the canary, back, and there again.

What workers do is simulated by their rule: each looks at the store every tenth of a second or somewhat later, and goes
by the row that it read last. Whatever is written when, a weight that only ever rises is never seen to fall, in no
worker and between none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.control.acting import act
from extproc.control.actions import Change, Promote, Restore, SetWeight
from extproc.store.ports import POLL_SECONDS, RAISE_DELAY_SECONDS, ActionStore
from extproc.store.records import StoredRollout, Write
from extproc.store.status import Status
from tests.support.clock import FakeClock
from tests.support.rollouts import CANARY, document

START = 1_800_000_000.0
NAME = ("payments", "fraud-detector")


@dataclass
class OneRow:
    """A store of one rollout whose writes wait for a lock; what was committed when."""

    clock: FakeClock
    status: Status = field(default_factory=lambda: Status(stable="3", canary="4"))
    locked: float = 0.0
    commits: list[tuple[float, Status]] = field(default_factory=list)

    def get(self, namespace: str, name: str) -> StoredRollout:
        return StoredRollout(namespace, name, document(CANARY, name), self.status, len(self.commits))

    def write(self, writes: Sequence[Write], **_: Any) -> Sequence[StoredRollout]:
        (write,) = writes
        assert write.status is not None
        self.clock.advance(self.locked)
        self.status = write.at_commit(write.status)
        self.commits.append((self.clock.now(), self.status))
        return [self.get(*NAME)]

    def do(self, action: Change) -> None:
        act(cast(ActionStore, self), "alice", action, self.clock)


@dataclass
class Worker:
    """A worker that reads the store at ``looks``; each row takes effect at once, or when its rise is due."""

    looks: list[float]

    def weights(self, commits: Sequence[tuple[float, Status]], instants: Sequence[float]) -> list[int]:
        found = []
        for instant in instants:
            looked = max(look for look in self.looks if look <= instant)
            seen = [status for at, status in commits if at <= looked]
            found.append(seen[-1].weight_at(instant) if seen else 0)
        return found


gaps = st.floats(0.001, 0.6)
rises = st.lists(st.tuples(gaps, st.integers(1, 900), st.floats(0, 0.5)), min_size=2, max_size=8)
late = st.floats(0.0, RAISE_DELAY_SECONDS - POLL_SECONDS - 0.001)


@given(rises, st.lists(late, min_size=3, max_size=3), st.data())
def test_a_weight_that_only_rises_is_never_seen_to_fall(
    asked: list[tuple[float, int, float]], phases: list[float], data: st.DataObject
) -> None:
    clock = FakeClock(START)
    store = OneRow(clock)
    weight = 0
    for gap, more, locked in asked:
        clock.advance(gap)
        weight, store.locked = weight + more, locked
        store.do(SetWeight(*NAME, weight))
    instants = sorted(
        {START + 0.01}
        | {
            moment + late
            for at, status in store.commits
            for moment in (at, status.effective_at)
            for late in (0.0, 1e-4, 0.05)
        }
    )
    end = instants[-1] + 1
    workers = []
    for phase in phases:
        looks = [START - phase]
        while looks[-1] < end:
            looks.append(looks[-1] + POLL_SECONDS + data.draw(late, label="late"))
        workers.append(Worker(looks))
    seen = [sorted(weights) for weights in zip(*(w.weights(store.commits, instants) for w in workers), strict=True)]
    for before, after in pairwise(seen):
        assert before[-1] <= after[0], "what one worker gave, no worker takes back"
    assert seen[-1] == [weight] * 3


@pytest.mark.parametrize("second", [SetWeight(*NAME, 2000), Promote(*NAME, full=True)])
def test_a_second_rise_is_written_when_the_first_is_in_force(second: Change) -> None:
    clock = FakeClock(START)
    store = OneRow(clock)
    store.do(SetWeight(*NAME, 1000))
    clock.advance(0.05)
    store.do(second)
    (_, first), (at, later) = store.commits
    assert at >= first.effective_at
    assert later.effective_at >= at + RAISE_DELAY_SECONDS - 1e-6
    assert later.previous_weight == 1000


def test_what_takes_away_waits_for_no_rise() -> None:
    clock = FakeClock(START)
    store = OneRow(clock)
    store.do(SetWeight(*NAME, 1000))
    store.do(SetWeight(*NAME, 0))
    assert [at for at, _ in store.commits] == [START, START]
    assert store.status.weight_at(START) == 0


def test_a_restore_waits_for_the_rise_that_a_kill_hid() -> None:
    clock = FakeClock(START)
    store = OneRow(clock, Status(stable="3", canary="4", killed=True))
    store.do(SetWeight(*NAME, 1000))
    store.do(Restore(*NAME))
    (_, first), (at, restored) = store.commits
    assert at >= first.effective_at
    assert (restored.weight_at(at), restored.weight_at(at + RAISE_DELAY_SECONDS)) == (0, 1000)
