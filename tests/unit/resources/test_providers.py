"""Providers of metrics: what one brings to the document is checked as if it had always been there."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import jsonschema
import pytest

from extproc.errors import InvalidInput
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.loading import parse_template
from extproc.resources.providers import table
from extproc.resources.schema import schema_of
from extproc.testing.metrics import MemorySpec
from tests.support.metrics import install_memory, number_of
from tests.support.templates import template

PART = "spec.metrics[0].provider"


def faults_of(body: dict[str, Any]) -> list[tuple[str, str | None]]:
    with pytest.raises(InvalidInput) as refused:
        parse_template(body)
    return [(fault.code, fault.field) for fault in refused.value.faults]


@pytest.mark.parametrize("condition", ["result >= 1.0", "result[0] >= 1.0", "size(result) == 0 || result[0] > 1.0"])
def test_an_installed_one_is_read_into_its_model_with_conditions_on_any_of_its_results(
    monkeypatch: pytest.MonkeyPatch, condition: str
) -> None:
    install_memory(monkeypatch)
    body = template(number_of("main", failureCondition=condition))
    chosen = parse_template(body).spec.metrics[0].provider
    assert (chosen.name, chosen.spec) == ("memory", MemorySpec(server="main", name="n"))
    jsonschema.validate(body, schema_of.__wrapped__(AnalysisTemplate))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"provider": {"memory": {"server": "main"}}}, [("missing_field", f"{PART}.memory.name")]),
        ({"provider": {"memory": {"server": "Main", "name": "n"}}}, [("invalid_value", f"{PART}.memory.server")]),
        (
            {"provider": {"memory": {"server": "m", "nane": "n", "name": "n"}}},
            [("unknown_field", f"{PART}.memory.nane")],
        ),
        ({"provider": {"memry": {"server": "main", "name": "n"}}}, [("unknown_field", f"{PART}.memry")]),
        (
            {"provider": {"memory": {"server": "m", "name": "n"}, "observed": {"metric": "requests"}}},
            [("conflicting_fields", f"{PART}.memory")],
        ),
        ({"failureCondition": "result.canary.rate > 1.0"}, [("condition_invalid", "spec.metrics[0].failureCondition")]),
        ({"failureCondition": "result > 'a'"}, [("condition_invalid", "spec.metrics[0].failureCondition")]),
    ],
)
def test_its_fields_and_the_conditions_on_its_results_are_checked(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    install_memory(monkeypatch)
    assert faults_of(template(number_of("main", **changes))) == expected


def test_one_that_is_not_installed_is_an_unknown_field() -> None:
    assert faults_of(template(number_of("main")))[0] == ("unknown_field", f"{PART}.memory")


@pytest.mark.parametrize(
    "value",
    ["nowhere_at_all:PROVIDER", "extproc.testing.metrics:MemorySpec", "extproc.resources.providers.observed:PROVIDER"],
)
def test_a_broken_one_is_named_where_it_is_used(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    entry = EntryPoint("broken", value, "dropout.metric_documents")
    monkeypatch.setattr(table, "_others", lambda: {entry.name: entry})
    body = template(number_of("main", provider={"broken": {"server": "main"}}))
    assert ("plugin_broken", f"{PART}.broken") in faults_of(body)
    with pytest.raises(InvalidInput, match=f"the plug-in '{value}' for the provider broken:"):
        parse_template(body)
