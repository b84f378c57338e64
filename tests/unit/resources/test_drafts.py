"""A fault hides no other: all that can be known of documents is told at once, and nothing that follows from a fault."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.errors import Fault, InvalidInput
from extproc.resources.loading import load_valid
from tests.support.rollouts import CANARY, document

DOCUMENTS = """\
apiVersion: dropout.dev/v1alpha1
kind: AnalysisTemplate
metadata: {name: fp}
spec:
  args:
    - {name: most}
  metrics:
    - name: alarms
      interval: 1s
      count: 60
      failureCondition: result.lower > 0 || result.canary.rate > double(args.most)
      provider: {feedback: {metric: false_positive_rate, minLabels: 100}}
---
apiVersion: dropout.dev/v1alpha1
kind: Rollout
metadata: {name: credit}
spec:
  model: credit
  match: [{path: {value: /v1/models/credit}}]
  unit: {header: x-user-id}
  stable: {version: "11"}
  canary: {version: "12"}
  steps:
    - setWeight: 10
    - pause: {duration: 2s}
    - setWeight: 50
    - analysis: {templates: [{templateName: fp}], args: [{name: most, value: "0.2"}]}
---
apiVersion: dropout.dev/v1alpha1
kind: Rollout
metadata: {name: ranking}
spec:
  model: ranking
  match: [{path: {value: /v1/models/ranking}}]
  unit: {cookie: visitor}
  coverage: 50
  variants:
    - {name: deep, version: "8", weight: 50}
    - {name: control, version: "7", weight: 50}
"""

FAULTS = {
    "a misspelt field": ("canary: {version", "canari: {version", "unknown_field", "spec.canari"),
    "a misspelt field of a step": ("setWeight: 10", "setWieght: 10", "unknown_field", "spec.steps[0].setWieght"),
    "a field that nobody meant": (
        "unit: {header: x-user-id}",
        "unit: {header: x-user-id}\n  colour: red",
        "unknown_field",
        "spec.colour",
    ),
    "a misspelt interval": ("interval: 1s", "intervall: 1s", "unknown_field", "spec.metrics[0].intervall"),
    "a misspelt value": (
        "metric: false_positive_rate",
        "metric: false_positive_rates",
        "invalid_value",
        "spec.metrics[0].provider.feedback.metric",
    ),
    "a version without quotes": ('"12"', "12", "mistyped_value", "spec.canary.version"),
    "a unit that is none": ("2s", "2min", "invalid_value", "spec.steps[1].pause.duration"),
    "a weight of too much": ("setWeight: 50", "setWeight: 101", "invalid_value", "spec.steps[2].setWeight"),
    "a step of two things": (
        "setWeight: 50",
        "setWeight: 50\n      pause: {}",
        "conflicting_fields",
        "spec.steps[2].pause",
    ),
    "a condition of another result": (
        "result.lower",
        "result.lowr",
        "condition_invalid",
        "spec.metrics[0].failureCondition",
    ),
    "types that do not go together": (
        "result.lower > 0",
        "args.most > 0",
        "condition_invalid",
        "spec.metrics[0].failureCondition",
    ),
    "an argument that nothing has": (
        "args: [{name: most",
        'args: [{name: least, value: "1"}, {name: most',
        "argument_unknown",
        "spec.steps[3].analysis.args[0].name",
    ),
    "a metric that never ends": ("      count: 60\n", "", "metric_endless", "spec.steps[3].analysis.templates[0]"),
    "a path that is never asked": (
        "/v1/models/credit",
        "/v1/models/%7Ecredit",
        "path_never_matches",
        "spec.match[0].path.value",
    ),
    "a match of another's": ("/v1/models/ranking", "/v1/models/credit", "match_collision", "spec.match[0]"),
    "a wait beyond the deadline": (
        "  model: ranking\n",
        "  model: ranking\n  features: {entity: {header: x-user-id}, view: v, names: [n], timeout: 9s}\n",
        "timeout_beyond_deadline",
        "spec.features.timeout",
    ),
    "a misspelt kind": ("kind: AnalysisTemplate", "kind: AnalysisTemplat", "unsupported_kind", "kind"),
    "too little coverage": ("coverage: 50", "coverage: 0.01", "variant_without_units", "spec.coverage"),
}


def told(tmp_path: Path, *faults: str) -> set[tuple[str, str | None]]:
    text = DOCUMENTS
    for fault in faults:
        right, wrong, _, _ = FAULTS[fault]
        assert right in text
        text = text.replace(right, wrong, 1)
    return {(fault.code, fault.field) for fault in refused(tmp_path, text)}


def refused(tmp_path: Path, text: str) -> tuple[Fault, ...]:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput) as error:
        load_valid([file], deadline=4.0)
    return error.value.faults


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_alone_without_what_follows_from_it(fault: str, tmp_path: Path) -> None:
    _, _, code, field = FAULTS[fault]
    assert told(tmp_path, fault) == {(code, field)}


APART = [
    {"a misspelt value", "types that do not go together"},
    {"a path that is never asked", "a match of another's"},
    {"a misspelt field", "a version without quotes"},
    {"a field that nobody meant", "a match of another's"},  # it may have been the holdout, or the layer
    {"a weight of too much", "a step of two things"},
    {"a condition of another result", "types that do not go together"},
]
"""Those that stand in the same place, or make what the other is about unknown."""
PAIRS = [pair for pair in combinations(FAULTS, 2) if set(pair) not in APART]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_hides_no_other(fault: str, tmp_path: Path) -> None:
    for pair in PAIRS:
        if pair[0] == fault:
            assert told(tmp_path, *pair) == {FAULTS[one][2:] for one in pair}, pair


def test_what_is_misspelt_is_judged_as_what_was_meant_where_it_was_written(tmp_path: Path) -> None:
    text = DOCUMENTS.replace('canary: {version: "12"}', "canari: {versoin: 12}").replace("stable:", "stabel:")
    assert [(fault.line, fault.field, fault.code) for fault in refused(tmp_path, text)] == [
        (21, "spec.stabel", "unknown_field"),
        (22, "spec.canari", "unknown_field"),
        (22, "spec.canari.versoin", "unknown_field"),
        (22, "spec.canari.versoin", "mistyped_value"),
    ]


def test_nothing_is_told_of_what_an_example_had_to_stand_in_for(tmp_path: Path) -> None:
    wrong = {
        "metadata: {name: fp}": "metadata: {name: [fp]}",  # whose arguments these are is not known
        "name: most, value": "name: least, value",
        "/v1/models/ranking": "v1/models/credit",
        "  model: credit\n": "",
    }
    text = DOCUMENTS
    for right, other in wrong.items():
        text = text.replace(right, other, 1)
    assert [(fault.code, fault.field) for fault in refused(tmp_path, text)] == [
        ("mistyped_value", "metadata.name"),
        ("missing_field", "spec.model"),
        ("invalid_value", "spec.match[0].path.value"),
    ]


ELSEWHERE = [{"path": {"value": "/v1/models/other"}}]


@pytest.mark.parametrize(
    "spec",
    [
        {"layer": {"name": "checkout", "range": "half"}},
        {"match": ELSEWHERE, "canary": {"version": []}, "analysis": {"templates": [{"templateName": "t"}]}},
        {"upstream": "{nobody}", "endpoints": {"host": "elsewhere", "port": 80}},
    ],
)
def test_nothing_is_told_that_the_field_at_fault_would_decide(spec: dict[str, Any], tmp_path: Path) -> None:
    layered = {**CANARY, "layer": {"name": "checkout", "range": [5000, 10000]}, "endpoints": {"host": "a", "port": 80}}
    documents = [document(layered, "first"), document({**CANARY, **spec}, "second")]
    assert len(refused(tmp_path, yaml.safe_dump_all(documents))) == 1


def test_an_argument_that_is_misspelt_is_told_with_the_one_that_was_meant(tmp_path: Path) -> None:
    told_of = [
        fault.message for fault in refused(tmp_path, DOCUMENTS.replace("args: [{name: most", "args: [{name: mots"))
    ]
    assert told_of[1] == "no template of this analysis has an argument 'mots'; did you mean 'most'?"


def test_a_document_of_somebody_else_is_told_for_that_alone(tmp_path: Path) -> None:
    theirs = {**document({**CANARY, "colours": 3}), "kind": "rollout", "apiVersion": "argoproj.io/v1alpha1"}
    codes = [fault.code for fault in refused(tmp_path, yaml.safe_dump(theirs))]
    assert sorted(codes) == ["unsupported_api_version", "unsupported_kind"]
