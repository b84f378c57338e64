"""Whoever wrote the wrong thing is told how the field is written; each example is one that is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.document import Resource
from extproc.resources.examples import example_at
from extproc.resources.kinds import KINDS
from extproc.resources.loading import load_paths
from extproc.resources.marked_yaml import FieldPath, dotted
from extproc.resources.rollout import Rollout
from extproc.resources.schema import resolved, schema_at, schema_of
from tests.unit.resources.test_documents import MINIMAL


def fields(model: type[Resource], path: FieldPath = ()) -> Iterator[FieldPath]:
    """Every field that a document may have, and the items of its lists."""
    schema = schema_at(model, path)
    for step in (*schema.get("properties", {}), *([0] if "items" in schema else [])):
        yield (*path, step)
        yield from fields(model, (*path, step))


FIELDS = [(kind.model, path) for kind in KINDS.values() for path in fields(kind.model)]


def message(tmp_path: Path, text: str) -> str:
    (tmp_path / "a.yaml").write_text(text)
    (fault,) = load_paths([tmp_path]).faults
    return fault.message


@pytest.mark.parametrize(("model", "path"), FIELDS, ids=[f"{model.__name__} {dotted(path)}" for model, path in FIELDS])
def test_every_field_but_a_boolean_has_an_example_that_its_schema_accepts(
    model: type[Resource], path: FieldPath
) -> None:
    schema = resolved(model, schema_at(model, path))
    example = example_at(model, path)
    if schema.get("type") == "boolean":
        return
    assert example is not None
    validator = Draft202012Validator({**schema, "$defs": schema_of(model)["$defs"]})
    assert [error.message for error in validator.iter_errors(yaml.safe_load(example))] == []


@pytest.mark.parametrize("model", [Rollout, AnalysisTemplate])
def test_the_example_of_a_whole_document_is_one(model: type[Resource], tmp_path: Path) -> None:
    example = example_at(model, ())
    assert example is not None
    (tmp_path / "a.yaml").write_text(example)
    loaded = load_paths([tmp_path])
    assert (len(loaded.documents), loaded.faults) == (1, [])


MAPPINGS = [
    (path[1:], sort)
    for model, path in FIELDS
    if model is Rollout and path[0] == "spec" and len(path) == 2
    if (sort := schema_at(model, path).get("type")) in ("object", "array")
]


@pytest.mark.parametrize(("path", "sort"), MAPPINGS)
def test_a_text_in_place_of_a_mapping_or_a_list_is_told_an_example(path: FieldPath, sort: str, tmp_path: Path) -> None:
    name = str(path[0])
    body = {**yaml.safe_load(MINIMAL)}
    body["spec"] = {**body["spec"], name: "x"}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(body))
    faults = [fault for fault in load_paths([tmp_path]).faults if fault.code == "mistyped_value"]
    what = "mapping" if sort == "object" else "list"
    assert [fault.field for fault in faults] == [f"spec.{name}"]
    assert faults[0].message.startswith(f"must be a {what}, such as {example_at(Rollout, ('spec', name))}")


STEP = "must be a mapping with one of setWeight, pause, analysis and shadow, such as {setWeight: 5}"


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("", STEP),
        ("setWeight 50", STEP + "; did you mean 'setWeight: 50', with a colon and a space?"),
        ("setWeight:50", STEP + "; did you mean 'setWeight: 50', with a colon and a space?"),
        ("wait 5m", STEP),
        ("wait: 5m", "unknown field 'wait'; known are setWeight, pause, analysis and shadow"),
        ("SETWEIGHT: 5", "unknown field 'SETWEIGHT'; did you mean 'setWeight'?"),
        ("pause:", "pause has no value; it takes one, such as pause: {duration: 10m} or {}"),
        ("setWeight:", "setWeight has no value; it takes one, such as setWeight: 5"),
        (
            "{setWeight: 5, pause: {}}",
            "only one of setWeight and pause; if these are two entries, begin each with '- '",
        ),
        ("{}", "needs setWeight or pause or analysis or shadow, such as {setWeight: 5}"),
        ("pause: 10m", "must be a mapping, such as {duration: 10m} or {}"),
        ('setWeight: "50%"', "must be a number of percent, such as 5 or 12.5, without quotes or a percent sign"),
    ],
)
def test_a_step_that_is_none_is_told_how_one_is_written(step: str, told: str, tmp_path: Path) -> None:
    assert message(tmp_path, MINIMAL + f"  steps:\n    - {step}\n") == told


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("unit: {cookie: user}", "unit: {cookie: }", "cookie has no value; it takes one, such as cookie: user"),
        ("unit: {cookie: user}", "unit: {}", "needs header or cookie, such as {header: x-user-id}"),
        ("  model: fraud-detector\n", "", "model is required, such as model: fraud-detector"),
        ("kind: Rollout", "kind: rollout", "kind 'rollout' is not known here; did you mean 'Rollout'?"),
        (
            "kind: Rollout",
            "kind: Deployment",
            "kind 'Deployment' is not known here; Rollout and AnalysisTemplate are",
        ),
    ],
)
def test_what_is_missing_or_unknown_is_told_with_what_there_is(
    right: str, wrong: str, told: str, tmp_path: Path
) -> None:
    assert right in MINIMAL
    assert message(tmp_path, MINIMAL.replace(right, wrong)) == told
