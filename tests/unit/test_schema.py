"""``dropout schema``: the published schemas agree with what is accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from extproc.cli import main
from extproc.errors import InvalidInput
from extproc.resources.loading import parse_rollout
from extproc.resources.schema import known_fields, rollout_schema
from tests.support.rollouts import CANARY, EXPERIMENT, document
from tests.unit.test_documents import DESIGN, EXPERIMENT_FAULTS, MINIMAL, SPEC_FAULTS, spec_with

DOCUMENTS = {
    "the design's": yaml.safe_load(DESIGN),
    "the least": yaml.safe_load(MINIMAL),
    "an experiment": document(
        spec_with(
            EXPERIMENT,
            coverage=20,
            holdout={"name": "global-2026", "percent": 5},
            layer={"name": "checkout", "range": [0, 5000]},
        )
    ),
    "a shadow": document(spec_with(CANARY, canary=None, shadow={"version": "4", "percent": 12.34})),
    "a canary with a shadow": document(spec_with(CANARY, shadow={"version": "5"})),
}

# What a schema cannot say, or only so that no editor's message would help.
BEYOND_A_SCHEMA = {
    "weights below 100",
    "weights above 100",
    "variants of one name",
    "a variant called canary",
    "a variant called excluded",
    "a header asked for twice",
    "an argument given twice",
    "an alias that resolves to nothing",
    "a header that Dropout itself sets",
    "an upstream that grows too long",
    "a duration of nothing",
    "three decimals",
    "a layer without buckets",
    "a match entry with empty lists",
    "a version with a newline",  # Python's $ looks past it; JSON Schema's does not
}


def schema(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    with pytest.raises(SystemExit) as exited:
        main(["schema", *arguments])
    assert exited.value.code == 0
    return json.loads(capsys.readouterr().out)


def valid(body: object) -> bool:
    return bool(Draft202012Validator(rollout_schema()).is_valid(body))


def test_the_rollout_schema_is_what_schema_prints_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    printed = schema(capsys)
    Draft202012Validator.check_schema(printed)
    assert printed == rollout_schema() == schema(capsys, "rollout", "-o", "json")
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert printed["title"] == "Rollout"


@pytest.mark.parametrize("what", ["policy-input", "policy-decision"])
def test_the_policys_schemas_are_printed(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    Draft202012Validator.check_schema(schema(capsys, what))


def test_every_field_is_described_for_editors() -> None:
    for name, definition in rollout_schema()["$defs"].items():
        assert definition["description"], name
        for field, described in definition["properties"].items():
            assert "description" in described or "$ref" in described, (name, field)


def test_defaults_are_shown_as_documents_write_them() -> None:
    definitions = rollout_schema()["$defs"]
    assert definitions["FeaturesSpec"]["properties"]["timeout"]["default"] == "5ms"
    assert definitions["BreakerSpec"]["properties"]["window"]["default"] == "10s"
    assert definitions["ShadowSpec"]["properties"]["percent"]["default"] == 100


@pytest.mark.parametrize("body", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_what_is_accepted_fits_the_schema(body: dict[str, Any]) -> None:
    parse_rollout(body)
    assert valid(body)


@pytest.mark.parametrize(
    ("base", "what", "changes", "expected"),
    [(CANARY, *fault) for fault in SPEC_FAULTS] + [(EXPERIMENT, *fault) for fault in EXPERIMENT_FAULTS],
    ids=[fault[0] for fault in SPEC_FAULTS + EXPERIMENT_FAULTS],
)
def test_what_is_refused_does_not_fit_it_as_far_as_a_schema_can_say(
    base: dict[str, Any], what: str, changes: dict[str, Any], expected: object
) -> None:
    body = document(spec_with(base, **changes))
    with pytest.raises(InvalidInput):
        parse_rollout(body)
    assert valid(body) == (what in BEYOND_A_SCHEMA)


def test_the_fields_of_a_place_are_known() -> None:
    assert known_fields(("spec", "steps", 0)) == ["shadow", "pause", "setWeight", "analysis"]
    assert known_fields(("spec", "aliases")) == []
    assert "match" in known_fields(("spec",))
