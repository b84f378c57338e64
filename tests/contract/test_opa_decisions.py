"""Whatever ``data.routing.decision`` is for OPA is what serving evaluates, however it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.regorus.policy import RegorusEngine, check_here
from extproc.datapath.verdict import check_verdict
from extproc.names import Reason
from extproc.resources.policies import read_sources
from tests.systems.opa import opa

INPUTS = ({}, {"ok": True}, {"ok": False, "k": "allow", "parts": {"allow": True, "version": "4"}})

WAYS = {
    "one rule": {"a": 'package routing\n\ndecision := {"allow": true}'},
    "a rule with a default": {
        "a": 'package routing\n\ndefault decision := {"allow": false}\n\ndecision := {"allow": true} if input.ok'
    },
    "else": {"a": 'package routing\n\ndecision := {"allow": true} if input.ok else := {"allow": false}'},
    "a key in brackets": {"a": 'package routing\n\ndecision["allow"] := true'},
    "a key in brackets without a value": {"a": 'package routing\n\ndecision["allow"] if input.ok'},
    "fields": {"a": 'package routing\n\ndecision.allow := true\n\ndecision.reason := "why" if input.ok'},
    "a field with else": {"a": "package routing\n\ndecision.allow := true if input.ok else := false"},
    "a field that is a set": {
        "a": 'package routing\n\ndecision.allow := true\n\ndecision.versions contains "4" if input.ok'
    },
    "a field with a default": {"a": "package routing\n\ndefault decision.allow := false\n\ndecision.allow if input.ok"},
    "keys that are computed": {"a": "package routing\n\ndecision[k] := v if some k, v in input.parts"},
    "computed and written keys": {
        "a": 'package routing\n\ndecision[k] := v if some k, v in input.parts\n\ndecision.reason := "why"'
    },
    "a key from the input": {"a": "package routing\n\ndecision[input.k] := true"},
    "a package": {"a": 'package routing.decision\n\nallow := true\n\nreason := "why" if input.ok'},
    "a package with a default": {"a": "package routing.decision\n\ndefault allow := false\n\nallow if input.ok"},
    "a package whose name is quoted": {"a": 'package routing["decision"]\n\nallow := true'},
    "a package with a function": {"a": "package routing.decision\n\nallow if f(input.ok)\n\nf(x) := x"},
    "a package with a helper in it": {"a": "package routing.decision\n\nallow if helper\n\nhelper if input.ok"},
    "a package below": {"a": "package routing.decision\n\nallow := true", "b": "package routing.decision.x\n\ny := 1"},
    "a package without a value": {"a": "package routing.decision\n\nallow if input.ok"},
    "a package of two files": {
        "a": "package routing.decision\n\nallow := true",
        "b": 'package routing.decision\n\nversion := "4" if input.ok',
    },
    "a rule and a package": {
        "a": "package routing\n\ndecision.allow := true",
        "b": 'package routing.decision\n\nreason := "why"',
    },
    "within another rule": {"a": 'package a\n\nrouting := {"decision": {"allow": input.ok}}'},
    "another package's": {
        "a": "package routing\n\nimport data.lib\n\ndecision := lib.decision",
        "b": "package lib.decision\n\nallow := true",
    },
    "data": {"a": "package other\n\nx := 1", "data": {"routing": {"decision": {"allow": False, "reason": "data"}}}},
    "data and a package": {
        "a": "package routing.decision\n\nallow := true",
        "data": {"routing": {"decision": {"reason": "data"}}},
    },
    "a set": {"a": 'package routing\n\ndecision contains "x"'},
    "null": {"a": "package routing\n\ndecision := null"},
    "no object": {"a": "package routing\n\ndecision if input.ok"},
    "nothing": {"a": "package routing\n\nx := 1"},
    "a package without rules": {"a": "package routing.decision", "b": "package b\n\nx := 1"},
}

DEFAULTS = {
    value: {"a": f"package routing\n\nother := 1\n\ndefault decision := {value}"}
    for value in ("input.x", '{"allow": input.x}', "[data.y]", 'count("x")', "other")
}

REFUSED = {
    "a rule and fields of it": {"a": 'package routing\n\ndecision := {"allow": true}\n\ndecision.reason := "why"'},
    "a default and fields of it": {
        "a": 'package routing\n\ndefault decision := {"allow": false}\n\ndecision.allow if input.ok'
    },
    "a rule and a package of its name": {
        "a": 'package routing\n\ndecision := {"allow": true}',
        "b": 'package routing.decision\n\nreason := "why"',
    },
}


def write(folder: Path, way: dict[str, Any]) -> Path:
    for name, content in way.items():
        if name == "data":
            (folder / "data.json").write_text(json.dumps(content))
        else:
            (folder / f"{name}.rego").write_text(content + "\n")
    return folder


@pytest.mark.parametrize("name", WAYS)
def test_opa_and_serving_give_the_same_decision_however_it_is_written(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, WAYS[name])
    path = "a/routing/decision" if name == "within another rule" else "routing/decision"
    engine = RegorusEngine(read_sources(folder))
    query = f"[x | some i in {json.dumps(INPUTS)}; x := [data.{path.replace('/', '.')} | true] with input as i]"
    done = opa("eval", "--format", "values", "--data", folder, query)
    assert done.returncode == 0, done.stdout
    for document, values in zip(INPUTS, json.loads(done.stdout)[0], strict=True):
        found = engine.evaluate(path, document)
        if not values:
            assert found.fault is Reason.POLICY_UNDEFINED
        else:
            expected = check_verdict(values[0])
            assert (found.allow, found.fault) == (expected.allow, expected.fault)
            assert expected.fault or found == expected
        assert found.allow or engine.can_deny(path) or name in ("data", "a package without rules")


@pytest.mark.parametrize("name", REFUSED)
def test_what_opa_refuses_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, REFUSED[name])
    assert opa("check", folder).returncode != 0
    assert [fault.code for fault in check_here(read_sources(folder))] == ["policy_rule_conflict"]


@pytest.mark.parametrize("value", DEFAULTS)
def test_a_default_that_opa_refuses_is_refused(tmp_path: Path, value: str) -> None:
    folder = write(tmp_path, DEFAULTS[value])
    assert "default" in opa("check", folder).stderr
    assert [fault.code for fault in check_here(read_sources(folder))] == ["policy_default"]


def test_what_opa_takes_for_a_default_is_taken(tmp_path: Path) -> None:
    way = {"a": 'package routing\n\ndefault decision := {"allow": true, "versions": ["3", -1, null]}\n\n'}
    folder = write(tmp_path, {**way, "b": "package b\n\ndefault x := [y | y := input.z]"})
    assert opa("check", folder).returncode == 0
    assert check_here(read_sources(folder)) == []
