"""What stands before an engine that is asked over the network: on a schedule that the test keeps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from extproc.datapath.circuit import MOST_FAILED, PROBE_SECONDS, WINDOW, Circuit
from extproc.datapath.model import PolicyVerdict
from extproc.datapath.policy_input import EVERYTHING, InputPaths
from extproc.datapath.remote_policies import MAX_REMEMBERED, RemotePolicies
from extproc.errors import InvalidInput
from extproc.names import Reason
from extproc.snapshot.model import PolicyUse
from tests.support.clock import FakeClock

RULE = PolicyUse("routing/decision", None, timeout=0.001)
PATIENT = PolicyUse("routing/decision", None, timeout=20.0)
REMEMBERING = PolicyUse("routing/decision", None, timeout=20.0, remember=2.0)
AWAY = PolicyVerdict(allow=False, fault=Reason.POLICY_UNAVAILABLE)
Say = Callable[[str, Mapping[str, Any]], PolicyVerdict | None]


class Elsewhere:
    """An engine that answers as ``say`` has it; on None it does not, until it is ``let_go``."""

    revision = "elsewhere"

    def __init__(self, say: Say = lambda *_: PolicyVerdict(version="3", revision="r1")) -> None:
        self.say = say
        self.asked: list[Mapping[str, Any]] = []
        self.withins: list[float] = []
        self._hanging: list[asyncio.Future[PolicyVerdict]] = []
        self.reopened = 0

    async def ask(self, path: str, document: Mapping[str, Any], within: float) -> PolicyVerdict:
        self.asked.append(document)
        self.withins.append(within)
        said = self.say(path, document)
        if said is not None:
            return said
        hanging: asyncio.Future[PolicyVerdict] = asyncio.get_running_loop().create_future()
        self._hanging.append(hanging)
        return await hanging

    def let_go(self, verdict: PolicyVerdict) -> None:
        """Answer what hangs."""
        for hanging in self._hanging:
            if not hanging.done():
                hanging.set_result(verdict)
        self._hanging.clear()

    def known(self, path: str, document: Mapping[str, Any]) -> None:
        return None

    def reads(self, path: str) -> InputPaths:
        return EVERYTHING

    def can_deny(self, path: str) -> bool:
        return True

    def has(self, path: str) -> bool:
        return True

    def reopen(self) -> None:
        self.reopened += 1
        if self.reopened > 1:
            raise InvalidInput.of("file_unreadable", "the token-file cannot be read", field="--policy-engine")

    async def close(self) -> None:
        """Nothing to let go of."""


class Schedule:
    """Sleeps that end when the test says so."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._sleeping: list[asyncio.Event] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        waking = asyncio.Event()
        self._sleeping.append(waking)
        await waking.wait()

    async def pass_by(self) -> None:
        """Let those who sleep go on, and do what they have to."""
        await turn()
        sleeping, self._sleeping = self._sleeping, []
        for waking in sleeping:
            waking.set()
        await turn()


async def turn() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def remote(engine: Elsewhere, clock: FakeClock | None = None, **options: Any) -> tuple[RemotePolicies, Schedule]:
    schedule = Schedule()
    return RemotePolicies(engine, clock or FakeClock(), sleep=schedule.sleep, **options), schedule


async def ask(policies: RemotePolicies, use: PolicyUse, **document: Any) -> PolicyVerdict:
    return await policies.fetch(use, document, use.timeout)


async def open_circuit(policies: RemotePolicies, use: PolicyUse = PATIENT) -> None:
    """By an engine that is away."""
    for number in range(MOST_FAILED):
        assert (await ask(policies, use, number=number)).fault is Reason.POLICY_UNAVAILABLE
    await turn()


def test_a_circuit_opens_when_half_of_the_latest_questions_failed_and_begins_anew_when_it_is_closed() -> None:
    circuit = Circuit()
    for _ in range(WINDOW):
        assert not circuit.note(in_time=True)
    assert [circuit.note(in_time=False) for _ in range(MOST_FAILED)] == [False] * (MOST_FAILED - 1) + [True]
    assert circuit.is_open
    assert not circuit.note(in_time=False)
    circuit.close()
    assert not any(circuit.note(in_time=number % 2 == 0) for number in range(MOST_FAILED * 2 - 2))
    assert not circuit.is_open


async def test_the_same_question_at_the_same_time_is_asked_once_and_another_by_itself() -> None:
    engine = Elsewhere(lambda *_: None)
    policies, _ = remote(engine)
    asking = [asyncio.create_task(ask(policies, PATIENT, tenant=tenant)) for tenant in ("a", "b", "a", "a")]
    other_rule = asyncio.create_task(ask(policies, PolicyUse("routing/other", None, timeout=20.0), tenant="a"))
    await turn()
    assert engine.asked == [{"tenant": "a"}, {"tenant": "b"}, {"tenant": "a"}]
    engine.let_go(PolicyVerdict(version="4"))
    assert {(await each).version for each in (*asking, other_rule)} == {"4"}
    assert (policies.questions, policies.joined) == (3, 2)


async def test_nobody_joins_a_question_that_was_too_late_for_another() -> None:
    engine = Elsewhere(lambda *_: None)
    policies, _ = remote(engine)
    assert (await ask(policies, RULE, tenant="a")).fault is Reason.POLICY_TIMEOUT
    engine.say = lambda *_: PolicyVerdict(version="4")
    assert (await ask(policies, RULE, tenant="a")).version == "4"
    assert (policies.questions, policies.joined) == (2, 0)
    await policies.close()


async def test_documents_that_wait_longer_do_not_share_the_questions_of_those_that_wait_less() -> None:
    engine = Elsewhere(lambda *_: None)
    policies, _ = remote(engine)
    patient = asyncio.create_task(ask(policies, PATIENT, tenant="a"))
    await turn()
    for _ in range(MOST_FAILED):
        assert (await ask(policies, RULE, tenant="a")).fault is Reason.POLICY_TIMEOUT
    assert (await ask(policies, RULE, tenant="a")).fault is Reason.POLICY_UNAVAILABLE
    joining = asyncio.create_task(ask(policies, PATIENT, tenant="a"))
    await turn()
    engine.let_go(PolicyVerdict(version="4"))
    assert {(await patient).version, (await joining).version} == {"4"}
    assert policies.joined == 1
    await policies.close()


async def test_what_was_asked_for_one_that_remembers_nothing_is_remembered_for_one_that_joins_and_does() -> None:
    engine = Elsewhere(lambda *_: None)
    policies, _ = remote(engine)
    asking = [asyncio.create_task(ask(policies, use)) for use in (PATIENT, REMEMBERING)]
    await turn()
    engine.let_go(PolicyVerdict(version="4"))
    await asyncio.gather(*asking)
    assert (await ask(policies, REMEMBERING)).version == "4"
    assert (policies.questions, policies.joined, policies.remembered) == (1, 1, 1)


async def test_an_end_in_the_middle_of_a_fault_is_not_told_as_the_end_of_the_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policies, _ = remote(Elsewhere(lambda *_: AWAY))
    await open_circuit(policies)
    told: list[None] = []
    policies.on_change.append(lambda: told.append(None))
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        await policies.close()
    assert (told, caplog.records) == ([], [])


async def test_a_request_that_is_given_up_takes_the_question_from_nobody() -> None:
    engine = Elsewhere(lambda *_: None)
    policies, _ = remote(engine)
    first, second = (asyncio.create_task(ask(policies, PATIENT, tenant="a")) for _ in range(2))
    await turn()
    first.cancel()
    await turn()
    engine.let_go(PolicyVerdict(version="4"))
    assert (await second).version == "4"


async def test_a_question_goes_on_for_a_second_or_as_long_as_a_document_waits() -> None:
    engine = Elsewhere()
    policies, _ = remote(engine)
    await ask(policies, RULE)
    await ask(policies, PATIENT, other=1)
    assert engine.withins == [1.0, 20.0]


async def test_questions_under_way_are_bounded_and_those_beyond_say_nothing_against_the_engine() -> None:
    engine = Elsewhere(lambda *_: None)
    policies, _ = remote(engine, max_pending=2)
    asking = [asyncio.create_task(ask(policies, PATIENT, number=number)) for number in range(2)]
    await turn()
    for number in range(100):
        assert (await ask(policies, PATIENT, number=2 + number)).fault is Reason.POLICY_TIMEOUT
    assert policies.fault is None
    engine.let_go(PolicyVerdict(version="4"))
    assert {(await each).version for each in asking} == {"4"}
    engine.say = lambda *_: PolicyVerdict(version="5")
    assert (await ask(policies, PATIENT)).version == "5"
    await policies.close()


async def test_nothing_is_remembered_that_the_document_does_not_say() -> None:
    engine = Elsewhere()
    policies, _ = remote(engine)
    for _ in range(3):
        await ask(policies, PATIENT, tenant="a")
    assert (policies.questions, policies.remembered) == (3, 0)


async def test_a_verdict_is_remembered_for_as_long_as_the_document_says_from_when_it_was_asked() -> None:
    engine, clock = Elsewhere(lambda *_: None), FakeClock()
    policies, _ = remote(engine, clock)
    asking = asyncio.create_task(ask(policies, REMEMBERING, tenant="a"))
    await turn()
    clock.advance(1.5)
    engine.let_go(PolicyVerdict(version="4"))
    assert (await asking).version == "4"
    engine.say = lambda *_: PolicyVerdict(version="5")
    clock.advance(0.5)
    assert (await ask(policies, REMEMBERING, tenant="a")).version == "4"
    assert (await ask(policies, PATIENT, tenant="a")).version == "5"
    assert (await ask(policies, REMEMBERING, tenant="b")).version == "5"
    clock.advance(0.001)
    assert (await ask(policies, REMEMBERING, tenant="a")).version == "5"


@pytest.mark.parametrize(
    "verdict",
    [
        PolicyVerdict(fault=Reason.POLICY_UNDEFINED),
        PolicyVerdict(allow=False, fault=Reason.POLICY_INVALID),
        PolicyVerdict(allow=False, reason="x" * 2000),
    ],
)
async def test_what_is_no_verdict_or_large_is_not_remembered(verdict: PolicyVerdict) -> None:
    engine = Elsewhere(lambda *_: verdict)
    policies, _ = remote(engine)
    for _ in range(2):
        assert await ask(policies, REMEMBERING) == verdict
    assert policies.questions == 2


async def test_another_revision_drops_what_was_remembered_and_is_told() -> None:
    engine, told = Elsewhere(), []
    policies, _ = remote(engine)
    policies.on_change.append(lambda: told.append(policies.revision))
    assert policies.revision == "elsewhere"
    await ask(policies, REMEMBERING, tenant="a")
    engine.say = lambda *_: PolicyVerdict(version="4", revision="r2")
    assert (await ask(policies, REMEMBERING, tenant="a")).version == "3"
    await ask(policies, REMEMBERING, tenant="b")
    assert (await ask(policies, REMEMBERING, tenant="a")).version == "4"
    engine.say = lambda *_: PolicyVerdict(fault=Reason.POLICY_ERROR)
    await ask(policies, PATIENT, tenant="c")
    assert (policies.revision, told) == ("r2", ["r1", "r2"])


async def test_what_is_remembered_is_bounded_and_the_oldest_leaves() -> None:
    policies, _ = remote(Elsewhere())
    for number in range(MAX_REMEMBERED + 1):
        await ask(policies, REMEMBERING, number=number)
    await ask(policies, REMEMBERING, number=1)
    assert policies.remembered == 1
    await ask(policies, REMEMBERING, number=0)
    assert policies.remembered == 1


async def test_an_engine_that_is_away_is_left_alone_and_asked_again_when_a_probe_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine, changes = Elsewhere(lambda *_: AWAY), []
    policies, schedule = remote(engine)
    policies.on_change.append(lambda: changes.append(policies.fault is None))
    with caplog.at_level(logging.WARNING):
        await open_circuit(policies)
    for number in range(1000):  # decided at once: nobody is asked
        assert (await ask(policies, PATIENT, number=number)).fault is Reason.POLICY_UNAVAILABLE
    assert len(engine.asked) == policies.questions == MOST_FAILED
    assert policies.fault is not None
    assert policies.fault.code == "policy_unavailable"
    assert "elsewhere does not answer for routing/decision" in policies.fault.message
    await schedule.pass_by()  # it is still away
    engine.say = lambda *_: PolicyVerdict(version="4", revision="r2")
    assert (await ask(policies, PATIENT)).fault is Reason.POLICY_UNAVAILABLE
    with caplog.at_level(logging.ERROR):
        await schedule.pass_by()
    assert (policies.fault, policies.revision, policies.openings) == (None, "r2", 1)
    assert (await ask(policies, PATIENT)).version == "4"
    assert schedule.slept == [PROBE_SECONDS] * 2
    assert PROBE_SECONDS < 1  # it is asked again within two seconds from when it is back
    assert changes[0] is False
    assert changes[-1] is True
    assert [record.message.partition(":")[0] for record in caplog.records] == ["policy engine"]


async def test_an_engine_that_hangs_is_left_alone_by_the_questions_that_were_late_and_not_by_who_waited_for_them() -> (
    None
):
    engine = Elsewhere(lambda *_: None)
    policies, schedule = remote(engine)
    for number in range(MOST_FAILED):
        assert policies.fault is None
        verdicts = await asyncio.gather(*(ask(policies, RULE, number=number) for _ in range(50)))
        assert {verdict.fault for verdict in verdicts} == {Reason.POLICY_TIMEOUT}
    assert (await ask(policies, RULE)).fault is Reason.POLICY_UNAVAILABLE
    assert policies.questions == MOST_FAILED
    engine.let_go(PolicyVerdict(version="4"))  # late, and so no sign that it is well
    await turn()
    assert policies.fault is not None
    engine.say = lambda *_: PolicyVerdict(version="4")
    await schedule.pass_by()
    assert (await ask(policies, PolicyUse(RULE.path, None, timeout=RULE.timeout), number=1)).version == "4"


async def test_a_rule_that_is_slow_and_a_timeout_that_is_too_short_take_nothing_from_the_others() -> None:
    engine = Elsewhere(lambda path, _: None if path == "routing/slow" else PolicyVerdict(version="4"))
    policies, _ = remote(engine)
    slow = PolicyUse("routing/slow", None, timeout=0.001)
    for number in range(MOST_FAILED):
        await ask(policies, slow, number=number)
    assert (await ask(policies, slow)).fault is Reason.POLICY_UNAVAILABLE
    assert (await ask(policies, RULE)).version == "4"
    patient = asyncio.create_task(ask(policies, PolicyUse("routing/slow", None, timeout=20.0)))
    await turn()
    engine.let_go(PolicyVerdict(version="5"))
    assert (await patient).version == "5"
    await policies.close()


async def test_an_input_that_takes_for_ever_does_not_keep_the_circuit_open() -> None:
    engine = Elsewhere(lambda _, document: None if document.get("evil") else PolicyVerdict(version="4"))
    policies, schedule = remote(engine)
    await ask(policies, RULE, tenant="a")
    for number in range(MOST_FAILED):
        await ask(policies, RULE, evil=number + 1)
    for _ in range(3):
        assert (await ask(policies, RULE, evil=1)).fault is Reason.POLICY_UNAVAILABLE
    await schedule.pass_by()
    assert engine.asked[-1] == {"tenant": "a"}
    assert (await ask(policies, RULE, tenant="b")).version == "4"
    await policies.close()


async def test_an_error_of_one_input_says_nothing_against_the_engine() -> None:
    engine = Elsewhere(lambda *_: PolicyVerdict(allow=False, fault=Reason.POLICY_ERROR))
    policies, _ = remote(engine)
    for number in range(100):
        assert (await ask(policies, PATIENT, number=number)).fault is Reason.POLICY_ERROR
    assert policies.fault is None


async def test_a_bug_of_an_adapter_ends_at_on_error() -> None:
    def fail(*_: Any) -> PolicyVerdict:
        raise ValueError("a bug")

    policies, _ = remote(Elsewhere(fail))
    verdict = await ask(policies, PATIENT)
    assert (verdict.allow, verdict.fault) == (False, Reason.POLICY_ERROR)


@pytest.mark.parametrize("document", [{"x": "\ud800"}, {"x": 1 << 80}])
async def test_what_cannot_be_compared_is_asked_by_itself(document: dict[str, Any]) -> None:
    engine = Elsewhere()
    policies, _ = remote(engine)
    verdicts = await asyncio.gather(*(policies.fetch(REMEMBERING, document, 20.0) for _ in range(2)))
    assert [verdict.version for verdict in verdicts] == ["3", "3"]
    assert policies.questions == 2


async def test_no_time_left_is_a_timeout_and_no_question() -> None:
    engine = Elsewhere()
    policies, _ = remote(engine)
    assert (await policies.fetch(RULE, {}, -0.1)).fault is Reason.POLICY_TIMEOUT
    assert engine.asked == []


async def test_a_request_with_less_time_than_its_rule_says_nothing_against_the_engine() -> None:
    engine = Elsewhere(lambda *_: None)
    policies, _ = remote(engine)
    for number in range(MOST_FAILED * 2):
        assert (await policies.fetch(PATIENT, {"number": number}, 0.001)).fault is Reason.POLICY_TIMEOUT
    assert policies.fault is None
    await policies.close()


async def test_what_is_given_to_a_rule_of_which_nothing_is_known_is_what_requests_have_in_common() -> None:
    reads = remote(Elsewhere())[0].reads("routing/decision")
    assert reads.include("attributes", "request", "http", "headers", "x-tenant")
    for part in (("time",), ("attributes", "request", "http", "id")):
        assert not reads.include(*part)


async def test_a_file_that_cannot_be_read_again_leaves_all_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    engine = Elsewhere()
    policies, _ = remote(engine)
    policies.reopen()
    with caplog.at_level(logging.WARNING):
        policies.reopen()
    assert engine.reopened == 2
    assert "asked as before" in caplog.text
    assert (await ask(policies, PATIENT)).version == "3"
