"""The guide for policy authors names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from extproc.adapters import regorus_policy
from extproc.datapath.verdict import check_verdict
from extproc.resources import policies
from extproc.resources.policy_schema import POLICY_DECISION_SCHEMA, POLICY_INPUT_SCHEMA
from tests.support.paths import POLICIES

GUIDE = (POLICIES / "README.md").read_text()


@pytest.mark.parametrize("module", [policies, regorus_policy])
def test_every_code_of_a_refusal_is_in_the_guide(module: object) -> None:
    source = Path(str(module.__file__)).read_text()  # type: ignore[attr-defined]
    codes = set(re.findall(r'"(polic(?:y|ies)_[a-z_]+)"', source)) - {"policy_error"}
    assert len(codes) > 5
    assert [code for code in sorted(codes) if f"`{code}`" not in GUIDE] == []


def test_every_field_of_a_decision_is_in_the_guide() -> None:
    fields = list(POLICY_DECISION_SCHEMA["properties"])
    assert [field for field in fields if f"`{field}`" not in GUIDE] == []
    hint = check_verdict({"allow": True, "???": 1}).message
    assert hint is not None
    assert hint.endswith(", ".join(fields))


def test_every_part_of_the_input_is_in_the_guide() -> None:
    parts = [name for name in POLICY_INPUT_SCHEMA["properties"] if name not in ("attributes", "version")]
    parts += [f"attributes.{name}" for name in POLICY_INPUT_SCHEMA["properties"]["attributes"]["properties"]]
    assert [part for part in parts if f"`{part}" not in GUIDE] == []


def test_every_forbidden_builtin_is_in_the_guide() -> None:
    assert [name for name in regorus_policy.FORBIDDEN_BUILTINS if f"`{name}`" not in GUIDE] == []


@pytest.mark.parametrize("name", ["crypto.sha256", "io.jwt.decode", "graphql.is_valid", "net.cidr_merge"])
def test_what_the_guide_calls_missing_is_missing(name: str) -> None:
    assert not regorus_policy.engine_has(name)


def test_builtins_that_the_guide_relies_on_are_there() -> None:
    for name in ("object.union", "time.weekday", "object.get", "net.cidr_contains", "walk", "print", "sprintf"):
        assert regorus_policy.engine_has(name)
