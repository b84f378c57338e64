"""The worker's tally: decisions by second, arm and version, and each unit once."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from extproc.datapath.model import Buckets
from extproc.datapath.ports import DecisionRecord
from extproc.datapath.sinks import tally as module
from extproc.datapath.sinks.tally import DecisionTally
from extproc.measure import UnitSample
from extproc.names import ARM_EXCLUDED
from tests.support.clock import FakeClock
from tests.support.decisions import make_decided, make_decision, make_request, make_rollout

KEY = "payments/fraud-detector"


@cache
def made(full: bool, stream: bool, **changes: Any) -> DecisionRecord:
    request = make_request(full=full, headers={"upgrade": b"websocket"} if stream else {})
    decision = make_decision(**changes)
    rollout = make_rollout(key=decision.rollout, epoch_id=decision.epoch) if decision.rollout else None
    return make_decided(decision=decision, request=request, rollout=rollout)


class Counting:
    """A tally, and requests that are decided."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.tally = DecisionTally(self.clock)

    def decided(self, unit: int = 1, *, full: bool = False, stream: bool = False, **changes: Any) -> None:
        decided = made(full, stream, **changes)
        facts = decided.facts._replace(buckets=Buckets(123, quotient=unit))
        self.tally.record(decided._replace(facts=facts))


def test_decisions_are_counted_by_arm_version_and_second() -> None:
    counting = Counting()
    second = int(counting.clock.now())
    counting.decided()
    counting.decided()
    counting.decided(version="3")
    counting.clock.advance(1)
    counting.decided()
    assert counting.tally.take().counts == [
        [KEY, 1, "canary", "4", second, 2],
        [KEY, 1, "canary", "3", second, 1],
        [KEY, 1, "canary", "4", second + 1, 1],
    ]
    assert counting.tally.take().counts == []


def test_what_may_be_a_stream_is_told_apart() -> None:
    counting = Counting()
    second = int(counting.clock.now())
    for _ in range(3):
        counting.decided(stream=True)
    counting.decided()
    assert counting.tally.take().counts == [
        [KEY, 1, "canary", "4", second, 3, True],
        [KEY, 1, "canary", "4", second, 1],
    ]


def test_a_clock_that_is_set_back_does_not_take_the_tally_along() -> None:
    counting = Counting()
    second = int(counting.clock.now())
    counting.decided()
    counting.clock.set_back(3600)
    counting.decided()
    assert counting.tally.take().counts == [[KEY, 1, "canary", "4", second, 2]]


@pytest.mark.parametrize(
    "changes", [{"rollout": None, "arm": None, "version": None}, {"version": None, "arm": ARM_EXCLUDED}, {"full": True}]
)
def test_what_envoy_does_not_tell_of_is_not_counted(changes: dict[str, Any]) -> None:
    counting = Counting()
    counting.decided(**changes)
    assert counting.tally.take() == module.Tallied()


def test_units_are_told_once_with_their_arm_and_the_excluded_not_at_all() -> None:
    counting = Counting()
    counting.decided(1)
    counting.decided(1)
    counting.decided(2, arm="control", version="3")
    counting.decided(3, arm=ARM_EXCLUDED)
    assert counting.tally.take().units == [[KEY, 1, [(1, "canary"), (2, "control")]]]
    counting.decided(1)
    assert counting.tally.take().units == []


def test_who_begins_to_listen_hears_of_every_unit_again() -> None:
    counting = Counting()
    counting.decided(1)
    counting.tally.take()
    counting.tally.begin_anew()
    counting.decided(1)
    assert counting.tally.take().units == [[KEY, 1, [(1, "canary")]]]


def test_what_is_told_adds_up_to_the_sample_of_all_units() -> None:
    counting, heard = Counting(), UnitSample()
    wanted = UnitSample((unit * 7919 % 100_003, "canary") for unit in range(20_000))
    for unit in range(20_000):
        counting.decided(unit * 7919 % 100_003)
        if unit % 1000 == 0:
            for _, _, units in counting.tally.take().units:
                for one in units:
                    heard.add(*one)
    for _, _, units in counting.tally.take().units:
        for one in units:
            heard.add(*one)
    assert heard.to_json() == wanted.to_json()


def test_units_that_there_is_no_room_for_are_told_when_they_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NEW_UNITS", 2)
    counting = Counting()
    for unit in range(3):
        counting.decided(unit)
    assert counting.tally.take().units == [[KEY, 1, [(0, "canary"), (1, "canary")]]]
    counting.decided(2)
    assert counting.tally.take().units == [[KEY, 1, [(2, "canary")]]]


def test_units_of_old_epochs_and_of_rollouts_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SAMPLES", 2)
    counting = Counting()
    for epoch in range(5):
        counting.decided(1, epoch=epoch)
        counting.tally.take()
    assert len(counting.tally._samples) <= 2
    counting.tally.retain([])
    assert counting.tally._samples == {}


def test_many_epochs_share_the_room_for_units() -> None:
    counting = Counting()
    for epoch in range(200):
        for unit in range(30):
            counting.decided(unit, epoch=epoch)
    for unit in range(8000):
        counting.decided(unit, epoch=0)
    counting.tally.take()
    assert len(counting.tally._samples[(KEY, 0)]) <= 64 * 4096 / 200
