"""An analysis that could never run is refused where it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from extproc.resources.loading import load_paths, parse_rollout
from extproc.resources.rollout import Rollout
from extproc.resources.schema import schema_of
from tests.support.rollouts import CANARY, EXPERIMENT, document

ANALYSIS = {"templates": [{"templateName": "fraud-health"}]}
SHADOW = {**{name: value for name, value in CANARY.items() if name != "canary"}, "shadow": {"version": "4"}}


def faults(spec: dict[str, Any], folder: Path) -> list[tuple[str, str | None]]:
    (folder / "a.yaml").write_text(yaml.safe_dump(document({**spec, "analysis": ANALYSIS})))
    return [(fault.code, fault.field) for fault in load_paths([folder]).faults]


def an_editor_takes(spec: dict[str, Any]) -> bool:
    return bool(Draft202012Validator(schema_of(Rollout)).is_valid(document({**spec, "analysis": ANALYSIS})))


def test_a_shadow_alone_is_not_analysed_and_what_a_store_has_of_one_is_served_on(tmp_path: Path) -> None:
    assert faults(SHADOW, tmp_path) == [("analysis_never_runs", "spec.analysis")]
    assert not an_editor_takes(SHADOW)
    assert parse_rollout(document({**SHADOW, "analysis": ANALYSIS})).spec.analysis is not None


@pytest.mark.parametrize("spec", [CANARY, {**CANARY, "shadow": {"version": "5"}}, EXPERIMENT])
def test_what_has_an_arm_to_compare_is_analysed(spec: dict[str, Any], tmp_path: Path) -> None:
    assert faults(spec, tmp_path) == []
    assert an_editor_takes(spec)
