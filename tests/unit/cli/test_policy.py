"""``dropout policy``: what it says, where, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from extproc.cli.main import main
from tests.support.paths import POLICIES

DOCUMENT = {"apiVersion": "dropout.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": "m"}}
SPEC = {"model": "m", "match": [{"path": {"value": "/m"}}], "unit": {"header": "x-user-id"}, "stable": {"version": "1"}}
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
    write(
        tmp_path,
        a='package a\n\ndecision := {"allow": input.features.x}\n',
        b='package b\n\ndecision := {"allow": true}\n',
    )
    assert run(capsys, "policy", "check", tmp_path)[1].splitlines()[1:] == [
        "a/decision can deny: a request that it fails on is denied unless a document says onError: stable"
    ]
    assert json.loads(run(capsys, "policy", "check", tmp_path, "-o", "json")[1])["can_deny"] == ["a/decision"]


def test_check_names_every_fault_by_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, a=GOOD, b="package b\n\nx := http.send({})\n\ny := crypto.md4(1)\n")
    code, out, err = run(capsys, "policy", "check", tmp_path)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == (
        "b.rego:3: http.send is not allowed: a decision depends on its input and data alone (policy_builtin_forbidden)"
    )
    assert err.splitlines()[1].startswith("b.rego:5: there is no function crypto.md4")
    code, out, err = run(capsys, "policy", "check", tmp_path, "-o", "json")
    assert (code, err) == (2, "")
    assert [(e["code"], e["file"], e["line"]) for e in errors(out)] == [
        ("policy_builtin_forbidden", "b.rego", 3),
        ("policy_builtin_missing", "b.rego", 5),
    ]


def test_a_data_file_that_is_none_hides_nothing_of_the_policies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, a="package a\n\nx := http.send({})\n")
    (tmp_path / "data.json").write_text("[1]")
    code, out, _ = run(capsys, "policy", "check", tmp_path, "-o", "json")
    assert (code, [(e["code"], e["file"], e["line"]) for e in errors(out)]) == (
        2,
        [("policy_data_invalid", "data.json", 1), ("policy_builtin_forbidden", "a.rego", 3)],
    )


def test_check_notes_a_decision_without_a_value_and_a_file_that_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, a='package routing\n\ndecision := {"allow": true} if data.tenants[input.unit]\n')
    (tmp_path / "tenants.json").write_text("{}")
    code, out, _ = run(capsys, "policy", "check", tmp_path, "-o", "json")
    assert (code, [(note["code"], note["file"]) for note in json.loads(out)["notes"]]) == (
        0,
        [("policy_data_missing", "a.rego"), ("policy_undefined", None), ("policy_data_unread", "tenants.json")],
    )


def test_check_names_what_the_input_never_has_by_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reads = 'package routing\n\nimport input.rollout as r\n\ndecision := {"allow": r.stabel == "3"}\n'
    write(
        tmp_path, a=reads, b='package control\n\ndecision := {"allow": input.action == "kill", "reason": input.who}\n'
    )
    code, out, _ = run(capsys, "policy", "check", tmp_path, "-o", "json")
    assert code == 2
    assert sorted((e["code"], e["file"], e["line"], e["message"].partition(";")[0]) for e in errors(out)) == [
        ("policy_input_unknown", "a.rego", 5, "there is no input.rollout.stabel"),
        ("policy_input_unknown", "b.rego", 3, "there is no input.who"),
    ]
    assert "; did you mean stable?" in out


def test_check_names_a_header_that_is_not_in_lower_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of headers are in lower case in the input, so another spelling never is there."""
    headers = 'import input.attributes.request.http.headers\n\ndecision := {"allow": headers["X-Team"] == "a"}\n'
    write(tmp_path, a=f"package a\n\n{headers}", b=f"package b\n\n{headers.replace('X-Team', 'x-team')}")
    code, out, _ = run(capsys, "policy", "check", tmp_path, "-o", "json")
    assert (code, [(e["code"], e["file"], e["line"], e["message"].partition(";")[2]) for e in errors(out)]) == (
        2,
        [("policy_input_unknown", "a.rego", 5, " write x-team")],
    )


def test_check_names_rules_that_are_fields_of_a_decision_and_none_that_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = "package routing.decision\n\nallow if helper\n\nhelper if input.unit\n\nhelper if input.time\n"
    write(tmp_path, a=package, b="package control\n\ndecision.allow := true\n\ndecision.http_status := 400\n")
    code, out, _ = run(capsys, "policy", "check", tmp_path, "-o", "json")
    assert code == 2
    assert sorted((e["code"], e["file"], e["line"]) for e in errors(out)) == [
        ("policy_field_unknown", "a.rego", 5),
        ("policy_field_unknown", "b.rego", 5),
    ]
    assert "belongs into another package" in out


def test_a_decision_that_is_misspelt_is_told_where_nothing_is_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, a='package routing\n\ndefault decison := {"allow": true}\n')
    code, out, _ = run(capsys, "policy", "check", tmp_path)
    assert (code, "(policy.path); is routing/decison meant?" in out) == (0, True)


@pytest.mark.parametrize(
    ("package", "asked", "said"),
    [
        ("rooting", None, "no file gives routing/decision"),
        ("rooting", "routing/decision", "the rule routing/decision is asked, but no file gives it"),
        ("tenants", "tenant/decision", "the rule tenant/decision is asked, but no file gives it"),
        ("tenants", "tenants/decison", "the rule tenants/decison is asked, but no file gives it"),
    ],
)
def test_the_rule_that_is_asked_is_told_where_no_file_gives_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], package: str, asked: str | None, said: str
) -> None:
    folder, documents = tmp_path / "policies", tmp_path / "rollouts"
    folder.mkdir(), documents.mkdir()
    write(folder, a=f'package {package}\n\ndecision := {{"allow": true}}\n')
    rollout = {"policy": {"path": asked}, **SPEC}
    (documents / "a.json").write_text(json.dumps({**DOCUMENT, "spec": rollout}))
    given = [] if asked is None else ["--rollouts", documents]
    code, _, err = run(capsys, "policy", "check", folder, *given)
    assert code == (0 if asked is None else 2)
    assert (said in err, f"did you mean '{package}/decision'?" in err) == (True, True)
    (documents / "a.json").write_text(
        json.dumps({**DOCUMENT, "spec": {"policy": {"path": f"{package}/decision"}, **SPEC}})
    )
    assert run(capsys, "policy", "check", folder, "--rollouts", documents)[::2] == (0, "")


def test_a_feature_that_a_document_does_not_ask_for_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, documents = tmp_path / "policies", tmp_path / "rollout.json"
    folder.mkdir()
    write(folder, a='package routing\n\ndecision := {"allow": true, "shadow": input.features.risk == 1}\n')
    features = {"entity": {"header": "x-user-id"}, "view": "users", "names": ["risks"]}
    for asked, told in (({}, False), ({"features": features}, True)):
        documents.write_text(json.dumps({**DOCUMENT, "spec": {**SPEC, "policy": {}, **asked}}))
        code, _, err = run(capsys, "policy", "check", folder, "--rollouts", documents)
        said = "a.rego:3: note: default/m asks for no feature risk (spec.features), so that it never is there"
        assert (code, said in err, "did you mean 'risks'?" in err) == (0, True, told)
    features["names"] = ["risk"]
    documents.write_text(json.dumps({**DOCUMENT, "spec": {**SPEC, "policy": {}, "features": features}}))
    assert "feature" not in run(capsys, "policy", "check", folder, "--rollouts", documents)[2]


def test_data_that_nothing_gives_is_noted_with_what_was_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = (
        "import data.lib.people",
        'decision := {"allow": true, "shadow": again}',
        "default sees := false",
        "sees if people.employee",
        "sees if data.tenants.erly[input.unit]",
        "sees if data.tenants.early.acme.below",
        "again if data.routing.sees with input.unit as data.tenants",
        "default again := false",
    )
    write(tmp_path, a="package routing\n\n" + "\n\n".join(rules) + "\n")
    (tmp_path / "data.json").write_text('{"tenants": {"early": {"acme": true}}}')
    code, out, _ = run(capsys, "policy", "check", tmp_path, "-o", "json")
    assert (code, [(note["code"], note["line"], note["message"]) for note in json.loads(out)["notes"]]) == (
        0,
        [
            ("policy_data_missing", 9, "no rule and no data file gives data.lib"),
            ("policy_data_missing", 11, "no rule and no data file gives data.tenants.erly; did you mean 'early'?"),
        ],
    )
    (tmp_path / "lib.rego").write_text("package lib.people\n\nemployee if input.unit\n")
    notes = json.loads(run(capsys, "policy", "check", tmp_path, "-o", "json")[1])["notes"]
    assert [note["line"] for note in notes] == [11]


def test_a_folder_of_policies_on_control_actions_alone_lacks_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, a='package control\n\ndecision := {"allow": true}\n')
    assert run(capsys, "policy", "check", tmp_path)[2] == ""


def test_a_function_that_is_misspelt_is_told_with_the_one_that_was_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = {
        'startwith("a", "b")': "startswith",
        "is_strng(1)": "is_string",
        "io.jwt.decode_verfy(1, 2)": "io.jwt.decode_verify",
        "frist(1)": "first",
        "l.frist(1)": "l.first",
        "data.lib.frist(1)": "data.lib.first",
    }
    rules = "\n".join(f"x{number} := {call}" for number, call in enumerate(calls))
    write(
        tmp_path,
        a=f"package a\n\nimport data.lib as l\n\nfirst(x) := x\n\n{rules}\n",
        lib="package lib\n\nfirst(x) := x\n",
    )
    code, _, err = run(capsys, "policy", "check", tmp_path)
    assert code == 2
    told = [line.partition("did you mean ")[2].partition("?")[0] for line in err.splitlines()]
    assert told == [repr(meant) for meant in calls.values()]


def test_a_field_that_is_misspelt_is_told_with_the_one_that_was_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, a='package a\n\ndecision := {"allow": true, "verison": "3"}\n')
    code, _, err = run(capsys, "policy", "check", tmp_path)
    assert (code, "; did you mean 'version'?" in err) == (2, True)


def test_check_names_fields_that_are_written_in_a_decision_and_none_that_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (
        'default decision := {"allow": true}\n\ndecision := {\n\t"allow": true,\n\t"headers": {},\n} if input.unit\n'
    )
    chain = 'decision := {"allow": true} if input.unit else := {"allow": false, "allowed": 1}\n'
    write(
        tmp_path,
        a=f"package a\n\n{whole}",
        b=f"package b\n\n{chain}",
        c='package c\n\nhelper := {"x": 1}\n',
    )
    code, out, _ = run(capsys, "policy", "check", tmp_path, "-o", "json")
    assert code == 2
    assert sorted((e["code"], e["file"], e["line"], e["message"].partition(" ")[0]) for e in errors(out)) == [
        ("policy_field_unknown", "a.rego", 7, "headers"),
        ("policy_field_unknown", "b.rego", 3, "allowed"),
    ]


def test_check_refuses_what_the_trial_of_serve_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DROPOUT_TRIAL_LIMIT", "0.2")
    each = "in numbers.range(1, 100000)"
    endless = f"slow if {{\n\tsome a {each}\n\tsome b {each}\n\ta * b == -1\n}}"
    policy = f"package routing\n\ndecision := {{}} if {{\n\tfast\n\tslow\n}}\n\nfast := 1\n\n{endless}\n"
    code, out, _ = run(capsys, "policy", "check", write(tmp_path, a=policy), "-o", "json")
    assert (code, [(e["code"], e["file"], e["line"], e["field"]) for e in errors(out)]) == (
        2,
        [("policy_too_slow", "a.rego", 10, "routing/slow")],
    )


@pytest.mark.parametrize("rule", ['decision contains "allow"', 'decision := {"allow": "yes"}', "decision := []"])
def test_check_refuses_a_rule_whose_answer_is_no_decision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rule: str
) -> None:
    code, out, _ = run(capsys, "policy", "check", write(tmp_path, a=f"package routing\n\n{rule}\n"), "-o", "json")
    assert (code, [(e["code"], e["field"]) for e in errors(out)]) == (2, [("policy_invalid", "routing/decision")])


def test_check_says_that_nothing_is_called_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "policy", "check", write(tmp_path, a="package routing\n\ndecide := {}\n"))
    assert (code, out.splitlines()[1].partition(":")[0]) == (0, "nothing in them is called decision")


def test_check_asks_the_opa_that_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    write(folder, a=GOOD)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, _ = run(capsys, "policy", "check", folder, "--opa", "-o", "json")
    assert (code, errors(out)[0]["code"]) == (3, "opa_missing")
    opa = tmp_path / "opa"
    said = {"errors": [{"message": "var x is unsafe", "location": {"file": "a.rego", "row": 7}}]}
    opa.write_text(f"#!/bin/sh\necho '{json.dumps(said)}' >&2\nexit 1\n")
    opa.chmod(0o755)
    code, out, _ = run(capsys, "policy", "check", folder, "--opa", "-o", "json")
    assert code == 2
    assert [(e["code"], e["message"], e["file"], e["line"]) for e in errors(out)] == [
        ("opa_check", "opa: var x is unsafe", "a.rego", 7)
    ]
    opa.write_text("#!/bin/sh\nexit 0\n")
    assert run(capsys, "policy", "check", folder, "--opa")[0] == 0


def test_check_notes_what_decides_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, a=f"{GOOD}\nhelper := 1\n")
    code, out, err = run(capsys, "policy", "check", tmp_path)
    assert (code, out.partition(",")[0]) == (0, "1 policy file can be served")
    assert err == (
        "a.rego:5: note: nothing that is called decision leads to data.routing.helper: is it asked by a policy.path? "
        "(policy_rule_unused)\n"
    )
    code, out, err = run(capsys, "policy", "check", tmp_path, "-o", "json")
    assert (code, err, [note["code"] for note in json.loads(out)["notes"]]) == (0, "", ["policy_rule_unused"])


def test_capabilities_are_of_the_opa_that_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, _ = run(capsys, "policy", "capabilities", "-o", "json")
    assert (code, errors(out)[0]["code"]) == (3, "opa_missing")
    opa = tmp_path / "opa"
    count, send = ({"name": name, "decl": {"type": "function"}} for name in ("count", "http.send"))
    declared = {"builtins": [count, send], "future_keywords": ["not"], "features": ["rego_v1", "rego_v9"]}
    for said, status in ((json.dumps(declared), 0), ("{}", 3), ("", 3)):
        opa.write_text(f"#!/bin/sh\necho '{said}'\n")
        opa.chmod(0o755)
        code, out, _ = run(capsys, "policy", "capabilities", "-o", "json")
        assert code == status
        if status == 0:
            found = {"builtins": [count], "future_keywords": [], "features": ["rego_v1"], "allow_net": []}
            assert json.loads(out) == found


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
        "      line 5: false",
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
        "failed": {
            "line": 5,
            "condition": "false",
            "is_value": False,
            "values": {},
            "undefined": [],
            "error": None,
        },
    }


def test_the_coverage_is_a_table_or_as_opa_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, a=f"{GOOD}\nx if {{\n\tinput.y\n\tinput.z\n}}\n", a_test=PASSING)
    code, out, _ = run(capsys, "policy", "test", tmp_path, "--coverage", "-r", "test_it")
    assert (code, [" ".join(line.split()) for line in out.splitlines()][2:5]) == (
        0,
        ["FILE LINES COVERED NOT COVERED", "a.rego 3 1 33.33 % 6-7", "3 1 33.33 %"],
    )
    code, out, _ = run(capsys, "policy", "test", tmp_path, "--coverage", "-o", "json")
    assert (code, json.loads(out)["coverage"]["files"]["a.rego"]["not_covered_lines"]) == (0, 2)


def test_too_little_coverage_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, a=f"{GOOD}\nx if {{\n\tinput.y\n\tinput.z\n}}\n", a_test=PASSING)
    assert run(capsys, "policy", "test", tmp_path, "--threshold", "33")[::2] == (0, "")
    code, out, err = run(capsys, "policy", "test", tmp_path, "--threshold", "33.4", "-o", "json")
    assert (code, json.loads(out)["coverage"]["coverage"]) == (1, 33.33)
    assert err == "the tests evaluate 33.33 % of the lines, and --threshold is 33.4 %\n"


def test_what_opa_finds_otherwise_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    write(folder, a=GOOD, a_test=PASSING)
    monkeypatch.setenv("PATH", str(tmp_path))
    opa = tmp_path / "opa"
    for said, status, outcome in (
        ([{"package": "data.routing_test", "name": "test_it"}], 0, "pass"),
        ([{"package": "data.routing_test", "name": "test_it", "fail": True}], 1, "fail"),
        ([{"package": "data.routing_test", "name": "test_other"}], 1, None),
    ):
        opa.write_text(f"#!/bin/sh\necho '{json.dumps(said)}'\n")
        opa.chmod(0o755)
        code, out, _ = run(capsys, "policy", "test", folder, "--opa", "-o", "json")
        assert (code, json.loads(out)["tests"][0]["opa"]) == (status, outcome)
    opa.write_text("#!/bin/sh\necho '1 error occurred' >&2\nexit 1\n")
    code, out, _ = run(capsys, "policy", "test", folder, "--opa", "-o", "json")
    assert (code, errors(out)[0]["code"]) == (2, "opa_test")


def test_a_filter_that_fits_no_test_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, a=GOOD, a_test=PASSING)
    for wanted, code in (("nothing", "policy_tests_missing"), ("(", "test_filter")):
        status, out, _ = run(capsys, "policy", "test", tmp_path, "-r", wanted, "-o", "json")
        assert (status, errors(out)[0]["code"]) == (2, code)


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
