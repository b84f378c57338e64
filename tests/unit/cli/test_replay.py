"""``dropout replay``: what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.regorus.policy import RegorusEngine
from extproc.cli.main import main
from extproc.resources.policies import read_sources
from tests.support.decisions import decisions_in
from tests.support.rollouts import canary
from tests.unit.datapath.test_replay import FEATURES, POLICY, log_of

REGO = """package routing

default decision := {{"allow": true}}

decision := {{"allow": true, "versions": ["3"], "reason": "risk is high"}} if input.features.risk_score > {limit}
"""


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "decision.rego").write_text(REGO.format(limit=0.9))
    return folder


@pytest.fixture
def log(tmp_path: Path, policies: Path) -> Path:
    """Twenty decisions of which the policy, as it is, let every one go to the canary."""
    rollout = canary(10_000, policy=POLICY, features=FEATURES, log={"features": ["risk_score"]})
    lines = log_of(rollout, RegorusEngine(read_sources(policies)), risk=0.5, units=20)
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def replayed(
    capsys: pytest.CaptureFixture[str], log: Path, policies: Path, status: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What was found, and the summary."""
    with pytest.raises(SystemExit) as exit_:
        main(["replay", str(log), "--policies", str(policies), "-o", "json"])
    out = capsys.readouterr()
    assert (exit_.value.code, out.err) == (status, ""), out.out
    *findings, summary = map(json.loads, out.out.splitlines())
    return findings, summary


def test_a_log_that_is_reproduced_ends_with_0(log: Path, policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings, summary = replayed(capsys, log, policies, 0)
    assert findings == []
    assert summary.pop("policy_revision")
    assert summary == {
        "decisions": 20,
        "reproduced": 20,
        "different": 0,
        "not_replayable": 0,
        "faults": 0,
        "rollouts_not_replayable": [],
    }


def test_a_rollout_of_which_nothing_is_known_ends_with_2_whatever_else_is_reproduced(
    log: Path, policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout = canary(5000, name="other")
    log.write_bytes(log.read_bytes() + b"".join(log_of(rollout, units=3)))
    (policies / "decision.rego").write_text('package routing\n\ndecision := {"allow": input.unit == "a"}\n')
    _, summary = replayed(capsys, log, policies, 2)
    assert (summary["reproduced"], summary["not_replayable"]) == (3, 20)
    assert summary["rollouts_not_replayable"] == ["payments/fraud-detector"]


def test_differences_are_listed_and_end_with_1(log: Path, policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (policies / "decision.rego").write_text(REGO.format(limit=0.4))
    findings, summary = replayed(capsys, log, policies, 1)
    assert summary["different"] == 20
    assert set(findings[0]) == {"decision_id", "field", "logged", "replayed"}
    assert {"field": "version", "logged": "4", "replayed": "3"}.items() <= findings[1].items()


def test_bad_lines_are_named_and_do_not_stop_the_replay(
    log: Path, policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_bytes(b"torn {\n" + log.read_bytes())
    findings, summary = replayed(capsys, log, policies, 0)
    assert findings == [
        {"code": "bad_line", "message": findings[0]["message"], "file": str(log), "line": 1, "field": None}
    ]
    assert (summary["reproduced"], summary["faults"]) == (20, 1)


@pytest.mark.parametrize(
    "changed",
    [{"rollout": None, "features": "x"}, {"rollout": None, "features": {"a": 1}}, {"policy_revision": "\ud800"}],
)
def test_a_result_of_other_types_is_a_bad_line(
    changed: dict[str, Any], log: Path, policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = decisions_in(log.read_bytes())[0]
    event["result"].update(changed)
    plan, line_end, decided = log.read_bytes().partition(b"\n")
    log.write_bytes(plan + line_end + json.dumps(event).encode() + line_end + decided)
    findings, summary = replayed(capsys, log, policies, 0)
    assert [finding["line"] for finding in findings] == [2]
    assert (summary["reproduced"], summary["faults"]) == (20, 1)


def test_what_a_terminal_would_obey_is_shown_escaped(
    log: Path, policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = decisions_in(log.read_bytes())[0]
    event |= {"decision_id": "\x1b[2J\ud800", "result": {**event["result"], "version": "9"}}
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0] + json.dumps(event).encode())
    with pytest.raises(SystemExit):
        main(["replay", str(log), "--policies", str(policies)])
    assert "\\x1b[2J\\ud800" in capsys.readouterr().out


def test_a_file_that_is_no_log_at_all_is_bad_input(
    log: Path, policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_text("one\ntwo\n")
    _, summary = replayed(capsys, log, policies, 2)
    assert summary["faults"] == 2


def test_an_unreadable_log_is_a_fault_with_a_code(
    tmp_path: Path, policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, answer = replayed(capsys, tmp_path / "missing.jsonl", policies, 2)
    assert answer["errors"][0]["code"] == "log_unreadable"


def test_the_text_has_a_line_for_each_difference_and_a_summary(
    log: Path, policies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (policies / "decision.rego").write_text(REGO.format(limit=0.4))
    with pytest.raises(SystemExit):
        main(["replay", str(log), "--policies", str(policies)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith('version: "4" is now "3"')
    assert lines[-1].startswith("20 decisions: 0 reproduced, 20 different, 0 not replayable")
