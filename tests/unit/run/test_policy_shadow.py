"""What the policy shadow's process counts and writes of what it is shown."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from extproc.datapath.policy_shadow import comparison
from extproc.datapath.policy_shadow.shown import encode_shown
from extproc.run import policy_shadow
from extproc.run.policy_shadow import PolicyShadowComparer
from extproc.serve.worker_config import PolicyShadowConfig
from tests.support.clock import FakeClock
from tests.support.policies import sources_of
from tests.support.rollouts import canary
from tests.unit.datapath.test_policy_shadow import EVERY, Pair, decided, pair, sampling, says
from tests.unit.datapath.test_replay import FEATURES, POLICY

__all__ = ["pair"]

DENIES_ODD = """package routing

default decision := {"allow": true}

decision := {"allow": false} if endswith(input.attributes.request.http.headers["x-user-id"], "1")
"""
Make = Callable[..., PolicyShadowComparer]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A comparer by a policy, on a clock that stands still, with a log or without."""
    monkeypatch.setattr(policy_shadow, "SystemClock", FakeClock)

    def made(policy: str = DENIES_ODD, *, logged: bool = True) -> PolicyShadowComparer:
        sinks = (f"file:{tmp_path / 'log.jsonl'}",) if logged else ()
        comparer = PolicyShadowComparer(PolicyShadowConfig(f"{tmp_path}/", sinks, 0))
        comparer.use(comparer.engine(sources_of(policy).to_json()))
        return comparer

    return made


@pytest.fixture
def shown(pair: Pair) -> list[memoryview]:
    """A rollout, and decisions of four users that allow everything, as they come out of the socket."""
    clock = FakeClock()
    rollout = canary(EVERY, policy=POLICY, features=FEATURES)
    decided(says({"allow": True}), [sampling(pair, clock)], rollout, clock)
    return [memoryview(encode_shown(one)) for one in pair.read()]


def counted(comparer: PolicyShadowComparer) -> dict[tuple[str, ...], float]:
    """What is not 0, by the end of its name and its labels."""
    rows = comparer.state()[1]["counters"]
    return {(name.removeprefix("dropout_policy_shadow_"), *labels): value for name, labels, value in rows if value}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (folder / "log.jsonl").read_bytes().splitlines()]


def test_what_would_change_is_counted_told_and_written_into_the_decision_log(
    make: Make, shown: list[memoryview], tmp_path: Path
) -> None:
    comparer = make()
    assert [comparer.take(one) for one in shown] == [True] * 5
    assert counted(comparer) == {
        ("decisions_total", "same"): 3,
        ("decisions_total", "different"): 1,
        ("differences_total", "payments/fraud-detector", "denied"): 1,
    }
    revision, _, (change,) = comparer.state()
    assert (change["kind"], change["decisions"], change["after"]["http_status"]) == ("denied", 1, 403)
    comparer.close()
    plan, line = lines(tmp_path)
    said = line["custom"]["policy_shadow"]
    assert (plan["kind"], said["change"], said["decision_id"]) == ("plan", "denied", change["examples"][0])
    assert line["decision_id"] == line["result"]["decision_id"] == f"{said['decision_id']}.policy-shadow"
    assert (said["live"]["version"], said["live"]["policy_revision"]) == ("4", "abc123")
    assert (line["result"]["reason"], line["result"]["policy_revision"]) == ("policy_deny", revision)
    assert "person-1" not in str(line)


def test_a_difference_is_masked_by_the_policies_that_decide(
    make: Make, shown: list[memoryview], tmp_path: Path
) -> None:
    comparer = make()
    rules = ('mask contains "/result/policy"', 'drop if input.custom.policy_shadow.change != "denied"')
    mask = "\n\n".join(("package system.log", *rules))
    comparer.mask_by(sources_of({"log.rego": mask}).to_json())
    for one in shown:
        comparer.take(one)
    comparer.close()
    _, line = lines(tmp_path)
    assert line["custom"]["policy_shadow"]["change"] == "denied"
    assert "policy" not in line["result"]
    assert "/result/policy" in line["erased"]


def test_without_a_decision_log_the_line_is_one_of_the_process_and_names_codes_and_versions_alone(
    make: Make, shown: list[memoryview], caplog: pytest.LogCaptureFixture
) -> None:
    comparer = make(logged=False)
    with caplog.at_level(logging.INFO):
        for one in shown:
            comparer.take(one)
    revision, _, (change,) = comparer.state()
    assert caplog.messages == [
        f"decision {change['examples'][0]} of payments/fraud-detector: version 4 (weight) would be "
        f"status 403 (policy_deny) by revision {revision}"
    ]


def test_a_policy_that_changes_everything_writes_few_lines_a_second(
    make: Make, shown: list[memoryview], tmp_path: Path
) -> None:
    comparer = make('package routing\n\ndecision := {"allow": false}\n')
    plan, *decisions = shown
    for one in (plan, *(decisions * 5)):
        comparer.take(one)
    comparer.close()
    written = [line for line in lines(tmp_path) if line.get("kind") != "plan"]
    found = counted(comparer)
    assert len(written) == policy_shadow.LINES_A_SECOND < found["decisions_total", "different"] == 20
    assert found["unlogged_total",] == 20 - len(written)


def test_what_is_not_known_or_no_message_is_dropped_and_a_rule_without_a_verdict_is_a_fault(
    make: Make, shown: list[memoryview]
) -> None:
    comparer = make('package routing\n\ndecision := {"allow": true} if input.unit == "nobody"\n')
    plan, decision, *_ = shown
    assert not comparer.take(decision)
    assert comparer.take(memoryview(b"\xffnoise"))
    comparer.take(plan)
    assert comparer.take(decision)
    assert counted(comparer) == {
        ("dropped_total", "unplanned"): 1,
        ("dropped_total", "unsendable"): 1,
        ("decisions_total", "different"): 1,
        ("differences_total", "payments/fraud-detector", "version"): 1,
        ("faults_total", "policy_undefined"): 1,
    }
    comparer.retain(["payments/another"])
    assert ("differences_total", "payments/fraud-detector", "version") not in counted(comparer)
    assert not comparer.take(decision)


def test_a_bug_in_a_comparison_is_said_once_and_ends_nothing(
    make: Make, shown: list[memoryview], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(comparison, "decide")
    comparer = make()
    plan, *decisions = shown
    comparer.take(plan)
    for one in decisions:
        assert comparer.take(one)
    assert len([record for record in caplog.records if "which is a bug" in record.message]) == 1
    assert counted(comparer) == {("dropout_task_failures_total", "policy shadow"): 4}
