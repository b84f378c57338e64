"""Who hangs, by what is in shared memory; and what a rule in quarantine answers."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from extproc.datapath.model import PolicyVerdict
from extproc.datapath.ports import InputReads
from extproc.names import Reason
from extproc.serve import heartbeat
from extproc.serve.heartbeat import ANY_PATH, HeartbeatPage
from extproc.serve.watchdog import HangLimits, Hung, ProcessState, Watchdog, WatchedEngine

MS = 1_000_000
START = 10_000_000 * MS


class Machine:
    """A clock and a worker's CPU time, both moved by hand; the watchdog looks every 50 ms.

    The worker reads the clock ``behind`` nanoseconds late.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        self.behind = 0
        self.cpu = 0.0
        self.waited = 0.0
        self.stopped = False
        self.page = HeartbeatPage.create()
        self.watchdog = Watchdog(HangLimits(evaluation=0.3, hang=2.0), self._state)
        monkeypatch.setattr(heartbeat.time, "monotonic_ns", lambda: self.now - self.behind)

    def _state(self, pid: int) -> ProcessState:
        return ProcessState(self.cpu, self.stopped, self.waited)

    def passes(self, ms: int, *, burning: bool = False, beating: bool = False, waiting: float = 0.0) -> list[Hung]:
        """What the watchdog says by the end of ``ms`` milliseconds, ``waiting`` for a processor for a share of it."""
        for _ in range(ms // 50):
            self.now += 50 * MS
            self.cpu += 0.05 * (1 - waiting) if burning else 0.0
            self.waited += 0.05 * waiting
            if beating:
                self.page.beat()
            hung = self.watchdog.hung([(0, 4711, self.page)], self.now)
            if hung:
                return hung
        return []


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(monkeypatch)
    machine.page.beat()
    yield machine
    machine.page.close()


def test_a_worker_that_beats_is_left_alone(machine: Machine) -> None:
    assert machine.passes(10_000, burning=True, beating=True) == []


def test_an_evaluation_over_the_limit_is_named(machine: Machine) -> None:
    machine.page.begin("routing/decision")
    assert machine.passes(250, burning=True) == []
    (hung,) = machine.passes(150, burning=True)
    assert (hung.worker, hung.path) == (0, "routing/decision")


def test_an_evaluation_that_did_not_get_to_run_is_not_blamed(machine: Machine) -> None:
    machine.page.begin("routing/decision")
    assert machine.passes(1_900) == []
    (hung,) = machine.passes(200)
    assert hung.path is None


def test_many_short_evaluations_are_not_one_long_one(machine: Machine) -> None:
    for _ in range(10):
        machine.page.begin("routing/decision")
        assert machine.passes(150, burning=True) == []
        machine.page.end()


def test_a_worker_that_hangs_outside_of_any_policy_has_longer(machine: Machine) -> None:
    assert machine.passes(1_900, burning=True) == []
    (hung,) = machine.passes(200, burning=True)
    assert hung.path is None


def test_a_worker_that_waits_for_a_processor_does_not_hang(machine: Machine) -> None:
    assert machine.passes(5_000, waiting=1.0) == []
    assert machine.passes(100, beating=True) == []
    assert machine.passes(5_000, waiting=1.0) == []


def test_a_worker_that_waits_for_a_processor_for_too_long_is_replaced_after_all(machine: Machine) -> None:
    (hung,) = machine.passes(6_100, waiting=1.0)
    assert hung.path is None


def test_a_worker_that_hangs_on_a_crowded_machine_is_given_the_time_that_it_ran(machine: Machine) -> None:
    assert machine.passes(3_800, burning=True, waiting=0.5) == []
    (hung,) = machine.passes(300, burning=True, waiting=0.5)
    assert hung.path is None
    assert "used 1.9 s of a processor and waited 1.9 s for one" in hung.evidence


def test_a_stopped_worker_is_replaced_soon_and_no_policy_is_blamed(machine: Machine) -> None:
    machine.page.begin("routing/decision")
    machine.stopped = True
    (hung,) = machine.passes(350)
    assert hung.path is None


def test_a_supervisor_that_was_held_up_itself_gives_everybody_time(machine: Machine) -> None:
    machine.page.begin("routing/decision")
    machine.passes(100, burning=True)
    machine.now += 5_000 * MS
    machine.cpu += 5.0
    assert machine.passes(50) == []
    machine.page.beat()
    machine.page.end()
    assert machine.passes(50) == []


def test_a_machine_that_stood_still_ends_no_worker_that_wakes_up_slowly(machine: Machine) -> None:
    machine.passes(100)
    machine.now += 60_000 * MS
    assert machine.passes(1_900) == []
    (hung,) = machine.passes(200)
    assert hung.path is None


def test_a_worker_that_has_not_beaten_yet_is_not_silent_since_the_machine_started(machine: Machine) -> None:
    machine.page.close()
    machine.page = HeartbeatPage.create()
    assert machine.passes(1_900) == []
    (hung,) = machine.passes(200)
    assert "no heartbeat for 2.0 s" in hung.evidence


def test_a_worker_whose_clock_is_not_the_supervisors_is_known_by_the_beats_that_are_seen(machine: Machine) -> None:
    for jump in (-1_551_000, 1_551_000):  # a machine restored from an image, whose processors' clocks differ
        machine.passes(500, beating=True)
        machine.behind = jump * MS
        assert machine.passes(10_000, beating=True) == []
        assert machine.passes(1_900) == []
        (hung,) = machine.passes(200)
        assert hung.path is None
        machine.watchdog.forget(0)


def test_a_clock_that_jumps_back_under_the_supervisor_gives_everybody_time(machine: Machine) -> None:
    machine.passes(1_000)
    machine.now -= 5_000 * MS
    assert machine.passes(1_900) == []
    (hung,) = machine.passes(200)
    assert hung.path is None


@pytest.mark.parametrize(
    ("does", "ends_by"),
    [("while True: pass", -signal.SIGPROF), ("import time; time.sleep(0.3)", 0)],
    ids=["it spins", "it stands still"],
)
def test_the_dead_man_switch_ends_a_worker_that_spins_and_none_that_stood_still(does: str, ends_by: int) -> None:
    code = f"from extproc.lifeline import arm_dead_man_switch\narm_dead_man_switch(0.05)\n{does}"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == ends_by


def test_paths_survive_a_page_that_is_full(machine: Machine) -> None:
    for number in range(2_000):
        path = f"package_{number}/decision"
        machine.page.begin(path)
        assert machine.page.read().path == path


def test_a_path_that_cannot_be_read_stands_for_all(machine: Machine) -> None:
    machine.page._memory[8:20] = b"\xff" * 12
    assert machine.page.read().path == ANY_PATH


class Engine:
    """Allows everything, and remembers what it was asked."""

    revision = "abc"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def evaluate(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
        self.asked.append(path)
        return PolicyVerdict(reason=path)

    def reads(self, path: str) -> InputReads:
        raise NotImplementedError

    def can_deny(self, path: str) -> bool:
        return path == "routing/bad"


def test_a_rule_in_quarantine_is_not_evaluated_and_others_are(machine: Machine) -> None:
    engine = Engine()
    watched = WatchedEngine(engine, machine.page)
    watched.quarantine(frozenset({"routing/bad"}))
    assert watched.evaluate("routing/bad", {}).fault is Reason.POLICY_QUARANTINED
    assert watched.evaluate("routing/good", {}).reason == "routing/good"
    assert engine.asked == ["routing/good"]
    watched.quarantine(frozenset({ANY_PATH}))
    assert watched.evaluate("routing/good", {}).fault is Reason.POLICY_QUARANTINED
    assert watched.evaluate("routing/good", {}).allow
    assert not watched.evaluate("routing/bad", {}).allow


def test_an_evaluation_is_on_the_page_while_it_lasts(machine: Machine) -> None:
    seen: list[str | None] = []

    class Looking(Engine):
        def evaluate(self, path: str, document: Mapping[str, Any]) -> PolicyVerdict:
            seen.append(machine.page.read().path)
            return PolicyVerdict()

    WatchedEngine(Looking(), machine.page).evaluate("routing/decision", {})
    assert seen == ["routing/decision"]
    assert machine.page.read().path is None
