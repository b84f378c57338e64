"""What a rule does to the memory of a worker: it is taken out for what it did, and for nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from extproc.serve.memory import GROWTH_BYTES
from extproc.serve.watchdog import process_state
from tests.e2e.environment import PATH, Environment
from tests.support.process import wait_for

pytestmark = pytest.mark.e2e

SLOW = "count([1 | some a in numbers.range(1, 2000); some b in numbers.range(1, 2000); a * b == -1]) == 0"
RULES = f"""
package routing
import rego.v1

default decision := {{"allow": true}}

decision := {{"allow": true, "reason": "large"}} if {{
    input.attributes.request.http.headers["x-bomb"]
    large := concat("", ["{"x" * 900}" | some _ in numbers.range(1, 400)])
    huge := concat("", [large | some _ in numbers.range(1, 1000)])
    {SLOW}
    startswith(huge, "x")
}}

decision := {{"allow": true, "reason": "slow"}} if {{
    input.attributes.request.http.headers["x-slow"]
    {SLOW}
}}

other := {{"allow": true}}
"""
"""A rule that takes 320 MB at once for one request, and seconds alone for another; and one beside it."""

PATIENT = {"DROPOUT_EVALUATION_LIMIT": "100", "DROPOUT_HANG_LIMIT": "100"}
"""Not what a rule takes of time is asked here."""


@contextmanager
def running(memory: str) -> Iterator[Environment]:
    """An environment with workers of so much memory, whose two rollouts ask a rule each."""
    environment = Environment(RULES, {"policy": {"path": "routing/decision", "onError": "stable"}}, **PATIENT)
    environment.dropout.write_rollout("other", match=[{"path": {"value": "/other"}}], policy={"path": "routing/other"})
    environment.dropout.options += ("--worker-memory", memory)
    try:
        yield environment.start()
    finally:
        environment.stop()


def resident(pid: int) -> int:
    """Bytes that a process has in memory; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def first(pids: Sequence[int], holds: Callable[[int], bool]) -> int:
    """The first process of which something holds, as soon as it does."""
    return wait_for(lambda: next(filter(holds, pids), None), "a worker that is in the rule")


def still_decides(environment: Environment) -> None:
    """Other rules are evaluated, and other requests of a rule in quarantine answered."""
    assert environment.ask("/other").status == 200
    assert environment.ask(PATH, x_user_id="u").status == 200


def large(environment: Environment) -> bool:
    """Whether requests are decided by the rule that was mended."""
    before = environment.dropout.metric("dropout_decisions_total", reason="policy_quarantined")
    answers = [environment.ask(PATH, x_bomb="1", x_user_id=str(number)) for number in range(8)]
    assert {answer.status for answer in answers} == {200}
    return environment.dropout.metric("dropout_decisions_total", reason="policy_quarantined") == before


def test_a_rule_that_asks_for_more_than_a_worker_may_hold_is_quarantined_until_it_is_mended() -> None:
    with running("320M") as environment:
        assert environment.ask(PATH, x_bomb="1").status == 200
        wait_for(lambda: environment.dropout.snapshot()["quarantined"] == ["routing/decision"], "a quarantine")
        assert "ended in routing/decision, which " in environment.dropout.log()
        assert environment.dropout.metric("dropout_workers_replaced_total") <= 2
        still_decides(environment)
        assert environment.ask(PATH, x_bomb="1").upstream == "fraud-detector-v3"
        assert environment.dropout.metric("dropout_decisions_total", reason="policy_quarantined") >= 1
        environment.dropout.write_policy(
            RULES.replace("numbers.range(1, 1000)]", "numbers.range(1, 2)]").replace(SLOW, "true")
        )
        wait_for(lambda: environment.dropout.snapshot()["quarantined"] == [], "the mended rule")
        wait_for(lambda: large(environment), "what the mended rule says, by either worker")


def test_a_rule_that_a_worker_had_grown_in_when_it_was_killed_is_quarantined_and_a_harmless_one_is_not() -> None:
    with running("0") as environment, ThreadPoolExecutor(1) as elsewhere:
        pids = environment.dropout.worker_pids()
        before = {pid: process_state(pid).cpu_seconds for pid in pids}

        asked = elsewhere.submit(environment.ask, PATH, x_slow="1")
        busy = first(pids, lambda pid: process_state(pid).cpu_seconds > before[pid] + 0.3)
        os.kill(busy, signal.SIGKILL)
        assert asked.result(60).status == 200
        wait_for(lambda: environment.dropout.metric("dropout_workers_replaced_total") == 1, "another worker")
        assert environment.dropout.snapshot()["quarantined"] == []

        pids = environment.dropout.worker_pids()
        held = {pid: resident(pid) for pid in pids}
        asked = elsewhere.submit(environment.ask, PATH, x_bomb="1")
        grown = first(pids, lambda pid: resident(pid) > held[pid] + 2 * GROWTH_BYTES)
        os.kill(grown, signal.SIGKILL)
        assert asked.result(60).status == 200
        wait_for(lambda: environment.dropout.snapshot()["quarantined"] == ["routing/decision"], "a quarantine")
        assert "ended in routing/decision, which had grown it by " in environment.dropout.log()
        still_decides(environment)
