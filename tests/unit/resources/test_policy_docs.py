"""The guide for policy authors names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from extproc.adapters.regorus import policy as regorus_policy
from extproc.datapath.verdict import check_verdict
from extproc.resources import policies
from extproc.resources.control_schema import CONTROL_INPUT_SCHEMA
from extproc.resources.policy_schema import POLICY_DECISION_SCHEMA, POLICY_INPUT_SCHEMA, JsonSchema
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


@pytest.mark.parametrize(
    ("heading", "schema"),
    [("## What comes in", POLICY_INPUT_SCHEMA), ("## Policy on control actions", CONTROL_INPUT_SCHEMA)],
)
def test_the_guide_lists_what_an_input_has_and_nothing_else(heading: str, schema: JsonSchema) -> None:
    table = GUIDE.partition(f"{heading}\n")[2].partition("| `input.` | |\n|---|---|\n")[2].partition("\n\n")[0]
    named = [name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert {name.partition(".")[0] for name in named} == set(schema["properties"])
    if "attributes" in schema["properties"]:
        parts = {f"attributes.{part}" for part in schema["properties"]["attributes"]["properties"]}
        assert {".".join(name.split(".")[:2]) for name in named if name.startswith("attributes.")} == parts


def test_every_forbidden_builtin_is_in_the_guide() -> None:
    assert [name for name in regorus_policy.FORBIDDEN_BUILTINS if f"`{name}`" not in GUIDE] == []


@pytest.mark.parametrize("name", ["crypto.x509", "io.jwt.encode_sign", "graphql.is_valid", "strings.render_template"])
def test_what_the_guide_calls_missing_is_missing(name: str) -> None:
    assert not regorus_policy.engine_has(name)


def test_builtins_that_the_guide_relies_on_are_there() -> None:
    for name in ("object.union", "time.weekday", "object.get", "net.cidr_contains", "walk", "print", "sprintf"):
        assert regorus_policy.engine_has(name)
