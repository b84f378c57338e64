"""Records of feedback as JSON: what is said of one that is none."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from extproc.control.api.feedback_http import parse_records
from extproc.control.feedback.records import UnreadableRecord


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction": 0.7, "label": 1}, "prediction: must be true or false; a number is one of the outcomes"),
        ({"outcome": {"revenue": 1}}, "outcome: there is decision_id, prediction, label, outcomes and version"),
        ({"outcomes": {"revenue": "1"}}, "outcomes.revenue: must be a valid number"),
    ],
)
def test_a_record_that_is_none_is_told_what_it_has_to_be(fields: dict[str, Any], message: str) -> None:
    assert parse_records(orjson.dumps({"decision_id": "x", **fields})) == [UnreadableRecord("x", message)]


def test_a_record_without_an_id_is_told_that_it_needs_one() -> None:
    assert parse_records(b'{"label": true, "prediction": true}') == [UnreadableRecord(None, "decision_id: is required")]
