"""The supervisor's part in a policy shadow: when it is replaced, which rule is to blame, and what it is told."""

from __future__ import annotations

import signal
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from extproc.clock import SystemClock
from extproc.errors import Fault
from extproc.metrics.counting import Metrics
from extproc.metrics.merging import Totals
from extproc.serve.heartbeat import HeartbeatPage
from extproc.serve.memory import GROWTH_BYTES, Memory
from extproc.serve.messages import (
    MaskByPolicies,
    PolicyShadowState,
    RolloutsServed,
    StartPolicyShadow,
    SwapPolicies,
    WantPlans,
)
from extproc.serve.supervisor import policy_shadow
from extproc.serve.supervisor.auxiliary import ProcessEnd
from extproc.serve.supervisor.policy_shadow import PolicyShadowFaults, PolicyShadowKeeper
from extproc.serve.supervisor.policy_trial import Sources
from extproc.serve.watchdog import PATIENCE, ProcessState
from extproc.serve.worker_config import PolicyShadowConfig, PolicyShadowPlan
from extproc.settings import Settings
from tests.support.clock import FakeClock

PID = 4711
RULE = "routing/decision"
STATE = PolicyShadowState("r1", {"counters": [], "gauges": [], "histograms": []}, msgspec.Raw(b"[]"))
HANG = Settings().hang_limit
MEMORY = 1 << 30


class FakeProcess:
    """In the place of ``Auxiliary``: it is told what goes into ``sent``."""

    def __init__(self, command: Any, _warn: Any, _kinds: Any, received: Any, ended: Any, began: Any) -> None:
        self.page = HeartbeatPage(command.inherited[-1])
        self.received, self._ended, self._began = received, ended, began
        self.pid: int | None = None
        self.last_end: ProcessEnd | None = None
        self.sent: list[Any] = []
        self.replaced = 0

    def __class_getitem__(cls, _of: Any) -> type[FakeProcess]:
        return cls

    def start(self) -> None:
        self.pid = PID
        self.sent.clear()
        self._began()

    def send(self, message: Any) -> bool:
        self.sent.append(message)
        return self.pid is not None

    def replace(self) -> None:
        self.replaced += 1

    def end(self, status: int, peak: int = 0) -> None:
        """It ends, and another one takes its place."""
        self.pid, self.last_end = None, ProcessEnd(status, peak)
        self._ended(f"policy shadow/{PID}")
        self.start()


class Shadow:
    """A keeper whose process, clock and folder are the test's."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.warned: list[str] = []
        self.wanted = 0
        self.rollouts: Collection[str] = ()
        self.served: str | None = None
        self.sources = Sources("r1", "one")
        self.faults: list[Fault] = []
        self.state = ProcessState(0.0, stopped=False)
        self.refusals = PolicyShadowFaults("policy shadow", refused=lambda: None, warn=self.warned.append)
        self.keeper = PolicyShadowKeeper(
            PolicyShadowPlan(1_250, 3, PolicyShadowConfig("state.", (), MEMORY), ("shadow",)),
            SimpleNamespace(read=lambda *, empty: self.sources, listing=lambda: ()),  # type: ignore[arg-type]
            SimpleNamespace(run=self._tried),  # type: ignore[arg-type]
            Settings(),
            Metrics(SystemClock()),
            Totals(),
            self.refusals,
            inputs=self._inputs,
            served=lambda: self.served,
            rollouts=lambda: self.rollouts,
            want_plans=self._want,
            say=lambda _line: None,
            warn=self.warned.append,
        )
        process: Any = self.keeper._process
        self.process: FakeProcess = process

    async def _tried(self, _sources: Sources, _inputs: Mapping[str, Any]) -> list[Fault]:
        return self.faults

    async def _inputs(self) -> Mapping[str, Any]:
        return {}

    def _want(self) -> None:
        self.wanted += 1

    def heard(self) -> None:
        self.process.received("policy shadow/1", STATE)

    def passes(self, seconds: float, *, waiting: float = 0.0) -> int:
        """Time passes, for some of which it waits for a processor; how often it was replaced by then."""
        self.clock.advance(seconds)
        self.state = self.state._replace(waited_seconds=self.state.waited_seconds + waiting)
        self.keeper.check()
        return self.process.replaced


@pytest.fixture
async def shadow(monkeypatch: pytest.MonkeyPatch) -> Shadow:
    """One that compares."""
    clock = FakeClock()
    monkeypatch.setattr(policy_shadow, "Auxiliary", FakeProcess)
    monkeypatch.setattr(policy_shadow, "time", clock)
    one = Shadow(clock)
    monkeypatch.setattr(policy_shadow, "process_state", lambda _pid: one.state)
    await one.keeper.sync()
    one.heard()
    return one


def test_silence_in_the_queue_for_a_processor_is_no_hanging_and_other_silence_is(shadow: Shadow) -> None:
    assert shadow.passes(PATIENCE * HANG + 10, waiting=10.1) == 0
    shadow.heard()
    assert shadow.passes(PATIENCE * HANG) == 0
    assert shadow.passes(0.1) == 1
    assert shadow.passes(PATIENCE * HANG) == 1  # the next one has its time


def test_one_that_was_stopped_is_replaced_sooner_and_one_that_begins_later(shadow: Shadow) -> None:
    shadow.state = shadow.state._replace(stopped=True)
    assert shadow.passes(HANG) == 0
    assert shadow.passes(0.1) == 1
    shadow.process.end(-signal.SIGKILL)
    shadow.state = shadow.state._replace(stopped=False)
    assert shadow.passes(PATIENCE * HANG + 1) == 1
    assert shadow.passes(PATIENCE * Settings().start_timeout) == 2


@pytest.mark.parametrize(
    ("status", "peak", "in_rule", "deed"),
    [
        (-signal.SIGPROF, 0, True, "took more than 0.3 s of a processor"),
        (-signal.SIGABRT, 0, True, "crashed it"),
        (-signal.SIGKILL, 2 * GROWTH_BYTES, True, "had grown it by 127 MB"),
        (-signal.SIGKILL, 0, True, None),
        (-signal.SIGABRT, 0, False, None),
        (1, 0, False, None),
    ],
)
def test_a_rule_is_in_quarantine_for_what_it_did_to_the_process_and_not_for_having_run(
    shadow: Shadow, status: int, peak: int, in_rule: bool, deed: str | None
) -> None:
    shadow.process.page.beat(Memory(resident=1 << 20, data=1 << 20, peak=1 << 20))
    if in_rule:
        shadow.process.page.begin(RULE)
    shadow.process.end(status, peak)
    start = shadow.process.sent[0]
    assert isinstance(start, StartPolicyShadow)
    said = shadow.keeper.described()
    assert start.quarantined == said["quarantined"] == ([] if deed is None else [RULE])
    blame = f"in {RULE}, which {deed}; the rule waits for an edit" if deed else f"with status {status}"
    assert said["fault"]["message"] == f"its process ended {blame}"
    assert (said["policy_revision"], shadow.process.page.read().path) == (None, None)


async def test_other_policies_are_taken_over_without_the_quarantine_and_those_that_are_refused_are_not(
    shadow: Shadow,
) -> None:
    shadow.process.page.begin(RULE)
    shadow.process.end(-signal.SIGPROF)
    shadow.sources, shadow.faults = Sources("r2", "two"), [Fault("policy_syntax", "a bracket", "a.rego", 3)]
    await shadow.keeper.sync()
    (fault,) = shadow.refusals.faults
    assert (fault.code, fault.message, fault.file, fault.line) == (
        *("policy_shadow_refused", "a bracket (policy_syntax)", "a.rego", 3),
    )
    assert not [message for message in shadow.process.sent if isinstance(message, SwapPolicies)]
    shadow.faults = []
    await shadow.keeper.sync()
    assert shadow.process.sent[-1] == SwapPolicies("two")
    assert (shadow.refusals.faults, shadow.keeper.described()["quarantined"]) == ([], [])


def test_it_is_told_once_of_what_is_served_and_each_life_anew(shadow: Shadow) -> None:
    shadow.rollouts, shadow.served = frozenset(("a/b",)), "live"
    told = [RolloutsServed(["a/b"]), MaskByPolicies("live")]
    for _ in range(2):
        shadow.keeper.check()
    assert [message for message in shadow.process.sent if message in told] == [told[1], told[0]]
    shadow.process.end(-signal.SIGKILL)
    shadow.keeper.check()
    assert [message for message in shadow.process.sent if message in told] == [told[1], told[0]]
    shadow.process.received("policy shadow/1", WantPlans())
    assert shadow.wanted == 1
    assert shadow.keeper.described()["share"] == 12.5
