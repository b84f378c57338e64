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
from tests.support.pages import code, page, prose_lines, table
from tests.support.paths import POLICIES, RECIPES
from tests.support.policies import recipes

GUIDE = (POLICIES / "README.md").read_text()
REFERENCE = page("reference/policies")


@pytest.mark.parametrize("module", [policies, regorus_policy])
def test_every_code_of_a_refusal_is_on_the_page_of_policies(module: object) -> None:
    source = Path(str(module.__file__)).read_text()  # type: ignore[attr-defined]
    codes = set(re.findall(r'"(polic(?:y|ies)_[a-z_]+)"', source)) - {"policy_error"}
    assert len(codes) > 5
    assert [code for code in sorted(codes) if f"`{code}`" not in REFERENCE] == []


def test_every_field_of_a_decision_is_in_the_guide() -> None:
    fields = list(POLICY_DECISION_SCHEMA["properties"])
    assert [field for field in fields if f"`{field}`" not in GUIDE] == []
    hint = check_verdict({"allow": True, "???": 1}).message
    assert hint is not None
    assert hint.endswith(", ".join(fields))


@pytest.mark.parametrize(
    ("text", "schema"),
    [(GUIDE, POLICY_INPUT_SCHEMA), (page("reference/control-policy"), CONTROL_INPUT_SCHEMA)],
    ids=["requests", "control actions"],
)
def test_what_an_input_has_is_listed_and_nothing_else(text: str, schema: JsonSchema) -> None:
    table = text.partition("| `input.` | |\n|---|---|\n")[2].partition("\n\n")[0]
    named = [name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert {name.partition(".")[0] for name in named} == set(schema["properties"])
    if "attributes" in schema["properties"]:
        parts = {f"attributes.{part}" for part in schema["properties"]["attributes"]["properties"]}
        assert {".".join(name.split(".")[:2]) for name in named if name.startswith("attributes.")} == parts


def test_every_forbidden_builtin_is_on_the_page_of_policies() -> None:
    assert [name for name in regorus_policy.FORBIDDEN_BUILTINS if f"`{name}`" not in REFERENCE] == []


def test_the_guide_has_twelve_recipes_each_with_its_tests_and_its_costs() -> None:
    assert [int(number) for number in re.findall(r"^### (\d+)\. ", GUIDE, re.MULTILINE)] == list(range(1, 13))
    assert [name for name in recipes() if f"<!-- made of the code: recipe_{name} -->" not in GUIDE] == []
    costs = table(GUIDE, "policy", "remembered", "processor's time", "instructions")
    assert {name for cell, *_ in costs for name in code(cell)} >= {*recipes()}
    assert [
        file for file in RECIPES.rglob("*.rego") if not file.name.endswith("_test.rego") and not has_tests(file)
    ] == []


def has_tests(file: Path) -> bool:
    return file.with_name(f"{file.stem}_test.rego").exists()


def test_the_guide_is_read_in_ten_minutes() -> None:
    """At two hundred words a minute, code aside: that is looked up."""
    assert len(" ".join(line for _, line in prose_lines(GUIDE)).split()) <= 2000


@pytest.mark.parametrize(
    "name", ["rego.metadata.rule", "io.jwt.encode_sign", "graphql.is_valid", "strings.render_template"]
)
def test_what_the_page_of_policies_calls_missing_is_missing(name: str) -> None:
    assert not regorus_policy.engine_has(name)


def test_builtins_that_the_guide_relies_on_are_there() -> None:
    for name in ("object.union", "time.weekday", "object.get", "net.cidr_contains", "walk", "print", "sprintf"):
        assert regorus_policy.engine_has(name)
