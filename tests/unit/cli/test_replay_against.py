"""``dropout replay --against``: what two sets of policies decide otherwise, and how that ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.regorus.policy import RegorusEngine
from extproc.cli import replay
from extproc.cli.main import main
from extproc.resources.policies import read_sources
from tests.support.decisions import decisions_in
from tests.support.rollouts import canary
from tests.unit.datapath.test_replay import FEATURES, POLICY, log_of

REGO = """package routing

default decision := {{"allow": true}}

decision := {narrowed} if input.features.risk_score > {limit}
"""
NARROWED = '{"allow": true, "versions": ["3"]}'


def write(folder: Path, limit: float, narrowed: str = NARROWED) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "decision.rego").write_text(REGO.format(limit=limit, narrowed=narrowed))
    return folder


@pytest.fixture(autouse=True)
def engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines of this process, which starts none for each set; the slow test has the real ones."""

    @contextmanager
    def given(folder: Path, field: str) -> Iterator[RegorusEngine]:
        yield RegorusEngine(read_sources(folder))

    if "slow" not in request.keywords:
        monkeypatch.setattr(replay, "given_policies", given)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return write(tmp_path / "old", 0.9)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return write(tmp_path / "new", 0.4)


@pytest.fixture
def log(tmp_path: Path, old: Path) -> Path:
    """Twenty decisions for the canary, of ten units a risk of 0.5 and of ten more one of 0.1."""
    rollout = canary(10_000, policy=POLICY, features=FEATURES, log={"features": ["risk_score"]})
    engine = RegorusEngine(read_sources(old))
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join(line for risk in (0.5, 0.1) for line in log_of(rollout, engine, risk=risk, units=10)))
    return path


def compared(
    capsys: pytest.CaptureFixture[str], log: Path | str, new: Path, old: Path, status: int, *more: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The lines that are no events, and the answer."""
    with pytest.raises(SystemExit) as exit_:
        main(["replay", str(log), "--policies", str(new), "--against", str(old), "-o", "json", *more])
    out = capsys.readouterr()
    assert (exit_.value.code, out.err) == (status, ""), out.out
    *lines, answer = map(json.loads, out.out.splitlines())
    return lines, answer


def test_what_changes_is_counted_by_rollout_arm_and_version(
    log: Path, new: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, answer = compared(capsys, log, new, old, 1)
    counted = {name: answer[name] for name in ("decisions", "same", "changed", "not_replayable", "faults")}
    assert counted == {"decisions": 20, "same": 10, "changed": 10, "not_replayable": 0, "faults": 0}
    assert answer["policy_revision"] == read_sources(new).revision
    assert answer["against_revision"] == read_sources(old).revision
    (change,) = answer["changes"]
    ids = [event["decision_id"] for event in decisions_in(log.read_bytes())]
    assert change == {
        "rollout": "payments/fraud-detector",
        "before": {"arm": "canary", "version": "4", "reason": "weight", "shadow": None, "http_status": None},
        "after": {
            "arm": "excluded",
            "version": "3",
            "reason": "policy_ineligible",
            "shadow": None,
            "http_status": None,
        },
        "text": False,
        "decisions": 10,
        "examples": ids[:3],
    }
    assert answer["decisions_of_rollouts"] == {"payments/fraud-detector": 20}


def test_the_text_is_a_table_and_the_sum(log: Path, new: Path, old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["replay", str(log), "--policies", str(new), "--against", str(old)])
    head, row, _, total = capsys.readouterr().out.splitlines()
    assert exit_.value.code == 1
    assert head.split() == ["ROLLOUT", "DECISIONS", "OF", "ALL", "ARM", "VERSION", "REASON", "FOR", "EXAMPLE"]
    assert " ".join(row.split()[:-1]) == (
        "payments/fraud-detector 10 50 % canary -> excluded 4 -> 3 weight -> policy_ineligible"
    )
    assert total == "20 decisions: 10 the same, 10 would change, 0 not replayable; 0 lines are no decisions."


def test_the_same_policies_change_nothing_and_end_with_0(
    log: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, answer = compared(capsys, log, old, old, 0)
    assert (answer["same"], answer["changes"]) == (20, [])


@pytest.mark.parametrize(
    ("narrowed", "status", "text"),
    [
        ('{"allow": false, "reason": "no"}', 403, False),
        ('{"allow": false, "reason": "no", "http_status": 429}', 429, False),
    ],
)
def test_a_denial_is_a_change_with_its_status(
    log: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], narrowed: str, status: int, text: bool
) -> None:
    denying = write(tmp_path / "denying", 0.4, narrowed)
    _, answer = compared(capsys, log, denying, old, 1)
    (change,) = answer["changes"]
    assert (change["after"]["version"], change["after"]["http_status"]) == (None, status)
    assert change["text"]
    elsewhere = write(tmp_path / "other", 0.4, narrowed.replace('"no"', '"never"'))
    _, answer = compared(capsys, log, elsewhere, denying, 1)
    (change,) = answer["changes"]
    assert change["before"] == change["after"]
    assert change["text"]


def test_what_a_set_reads_and_the_log_lacks_is_said_once_with_an_example(
    log: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comparison that compared nothing is no word that nothing changes."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.rego").write_text('package routing\n\ndecision := {"allow": input.unit == "a"}\n')
    for new, against in ((other, old), (old, other)):
        _, answer = compared(capsys, log, new, against, 2)
        (because,) = answer["not_replayable_because"]
        assert because["decisions"] == answer["not_replayable"] == 20
        assert "reads" in because["why"]
        assert answer["rollouts_not_replayable"] == ["payments/fraud-detector"]
        assert len(because["examples"]) == 3


@pytest.mark.slow
def test_faults_of_policies_say_which_set_has_them(
    log: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "decision.rego").write_text("package routing\n\ndecision := {\n")
    assert compared(capsys, log, old, old, 0)[1]["same"] == 20
    for new, against, field in ((old, broken, "--against"), (broken, old, "--policies")):
        _, answer = compared(capsys, log, new, against, 2)
        (error,) = answer["errors"]
        assert (error["code"], error["file"], error["field"]) == ("policy_syntax", "decision.rego", field)


def test_a_line_that_is_cut_off_is_named_and_the_rest_is_compared(
    log: Path, new: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_bytes(log.read_bytes()[:-40])
    lines, answer = compared(capsys, log, new, old, 1)
    assert [(line["code"], line["line"]) for line in lines] == [("bad_line", 22)]
    assert (answer["changed"], answer["same"], answer["faults"]) == (10, 9, 1)
