"""The capabilities file is what the engine offers: no more by the check of OPA, no less by that of the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.regorus.capabilities import offered
from extproc.adapters.regorus.policy import check_here
from tests.support.policies import sources_of
from tests.systems.opa import opa

OPERATORS = {"assign", "internal.member_2", "internal.member_3", "internal.print", "internal.template_string"}
"""Builtins that a policy writes otherwise than by their name, beside those that are infix."""


@pytest.fixture(scope="module")
def all_of_opa() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(opa("capabilities", "--current").stdout)
    return found


@pytest.fixture(scope="module")
def file(all_of_opa: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("capabilities") / "capabilities.json"
    path.write_text(json.dumps(offered(all_of_opa)))
    return path


def calls(builtins: list[dict[str, Any]]) -> dict[str, str]:
    """A rule that calls each builtin which is called by its name."""
    found = {}
    for builtin in builtins:
        name, given = builtin["name"], [f"input.a{number}" for number, _ in enumerate(builtin["decl"].get("args", ()))]
        if "infix" not in builtin and name not in OPERATORS:
            given += ["value"] if builtin.get("relation") else []
            found[name] = f"a if {{ {name}({', '.join(given)}) }}"
    return found


def test_what_is_offered_is_what_the_engine_takes(all_of_opa: Mapping[str, Any]) -> None:
    names = {builtin["name"] for builtin in offered(all_of_opa)["builtins"]}
    called = calls(all_of_opa["builtins"])
    taken = {name for name, rule in called.items() if not check_here(sources_of(f"package a\n\n{rule}\n"))}
    assert names & called.keys() == taken
    assert len(taken) > 100


def test_opa_refuses_by_it_what_is_not_offered_and_nothing_else(
    all_of_opa: Mapping[str, Any], file: Path, tmp_path: Path
) -> None:
    """Builtins that rego.v1 has done away with it refuses in any case."""
    names = {builtin["name"] for builtin in offered(all_of_opa)["builtins"]}
    called = calls([builtin for builtin in all_of_opa["builtins"] if not builtin.get("deprecated")])
    policy = tmp_path / "a.rego"
    policy.write_text("package a\n\n" + "\n".join(called.values()))
    said = opa("check", "--capabilities", file, "--max-errors", "0", "--format", "json", policy).stderr
    messages = [error["message"] for error in json.loads(said)["errors"]]
    refused = {message.split()[-1] for message in messages if message.startswith("undefined function")}
    assert refused == called.keys() - names


@pytest.mark.parametrize(
    ("text", "takes"),
    [
        ("import rego.v1\n\na if 1 in [1]", True),
        ("import future.keywords.every\n\na if every x in [1] { x == 1 }", True),
        ("a.if := input.not.x", True),
        ("a if 1 + 2 - 3 * 4 / 5 % 6 > 0", True),
        ("a := {1} | {2} & {3}", True),
        ("a if { print(1); x := 1; x != 2; x == 1; x <= 1; x >= 1; x < 2 }", True),
        ("import rego.v2\n\na := 1", False),
        ("import future.keywords.not\n\na := 1", False),
        ('a := $"{input.x}"', True),
        ("a if { 0, 1 in [1] }", True),
    ],
)
def test_both_take_the_same_of_the_language(text: str, takes: bool, file: Path, tmp_path: Path) -> None:
    policy = tmp_path / "a.rego"
    policy.write_text(f"package a\n\n{text}\n")
    assert (opa("check", "--capabilities", file, policy).returncode == 0) == takes
    assert (check_here(sources_of(f"package a\n\n{text}\n")) == []) == takes
