"""The leader's breaker: failures that are spread over many hosts, of which each sees too few."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extproc.control import fleet as module
from extproc.control.analysis.servers import MetricServers
from extproc.control.evidence import EvidenceCollector
from extproc.control.fleet import FleetBreaker, Summary
from extproc.errors import Unreachable
from extproc.measure.outcomes import Counts, Ends
from tests.support.observing import BREAKER
from tests.support.reconciling import KEY, Environment
from tests.support.rollouts import CANARY

STEPS: list[dict[str, Any]] = [{"setWeight": 50}, {"pause": {}}]


def ends(requests: int, failures: int, abandoned: int = 0) -> Ends:
    return Ends(Counts(requests, failures), abandoned)


class Fleet:
    """Two hosts' observers whose counts a test adds to, and a controller that looks at them once a second."""

    def __init__(self, folder: Path, **spec: Any) -> None:
        self.environment = Environment(folder)
        self.known: dict[tuple[str, int], Summary] = {}
        self.away = False
        self.environment.apply(steps=STEPS, **{"breaker": BREAKER, **spec})
        monotonic = self.environment.clock.monotonic
        self.breaker = FleetBreaker(self, monotonic)
        collector = EvidenceCollector({}, MetricServers({}, monotonic), monotonic, fleet=self.breaker)
        self.controller = self.environment.controller(evidence=collector)

    def summaries(self, since: float) -> list[Summary]:
        """See ``SummarySource``."""
        if self.away:
            raise Unreachable.of("observations_unreachable", "away")
        return list(self.known.values())

    def saw(self, canary: tuple[int, ...], control: tuple[int, ...], hosts: str = "ab") -> None:
        """So many outcomes, failures and, beside them, abandoned requests more on each host, in the epoch in force."""
        epoch = self.environment.row().status.epoch_id_at(self.environment.clock.now())
        for host in hosts:
            before = self.known.get((host, epoch), Summary(host, KEY, epoch, Ends(), Ends()))
            both = before.canary.plus(ends(*canary)), before.control.plus(ends(*control))
            self.known[host, epoch] = Summary(host, KEY, epoch, *both)

    def tick(self, seconds: int = 1) -> None:
        self.environment.run(self.controller, seconds)

    @property
    def reason(self) -> str:
        return self.environment.row().status.reason


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    fleet.tick(2)
    yield fleet
    fleet.environment.store.close()


def test_a_canary_that_fails_on_all_hosts_together_is_aborted_with_what_was_seen(fleet: Fleet) -> None:
    for _ in range(3):
        fleet.saw((4, 2), (30, 0))
        fleet.tick()
    status = fleet.environment.row().status
    assert (status.weight, status.phase, status.reason) == (0, "Degraded", "breaker_open")
    assert status.aborted == ("4",)
    last = fleet.environment.history()[-1]
    assert (last.action, last.actor) == ("abort", "controller@a")
    assert last.message.endswith("on all hosts together 12 of 24 requests within 10 s failed; of stable's 0 of 180")


def test_failures_in_a_row_are_told_only_where_nothing_succeeded_between_two_ticks(fleet: Fleet) -> None:
    for _ in range(3):
        fleet.saw((30, 5), (30, 0))
        fleet.tick()
    assert fleet.reason == "pause_step"
    fleet.saw((6, 6), (30, 0))
    fleet.tick()
    assert fleet.reason == "breaker_open"


def test_a_canary_that_clients_of_all_hosts_leave_is_aborted(fleet: Fleet) -> None:
    for _ in range(5):
        fleet.saw((1, 0, 3), (30, 0, 1))
        fleet.tick()
    assert fleet.reason == "breaker_open"
    assert "requests within 10 s were abandoned; of stable's" in fleet.environment.history()[-1].message


@pytest.mark.parametrize("both", [(4, 3), (4, 0, 12), (0, 0, 10)])
def test_an_outage_of_both_aborts_nobody(fleet: Fleet, both: tuple[int, ...]) -> None:
    for _ in range(20):
        fleet.saw(both, both)
        fleet.tick()
    assert fleet.reason == "pause_step"


def test_what_came_before_the_first_look_does_not_count(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.saw((50, 50), (50, 0))
    fleet.tick(3)
    fleet.saw((9, 2), (50, 0))
    fleet.tick()
    assert fleet.reason == "pause_step"


def test_a_run_that_begins_while_others_are_watched_counts_from_its_beginning(fleet: Fleet) -> None:
    fleet.saw((30, 15), (50, 0), hosts="c")
    fleet.tick()
    assert fleet.reason == "breaker_open"


def test_a_new_epoch_counts_from_its_beginning_and_an_old_one_no_more(fleet: Fleet) -> None:
    fleet.saw((9, 4), (50, 0))
    fleet.tick()
    fleet.environment.apply(steps=STEPS, canary={"version": "5"}, breaker=BREAKER)
    fleet.tick(3)
    fleet.saw((9, 4), (50, 0))
    fleet.tick()
    assert fleet.reason == "pause_step"
    fleet.saw((9, 4), (50, 0))
    fleet.tick()
    assert fleet.environment.row().status.aborted == ("5",)


@pytest.mark.parametrize(("seconds", "reason"), [(5, "breaker_open"), (15, "pause_step")])
def test_what_was_counted_while_nobody_could_look_counts_if_it_is_recent(
    fleet: Fleet, seconds: int, reason: str
) -> None:
    fleet.saw((5, 0), (50, 0))
    fleet.tick()
    fleet.away = True
    fleet.saw((15, 15), (50, 0))
    fleet.tick(seconds)
    assert fleet.reason == "pause_step"
    fleet.away = False
    fleet.tick()
    assert fleet.reason == reason


def test_what_is_remembered_is_bounded_and_what_is_left_out_counts_no_more(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 10)
    fleet.saw((50, 0), (50, 0))
    fleet.tick()
    for epoch in range(1000, 1020):
        fleet.known["a", epoch] = Summary("a", "payments/another", epoch, Ends(), Ends())
    fleet.tick()
    recent = {key: summary for key, summary in fleet.known.items() if summary.rollout == KEY}
    fleet.known = recent
    fleet.tick()
    assert len(fleet.breaker._known) == 2
    fleet.saw((20, 20), (50, 0))
    fleet.tick()
    assert fleet.reason == "breaker_open"


def test_without_a_breaker_nobody_is_aborted(tmp_path: Path) -> None:
    assert "breaker" not in CANARY
    fleet = Fleet(tmp_path, breaker=None)
    for _ in range(5):
        fleet.tick()
        fleet.saw((100, 100), (100, 0))
    assert fleet.reason == "pause_step"


@pytest.mark.parametrize("seconds", [1, 9, 40])
def test_what_was_seen_while_the_store_could_not_be_written_counts_when_it_can(fleet: Fleet, seconds: int) -> None:
    with fleet.environment.place.locked():
        fleet.tick()
        fleet.saw((20, 20), (50, 0))
        fleet.tick(seconds)
        assert fleet.controller.fault is not None
        fleet.saw((0, 0), (50, 0))  # no more is decided for a version that the hosts took away
        fleet.tick()
    fleet.tick()
    assert fleet.reason == "breaker_open"
