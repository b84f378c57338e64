"""Every fault is told at once: what keeps a document from being a model hides nothing that is wrong with the rest."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.errors import InvalidInput
from extproc.resources.loading import load_valid
from tests.support.rollouts import CANARY, document
from tests.support.templates import metric, template

FEATURES = {"entity": {"header": "x-user-id"}, "view": "v", "names": ["n"], "timeout": "9s"}
FAULTS: dict[str, tuple[str, Any]] = {
    "unknown_field": ("colours", 3),
    "mistyped_value": ("log", {"headers": 3}),
    "invalid_value": ("breaker", {"errorRate": 7}),
    "conflicting_fields": ("progressDeadlineAbort", True),
    "path_never_matches": ("match", [{"path": {"value": "/v1//x"}}]),
    "match_collision": ("match", [{"path": {"value": "/other"}}]),
    "timeout_beyond_deadline": ("features", FEATURES),
}
"""One of each place where faults are found: the code, and the field that has it."""


def faults(folder: Path, *documents: dict[str, Any]) -> list[str]:
    """The codes of all that is wrong."""
    file = folder / "a.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    with pytest.raises(InvalidInput) as refused:
        load_valid([file], deadline=4.0)
    assert [fault.line for fault in refused.value.faults if fault.line is None] == []
    return sorted(fault.code for fault in refused.value.faults)


@pytest.mark.parametrize(("one", "other"), list(combinations(FAULTS, 2)))
def test_two_faults_are_told_together_wherever_they_are_found(one: str, other: str, tmp_path: Path) -> None:
    if FAULTS[one][0] == FAULTS[other][0]:
        return
    first = document({**CANARY, "match": [{"path": {"value": "/other"}}]}, "first")
    second = document({**CANARY, **dict([FAULTS[one], FAULTS[other]])}, "second")
    assert faults(tmp_path, first, second) == sorted([one, other])


@pytest.mark.parametrize(
    "spec",
    [
        {"layer": {"name": "checkout", "range": "half"}},
        {"layr": {"name": "checkout", "range": [0, 5000]}},
        {"canary": {"version": 4}, "analysis": {"templates": [{"templateName": "t"}]}},
        {"upstream": "{nobody}", "endpoints": {"host": "elsewhere", "port": 80}},
    ],
)
def test_nothing_is_told_that_the_field_at_fault_would_decide(spec: dict[str, Any], tmp_path: Path) -> None:
    layered = {**CANARY, "layer": {"name": "checkout", "range": [5000, 10000]}, "endpoints": {"host": "a", "port": 80}}
    (_, *more) = faults(tmp_path, document(layered, "first"), document({**CANARY, **spec}, "second"))
    assert more == []


def test_of_a_template_each_metric_is_judged_by_itself(tmp_path: Path) -> None:
    ill_typed, uncounted = metric(name="a", failureCondition="result.lower"), metric(name="b", count=3, interval=None)
    fine = metric(name="c")
    assert faults(tmp_path, template(fine, uncounted, ill_typed)) == ["condition_invalid", "missing_field"]


def test_a_document_whose_kind_is_misspelt_is_judged_as_what_was_meant(tmp_path: Path) -> None:
    misspelt = {**document({**CANARY, "colours": 3}), "kind": "rollout"}
    assert faults(tmp_path, misspelt) == ["unknown_field", "unsupported_kind"]
    others = {**misspelt, "apiVersion": "argoproj.io/v1alpha1"}
    assert faults(tmp_path, others) == ["unsupported_api_version", "unsupported_kind"]
