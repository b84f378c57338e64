"""``dropout policy``: what it says, where, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from extproc.cli.main import main
from tests.support.paths import POLICIES

GOOD = 'package routing\n\ndecision := {"allow": true}\n'
PASSING = "package routing_test\n\ntest_it if data.routing.decision.allow\n"
FAILING = "package routing_test\n\ntest_never if {\n\tprint(1 + 1)\n\tfalse\n}\n"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.rego").write_text(text)
    return folder


def errors(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text)["errors"]
    return found


def test_the_shipped_policies_are_fine_and_pass(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "policy", "check", POLICIES)
    assert (code, err) == (0, "")
    first, *more = out.splitlines()
    assert first.startswith("2 policy files can be served, revision ")
    assert more == []  # the shipped routing policy takes versions away and denies nobody
    code, out, err = run(capsys, "policy", "test", POLICIES)
    assert (code, err) == (0, "")
    assert out.endswith(" tests, none failed\n")
    assert "pass  data.routing_test.test_high_risk_stays_on_stable (routing/decision_test.rego:" in out


def test_check_names_the_decisions_whose_errors_are_denials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, a='package a\n\ndecision := {"allow": input.x}\n', b='package b\n\ndecision := {"allow": true}\n')
    assert run(capsys, "policy", "check", tmp_path)[1].splitlines()[1:] == [
        "a/decision can deny: a request that it fails on is denied unless a document says onError: stable"
    ]
    assert json.loads(run(capsys, "policy", "check", tmp_path, "-o", "json")[1])["can_deny"] == ["a/decision"]


def test_check_names_every_fault_by_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, a=GOOD, b="package b\n\nx := http.send({})\n\ny := crypto.md5(1)\n")
    code, out, err = run(capsys, "policy", "check", tmp_path)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == (
        "b.rego:3: http.send is not allowed: a decision depends on its input and data alone (policy_builtin_forbidden)"
    )
    assert err.splitlines()[1].startswith("b.rego:5: there is no function crypto.md5")
    code, out, err = run(capsys, "policy", "check", tmp_path, "-o", "json")
    assert (code, err) == (2, "")
    assert [(e["code"], e["file"], e["line"]) for e in errors(out)] == [
        ("policy_builtin_forbidden", "b.rego", 3),
        ("policy_builtin_missing", "b.rego", 5),
    ]


def test_check_answers_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "policy", "check", write(tmp_path, a=GOOD), "-o", "json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert answer["files"] == ["a.rego"]
    assert answer["errors"] == []
    assert len(answer["revision"]) == 12


@pytest.mark.parametrize("command", ["check", "test"])
def test_no_folder_and_an_empty_one_are_bad_input(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "policy", command, tmp_path / "nowhere", "-o", "json")
    assert (code, errors(out)[0]["code"]) == (2, "policies_missing")
    code, out, _ = run(capsys, "policy", command, tmp_path, "-o", "json")
    assert (code, errors(out)[0]["code"]) == (2, "policies_empty")


def test_a_failing_test_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, a=GOOD, a_test=PASSING, b_test=FAILING)
    code, out, err = run(capsys, "policy", "test", tmp_path)
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        "pass  data.routing_test.test_it (a_test.rego:3)",
        "fail  data.routing_test.test_never (b_test.rego:3)",
        "      b_test.rego:4: 2",
        "2 tests, 1 failed",
    ]
    code, out, err = run(capsys, "policy", "test", tmp_path, "-o", "json")
    assert (code, err) == (1, "")
    answer = json.loads(out)
    assert (answer["passed"], answer["failed"]) == (1, 1)
    assert answer["tests"][1] == {
        "name": "data.routing_test.test_never",
        "file": "b_test.rego",
        "line": 3,
        "outcome": "fail",
        "message": None,
        "prints": ["b_test.rego:4: 2"],
    }


def test_a_folder_without_tests_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "policy", "test", write(tmp_path, a=GOOD), "-o", "json")
    assert (code, errors(out)[0]["code"]) == (2, "policy_tests_missing")


def test_a_test_file_that_does_not_parse_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, a=GOOD, a_test="package t\n\ntest_x if {\n")
    assert run(capsys, "policy", "check", tmp_path)[0] == 0
    code, out, _ = run(capsys, "policy", "test", tmp_path, "-o", "json")
    assert (code, errors(out)[0]["code"], errors(out)[0]["file"]) == (2, "policy_syntax", "a_test.rego")


@pytest.mark.parametrize("what", ["policy-input", "policy-decision"])
def test_the_schemas_are_printed(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "schema", what)
    assert code == 0
    assert json.loads(out)["$schema"] == "http://json-schema.org/draft-07/schema#"
