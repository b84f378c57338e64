"""``dropout policy eval``: a query's values for an input from a file, a pipe or one request's."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from extproc.cli.main import main
from tests.support.paths import POLICIES
from tests.support.rollouts import CANARY, document

HIGH = {"features": {"risk_score": 0.9}, "rollout": {"stable": "3"}}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DROPOUT_STORE", raising=False)


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(["policy", "eval", str(POLICIES), *arguments])
    out = capsys.readouterr()
    assert (exit_.value.code, out.err) == (status, ""), out.out
    return out.out


def test_the_input_is_a_file_or_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "input.json").write_text(json.dumps(HIGH))
    query = "data.routing.decision.versions"
    assert evaluated(capsys, query, "--input", "input.json") == '[\n  "3"\n]\n'
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(json.dumps(HIGH).encode())))
    answer = json.loads(evaluated(capsys, query, "-i", "-", "-o", "json"))
    assert answer["result"][0]["expressions"][0]["value"] == ["3"]


def test_what_is_undefined_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated(capsys, "data.routing.decision.versions", status=1) == "undefined\n"
    assert evaluated(capsys, "data.routing.decision.versions", "-o", "json", status=1) == "{}\n"


def test_the_input_of_a_request_is_all_that_a_policy_can_be_given_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = {"entity": {"header": "x-user-id"}, "view": "user_risk", "names": ["risk_score"]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(document({**CANARY, "features": features})))
    request = ("--rollouts", "r.yaml", "--path", "/v1/models/fraud-detector?a=b", "-H", "x-user-id: u", "-H", "x-a: b")
    given: dict[str, Any] = json.loads(
        evaluated(capsys, "input", *request, "--feature", "risk_score=0.5", "--time", "2026-11-30T09:00:00Z")
    )
    assert given["features"] == {"risk_score": 0.5}
    assert given["attributes"]["request"]["http"]["headers"]["x-a"] == "b"
    assert (given["unit"], given["rollout"]["stable"], given["parsed_query"]) == ("u", "3", {"a": ["b"]})
    assert given["attributes"]["request"]["time"] == "2026-11-30T09:00:00.000000Z"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--input", "nowhere.json"), "input_invalid"),
        (("--input", "bad.json"), "input_invalid"),
        (("--input", "bad.json", "--path", "/"), "flags_conflict"),
        (("--path", "/nowhere", "--rollouts", "r.yaml"), "no_rollout"),
    ],
)
def test_an_input_that_is_none_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: str
) -> None:
    (tmp_path / "bad.json").write_text('{"a": 1,\n')
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(document(CANARY)))
    answer = json.loads(evaluated(capsys, "input", *arguments, "-o", "json", status=2))
    assert answer["errors"][0]["code"] == code
