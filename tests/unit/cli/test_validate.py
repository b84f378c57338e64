"""``dropout validate``: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from extproc.cli.main import main
from extproc.resources.rollout import Rollout
from extproc.resources.schema import known_fields
from extproc.suggestions import listed
from tests.unit.resources.test_documents import DESIGN, MINIMAL


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(exited.value.code, int)
    return exited.value.code, out, err


def test_valid_documents_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(MINIMAL)
    assert run(capsys, "validate", str(tmp_path)) == (0, "1 document is valid\n", "")
    (tmp_path / "b.yaml").write_text(MINIMAL.replace("fraud-detector", "other").replace("value: /v1", "value: /v2"))
    assert run(capsys, "validate", str(tmp_path)) == (0, "2 documents are valid\n", "")


def test_valid_documents_are_listed_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(MINIMAL)
    code, out, err = run(capsys, "validate", str(file), "-o", "json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "valid": True,
        "documents": [{"kind": "Rollout", "namespace": "default", "name": "fraud-detector", "file": str(file)}],
        "notes": [],
    }


def test_a_policy_whose_errors_may_deny_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(MINIMAL + "  policy: {}\n")
    code, out, err = run(capsys, "validate", str(file))
    assert (code, out) == (0, "1 document is valid\n")
    assert err.startswith(f"{file}:10 spec.policy: note: onError is not written: if routing/decision can deny, ")


def test_a_template_that_is_not_among_the_documents_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be in the store or still come, or its name is misspelt."""
    file = tmp_path / "a.yaml"
    template = (
        "---\napiVersion: dropout.dev/v1alpha1\nkind: AnalysisTemplate\nmetadata: {name: errors}\nspec:\n  metrics:\n"
        "    - {name: e, failureCondition: result.lower > 0, provider: {observed: {metric: error_rate}}}\n"
    )
    named = (
        MINIMAL
        + "  analysis: {templates: [{templateName: erors}, {templateName: errors}]}\n  steps: [{setWeight: 5}]\n"
    )
    file.write_text(named + template)
    code, out, err = run(capsys, "validate", str(file))
    assert (code, out) == (0, "2 documents are valid\n")
    assert err == (
        f"{file}:10 spec.analysis.templates[0]: note: the analysis template default/erors is not among these "
        "documents; without it nothing is measured, and a canary waits as background_error; did you mean "
        "'default/errors'? (template_absent)\n"
    )


@pytest.mark.parametrize(("timeout", "noted"), [("15s", False), ("16s", True), ("0s", True)])
def test_an_answer_that_may_take_longer_than_the_observer_waits_is_noted(
    timeout: str, noted: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(MINIMAL + f"  timeout: {timeout}\n")
    code, out, err = run(capsys, "validate", str(file))
    assert (code, out) == (0, "1 document is valid\n")
    assert ("raise DROPOUT_OUTCOME_LIMIT" in err) is noted


def test_features_that_are_waited_for_longer_than_a_decision_may_take_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(DESIGN)
    line = DESIGN[: DESIGN.index("timeout: 5ms")].count("\n") + 1
    monkeypatch.setenv("DROPOUT_DECISION_DEADLINE", "0.004")
    for command in (("validate", str(file)), ("apply", "-f", str(file), "--store", f"sqlite:{tmp_path}/db")):
        code, _, err = run(capsys, *command)
        message = (
            "features are waited for 5ms, but a decision may take 4ms: lower it, or raise --decision-deadline and "
            "Envoy's message_timeout"
        )
        assert (code, err) == (2, f"{file}:{line} spec.features.timeout: {message} (timeout_beyond_deadline)\n")
    monkeypatch.setenv("DROPOUT_DECISION_DEADLINE", "0.005")
    assert run(capsys, "validate", str(file))[0] == 0
    file.write_text(DESIGN.replace("policy: {", "policy: {timeout: 6ms, "))
    code, _, err = run(capsys, "validate", str(file))
    assert (code, "spec.policy.timeout: the policy's verdict is waited for 6ms, but" in err) == (2, True)


def test_each_fault_is_a_line_on_stderr_and_the_exit_code_is_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(MINIMAL.replace("model:", "modle:") + '  "a\\nb": 1\n')
    code, out, err = run(capsys, "validate", str(file), str(tmp_path / "none"))
    assert (code, out) == (2, "")
    known = listed(known_fields(Rollout, ("spec",)))
    assert err.splitlines() == [
        f"{file}:5 spec.modle: unknown field 'modle'; did you mean 'model'? (unknown_field)",
        f"{file}:10 spec['a\\nb']: unknown field 'a\\nb'; known are {known} (unknown_field)",
        f"{tmp_path / 'none'}: no such file or folder (file_not_found)",
    ]


def test_faults_are_one_json_document_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(MINIMAL.replace('{version: "4"}', "{version: 4}"))
    code, out, err = run(capsys, "validate", str(file), "-o", "json")
    assert (code, err) == (2, "")
    (fault,) = json.loads(out)["errors"]
    assert fault == {
        "code": "mistyped_value",
        "message": 'must be a string; write it in quotes: "4"',
        "file": str(file),
        "line": 9,
        "field": "spec.canary.version",
    }


def test_documents_are_checked_across_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(MINIMAL)
    (tmp_path / "b.yaml").write_text(MINIMAL.replace("{name: fraud-detector}", "{name: other}"))
    code, out, _ = run(capsys, "validate", str(tmp_path), "-o", "json")
    assert code == 2
    assert [(fault["code"], fault["line"]) for fault in json.loads(out)["errors"]] == [("match_collision", 6)]


def test_a_path_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "validate")
    assert (code, out) == (2, "")
    assert "PATH" in err
