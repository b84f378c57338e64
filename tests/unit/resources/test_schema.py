"""``dropout schema``: the published schemas agree with what is accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from extproc.cli.main import main
from extproc.errors import InvalidInput
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.document import Resource
from extproc.resources.kinds import KINDS, DocumentKind
from extproc.resources.loading import parse_rollout, parse_template
from extproc.resources.providers.table import OURS
from extproc.resources.rollout import Rollout
from extproc.resources.schema import known_fields, schema_of
from tests.support.rollouts import CANARY, EXPERIMENT, document
from tests.support.templates import FALSE_POSITIVES, template
from tests.unit.resources.test_documents import DESIGN, EXPERIMENT_FAULTS, MINIMAL, SPEC_FAULTS, spec_with
from tests.unit.resources.test_templates import FULL, METRIC_FAULTS

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
    "stable alone": document(spec_with(CANARY, canary=None)),
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
    "a join key twice",
    "an argument given twice",
    "an alias that resolves to nothing",
    "a header that Dropout itself sets",
    "a header that no request has",
    "the name of a header in upper case",
    "a feature that is not read",
    "an upstream that grows too long",
    "a duration of nothing",
    "a timeout that Envoy would take for none",
    "a timeout of more than a year",
    "three decimals",
    "a layer without buckets",
    "servers at no host",
    "a match entry with empty lists",
    "a version with a newline",  # Python's $ looks past it; JSON Schema's does not
    "a template named twice",
}

TEMPLATES = {
    "all that can be said": yaml.safe_load(FULL),
    "the least": template(),
    "labels": template(FALSE_POSITIVES, args=[{"name": "most"}]),
}

BEYOND_A_SCHEMA_OF_TEMPLATES = {
    "an interval of nothing",
    "several measurements at once",
    "a limit above the count",
    "an inconclusive limit above the count",
    "a quantile of errors",
    "bounds of a latency",
    "an outcome without a mean",
    "a mean of nothing",
    "an argument that nobody declares",
    "a field that the result has not",
    "no CEL",
    "two conditions that are none",
}


def schema(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    with pytest.raises(SystemExit) as exited:
        main(["schema", *arguments])
    assert exited.value.code == 0
    return json.loads(capsys.readouterr().out)


def valid(body: object, model: type[Resource] = Rollout) -> bool:
    return bool(Draft202012Validator(schema_of(model)).is_valid(body))


def test_the_rollout_schema_is_what_schema_prints_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    printed = schema(capsys)
    Draft202012Validator.check_schema(printed)
    assert printed == schema_of(Rollout) == schema(capsys, "rollout", "-o", "json")
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert printed["title"] == "Rollout"


@pytest.mark.parametrize("what", ["policy-input", "policy-decision"])
def test_the_policys_schemas_are_printed(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    Draft202012Validator.check_schema(schema(capsys, what))


def test_the_templates_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    printed = schema(capsys, "analysistemplate")
    Draft202012Validator.check_schema(printed)
    assert printed == schema_of(AnalysisTemplate)
    assert printed["$id"].endswith("/analysistemplate.schema.json")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_every_field_is_described_for_editors(kind: DocumentKind) -> None:
    for name, definition in schema_of(kind.model)["$defs"].items():
        assert definition["description"], name
        for field, described in definition["properties"].items():
            assert "description" in described or "$ref" in described, (name, field)


def test_defaults_are_shown_as_documents_write_them() -> None:
    definitions = schema_of(Rollout)["$defs"]
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


@pytest.mark.parametrize("body", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_a_template_that_is_accepted_fits_its_schema(body: dict[str, Any]) -> None:
    parse_template(body)
    assert valid(body, AnalysisTemplate)


@pytest.mark.parametrize(("what", "wrong", "expected"), METRIC_FAULTS, ids=[fault[0] for fault in METRIC_FAULTS])
def test_a_metric_that_is_refused_does_not_fit_it_as_far_as_a_schema_can_say(
    what: str, wrong: dict[str, Any], expected: object
) -> None:
    assert valid(template(wrong), AnalysisTemplate) == (what in BEYOND_A_SCHEMA_OF_TEMPLATES)


def test_the_fields_of_a_place_are_known() -> None:
    assert known_fields(AnalysisTemplate, ("spec", "metrics", 0, "provider")) == [*OURS]
    assert known_fields(Rollout, ("spec", "steps", 0)) == ["setWeight", "pause", "analysis", "shadow"]
    assert known_fields(Rollout, ("spec", "aliases")) == []
    assert "match" in known_fields(Rollout, ("spec",))
