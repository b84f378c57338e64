"""What /metrics says of where rollouts stand: at 0 before anything happens, while there is something to see."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from extproc.metrics.catalogue import (
    ABORTS,
    KILLS,
    ROLLOUT_KILLED,
    ROLLOUT_PHASE,
    ROLLOUT_TRIPPED,
    ROLLOUT_WEIGHT,
    TRIPS,
    Counter,
    Gauge,
)
from extproc.serve.supervisor.rollout_gauges import RolloutGauges
from extproc.snapshot.trips import LocalTrip
from tests.support.clock import FakeClock
from tests.support.memory_store import MemoryStore
from tests.support.rollouts import EXPERIMENT

KEY = "payments/fraud-detector"
Series = dict[tuple[Counter | Gauge, tuple[str, ...]], float]


class Environment:
    """A store, what the host holds by itself, and what is told of both."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.trips: list[LocalTrip] = []
        self.killed: list[str] = []
        self.clock = FakeClock()
        self.said: list[str] = []
        self.gauges = RolloutGauges(
            lambda: self.store,  # type: ignore[arg-type, return-value]
            self,
            self.clock,
            self.said.append,
        )

    def refresh(self) -> Series:
        """The series after another look."""
        asyncio.run(self.gauges.refresh())
        return self.series

    @property
    def series(self) -> Series:
        """As they are read for a scrape."""
        return {(metric, labels): value for metric, labels, value in self.gauges.rows()}


@pytest.fixture
def environment() -> Environment:
    return Environment()


def counts(series: Series) -> dict[Counter | Gauge, float]:
    return {metric: value for (metric, _), value in series.items() if metric in (TRIPS, ABORTS, KILLS)}


def test_a_canary_has_all_its_series_before_anything_happened_to_it(environment: Environment) -> None:
    environment.store.put(weight=500)
    assert environment.refresh() == {
        (ROLLOUT_WEIGHT, (KEY,)): 5,
        (ROLLOUT_PHASE, (KEY, "Progressing")): 1,
        (ROLLOUT_KILLED, (KEY,)): 0,
        (ROLLOUT_TRIPPED, (KEY, "4")): 0,
        (TRIPS, (KEY, "4")): 0,
        (ABORTS, (KEY,)): 0,
        (KILLS, (KEY,)): 0,
    }


@pytest.mark.parametrize(
    ("happens", "counted"),
    [({"tripped": ("4",)}, TRIPS), ({"aborted": ("4",), "phase": "Degraded"}, ABORTS), ({"killed": True}, KILLS)],
)
def test_what_is_taken_away_is_counted_each_time_and_seen_while_it_lasts(
    environment: Environment, happens: Mapping[str, Any], counted: Counter
) -> None:
    nothing = dict.fromkeys((TRIPS, ABORTS, KILLS), 0)
    environment.store.put()
    environment.refresh()
    for times in (1, 2):
        environment.store.put(**happens)
        series = environment.refresh()
        assert counts(environment.refresh()) == counts(series) == {**nothing, counted: times}
        assert series[ROLLOUT_TRIPPED, (KEY, "4")] == (counted == TRIPS)
        assert series[ROLLOUT_KILLED, (KEY,)] == (counted == KILLS)
        environment.store.put()
        assert counts(environment.refresh()) == {**nothing, counted: times}


def test_what_this_host_holds_counts_before_the_store_has_it_and_not_again_when_it_has(
    environment: Environment,
) -> None:
    environment.store.put()
    environment.refresh()
    environment.trips, environment.killed = (
        [LocalTrip(KEY, "4", 1), LocalTrip(KEY, "4", 0), LocalTrip("gone", "4", 1)],
        [KEY],
    )
    environment.gauges.held_changed()
    assert counts(environment.series) == {TRIPS: 1, ABORTS: 0, KILLS: 1}
    environment.store.put(tripped=("4",), killed=True)
    assert counts(environment.refresh()) == {TRIPS: 1, ABORTS: 0, KILLS: 1}
    environment.trips, environment.killed = [], []
    assert counts(environment.refresh()) == {TRIPS: 1, ABORTS: 0, KILLS: 1}


def test_what_happened_before_the_first_look_is_seen_and_not_counted(environment: Environment) -> None:
    environment.store.put(tripped=("4",), aborted=("4",), killed=True)
    series = environment.refresh()
    assert counts(series) == {TRIPS: 0, ABORTS: 0, KILLS: 0}
    assert (series[ROLLOUT_TRIPPED, (KEY, "4")], series[ROLLOUT_KILLED, (KEY,)]) == (1, 1)


def test_a_rollout_that_is_not_under_way_has_series_only_while_something_of_it_is_taken_away(
    environment: Environment,
) -> None:
    environment.store.put(tripped=("4",))
    environment.refresh()
    environment.store.put(stable="4", canary="4", phase="Healthy")
    assert environment.refresh() == {}
    environment.killed = [KEY]
    assert counts(environment.refresh()) == {ABORTS: 0, KILLS: 1}
    environment.killed = []
    assert environment.refresh() == {}
    environment.store.put(stable="4", canary="4", tripped=("4",))
    assert environment.refresh()[ROLLOUT_TRIPPED, (KEY, "4")] == 1
    environment.store.delete("fraud-detector")
    assert environment.refresh() == {}


def test_an_experiment_has_a_series_for_each_variant_but_the_control(environment: Environment) -> None:
    environment.store.put(spec=EXPERIMENT, stable="3", canary=None, phase="Healthy")
    series = environment.refresh()
    assert {labels for name, labels in series if name == TRIPS} == {(KEY, "4")}
    assert ROLLOUT_WEIGHT not in {name for name, _ in series}


def test_a_rise_is_told_when_it_is_in_force_and_not_before(environment: Environment) -> None:
    environment.store.put(weight=5000, previous_weight=500, effective_at=environment.clock.now() + 0.2)
    assert environment.refresh()[ROLLOUT_WEIGHT, (KEY,)] == 5
    environment.clock.advance(0.2)
    assert environment.series[ROLLOUT_WEIGHT, (KEY,)] == 50


def test_a_store_that_is_away_or_damaged_takes_no_series_away(environment: Environment) -> None:
    environment.store.put()
    before = environment.refresh()
    environment.store.place.fault = "store_locked"
    assert environment.refresh() == before
    environment.store.place.fault = ""
    environment.store.damage("fraud-detector")
    assert environment.refresh() == before


def test_the_labels_are_those_of_the_metrics(environment: Environment) -> None:
    environment.store.put()
    assert all(len(values) == len(metric.labels) for metric, values in environment.refresh())


def test_a_store_that_is_lost_is_told_once_and_so_is_its_return(environment: Environment) -> None:
    environment.store.put(weight=500)
    series = environment.refresh()
    for code in ("store_locked", "store_locked", "", ""):
        environment.store.place.fault = code
        environment.clock.advance(1)
        assert environment.refresh() == series, "where rollouts stood last is what is served"
    lost, back = environment.said
    assert (lost.startswith("store: "), "store_locked" in lost, "is served on" in lost) == (True, True, True)
    assert back == "store: well again after 2.0 s"
