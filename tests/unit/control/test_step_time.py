"""The time of a step is counted, whatever somebody does to the wall clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from extproc.control.step_time import MOST_BETWEEN_TICKS, StepTime
from extproc.store.status import Status

NOW = 1_000_000.0
KEY = "payments/fraud-detector"


class Time:
    """Two clocks, one of which people set."""

    def __init__(self) -> None:
        self.wall, self.monotonic = NOW, 50.0
        self.steps = StepTime(lambda: self.monotonic)

    def tick(self, status: Status, passed: float = 1.0, jumped: float = 0.0) -> float:
        self.monotonic += passed
        self.wall += passed + jumped
        self.steps.begin()
        return self.steps.in_step(KEY, status, self.wall)

    def stall(self, status: Status, passed: float = 1.0, jumped: float = 0.0, stalls: bool = True) -> float:
        self.tick(status, passed, jumped)
        return self.steps.stalled(KEY, stalls)


def at(step_at: float, step: int = 1) -> Status:
    return Status(stable="3", canary="4", step=step, step_at=step_at)


def test_who_looks_for_the_first_time_believes_the_wall_clock() -> None:
    assert Time().tick(at(NOW - 40), passed=0) == 40


def test_a_jump_ends_no_step_and_lengthens_none() -> None:
    time = Time()
    time.tick(at(NOW), passed=0)
    assert time.tick(at(NOW), passed=10, jumped=3600) == 10
    assert time.tick(at(NOW), passed=10, jumped=-7200) == 20


def test_a_step_that_begins_just_before_a_jump_has_lasted_no_longer_than_since_the_last_tick() -> None:
    time = Time()
    time.tick(at(NOW - 100, step=0), passed=0)
    assert time.tick(at(NOW + 0.5, step=1), passed=1, jumped=3600) == 1


def test_a_rollout_that_was_not_looked_at_for_a_while_is_looked_at_for_the_first_time_again() -> None:
    time = Time()
    time.tick(at(NOW), passed=0)
    time.steps.begin()
    time.steps.begin()
    assert time.tick(at(NOW), passed=10, jumped=5) == 15


def test_what_stalls_is_counted_by_looks_in_a_row_whatever_the_clock_does() -> None:
    time = Time()
    assert time.stall(at(NOW - 900), passed=0) == 0, "nobody saw what was before"
    assert time.stall(at(NOW - 900), passed=10, jumped=3600) == 10
    assert time.stall(at(NOW - 900), passed=10, jumped=-7200) == 20
    assert time.stall(at(NOW - 900), passed=10, stalls=False) == 20, "it waited for a person"
    assert time.stall(at(NOW - 900), passed=MOST_BETWEEN_TICKS + 1) == 20, "no controller was there"
    assert time.stall(at(NOW - 900), passed=10) == 30
    assert time.stall(at(NOW), passed=10) == 0, "another step"


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(-5000, 5000)), min_size=1, max_size=20))
def test_a_step_lasts_as_long_as_time_passed(looks: list[tuple[float, float]]) -> None:
    time = Time()
    time.tick(at(NOW), passed=0)
    passed = 0.0
    for seconds, jumped in looks:
        passed += seconds
        assert abs(time.tick(at(NOW), seconds, jumped) - passed) < 1e-6
