"""What an answer says of an entity, by the template."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapters.rest.answering import AnswerTemplate, parse_json
from extproc.adapters.rest.template import ResponseSpec, ViewSpec
from extproc.adapters.rest.template_file import read_template
from extproc.adapters.rest.values import WrongTypeError, event_time, typed
from extproc.datapath.ports import FeatureAnswer, FeatureKey, FeatureRow
from extproc.errors import DropoutError, Unreachable
from extproc.snapshot.model import FeatureView

VIEW = FeatureView("user_risk", ("score", "tries"), ("user_id",))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["results", "metadata"]), inner),
    max_leaves=20,
)


def answering(spec: dict[str, Any], **views: dict[str, str]) -> AnswerTemplate:
    known = {
        name: ViewSpec.model_validate({"joinKeys": {"user_id": "integer"}, "features": features})
        for name, features in views.items()
    }
    return AnswerTemplate(ResponseSpec.model_validate(spec), known or None, "the store")


def answers(template: str, answer: Any, *users: int, view: FeatureView = VIEW) -> list[FeatureAnswer]:
    found = AnswerTemplate(read_template(template, "--features").response, None, "the store")
    return found.answers([FeatureKey(view, (user,)) for user in users], answer)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("42", "integer", 42),
        (42, "integer", 42),
        (42.0, "integer", 42),
        ("9223372036854775807", "integer", (1 << 63) - 1),
        (1.5, "number", 1.5),
        (2, "number", 2),
        (True, "boolean", True),
        ("", "string", ""),
        (["1", 2], "integers", [1, 2]),
        ([], "numbers", []),
        ({"a": [1]}, "any", {"a": [1]}),
    ],
)
def test_a_value_is_of_the_type_that_the_template_says(value: Any, kind: str, expected: Any) -> None:
    found = typed(value, kind)
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("4.2", "integer"),
        (4.2, "integer"),
        (1e300, "integer"),
        (True, "integer"),
        ("9223372036854775808", "integer"),
        ("4" * 5000, "integer"),
        ("1_0", "integer"),
        ("1", "number"),
        (True, "number"),
        (1, "boolean"),
        ("true", "boolean"),
        (1, "string"),
        (None, "string"),
        ({}, "number"),
        (1, "numbers"),
        ([1, "x"], "numbers"),
    ],
)
def test_another_is_refused_without_a_word_of_what_it_is(value: Any, kind: str) -> None:
    with pytest.raises(WrongTypeError) as refused:
        typed(value, kind)
    assert "4.2" not in str(refused.value)


@pytest.mark.parametrize(
    ("written", "how", "expected"),
    [
        ("2026-11-30T12:00:00Z", "rfc3339", 1_796_040_000.0),
        ("2026-11-30T13:00:00.250+01:00", "rfc3339", 1_796_040_000.25),
        ("2026-11-30T12:00:00.123456789Z", "rfc3339", 1_796_040_000.123456),
        (1_796_040_000, "unix_seconds", 1_796_040_000.0),
        (1_796_040_000_250, "unix_milliseconds", 1_796_040_000.25),
        (None, "rfc3339", None),
        ("1970-01-01T00:00:00Z", "rfc3339", None),
        (0, "unix_seconds", None),
    ],
)
def test_a_time_is_read_as_the_template_says(written: Any, how: str, expected: float | None) -> None:
    assert event_time(written, how) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("written", "how"),
    [
        ("2026-11-30T12:00:00", "rfc3339"),
        ("2026-11-30", "rfc3339"),
        ("", "rfc3339"),
        (1_796_040_000, "rfc3339"),
        ("1796040000", "unix_seconds"),
        (True, "unix_seconds"),
        (1_796_040_000_250, "unix_seconds"),
        (1 << 62, "unix_milliseconds"),
    ],
)
def test_what_is_no_such_time_is_refused(written: Any, how: str) -> None:
    with pytest.raises(WrongTypeError):
        event_time(written, how)


@given(JSON)
def test_no_answer_of_any_shape_is_an_error_of_another_kind(answer: Any) -> None:
    for template in ("feast", "databricks", "tecton"):
        with suppress(Unreachable):
            found = answers(template, answer, 7, 8)
            assert all(each.rows == {} or isinstance(each.fault, DropoutError) for each in found)


@given(st.recursive(st.none() | st.booleans() | st.floats(), lambda inner: st.lists(inner), max_leaves=9))
def test_json_with_what_is_none_is_read_as_null(value: Any) -> None:
    def nulled(each: Any) -> Any:
        if isinstance(each, list):
            return [nulled(part) for part in each]
        return None if isinstance(each, float) and not math.isfinite(each) else each

    assert parse_json(json.dumps(value).encode()) == nulled(value)


def test_feasts_answer_is_read_by_its_names_and_not_by_their_order() -> None:
    """As a real server of 0.67 gave it."""
    at, epoch = "2026-11-30T12:00:00Z", "1970-01-01T00:00:00Z"
    answer = {
        "metadata": {"feature_names": ["user_id", "user_risk__tries", "user_risk__score"]},
        "results": [
            {"values": [7, 99], "statuses": ["PRESENT", "PRESENT"], "event_timestamps": [epoch, epoch]},
            {"values": [(1 << 53) + 1, None], "statuses": ["PRESENT", "NOT_FOUND"], "event_timestamps": [at, epoch]},
            {"values": [None, None], "statuses": ["PRESENT", "NOT_FOUND"], "event_timestamps": [at, epoch]},
        ],
    }
    known, unknown = answers("feast", answer, 7, 99)
    assert known.rows == {"tries": FeatureRow((1 << 53) + 1, 1_796_040_000.0)}
    assert unknown.rows == {}
    answer["results"][0]["values"] = [99, 7]
    assert [each.rows for each in answers("feast", answer, 7, 99)] == [None, None]


def test_databricks_answer_is_rows_without_times() -> None:
    answer = {"outputs": [{"score": 0.5, "tries": 3}, {"score": None, "tries": None}]}
    known, unknown = answers("databricks", answer, 7, 99)
    assert known.rows == {"score": FeatureRow(0.5, None), "tries": FeatureRow(3, None)}
    assert unknown.rows == {}


def test_the_types_of_views_go_before_those_of_the_answer() -> None:
    spec = {"value": "/{{feature}}", "type": {"at": "/type", "names": {"int64": "integer"}}}
    view = FeatureView("user_risk", ("score",), ("user_id",))
    answer = {"score": "42", "type": "int64"}
    (typed_by_answer,) = answering(spec).answers([FeatureKey(view, (7,))], answer)
    (typed_by_view,) = answering(spec, user_risk={"score": "string"}).answers([FeatureKey(view, (7,))], answer)
    assert typed_by_answer.rows == {"score": FeatureRow(42, None)}
    assert typed_by_view.rows == {"score": FeatureRow("42", None)}


def test_null_is_a_value_where_the_template_says_so() -> None:
    view = FeatureView("user_risk", ("score",), ("user_id",))
    (answer,) = answering({"value": "/{{feature}}", "nulls": "value"}).answers(
        [FeatureKey(view, (7,))], {"score": None}
    )
    assert answer.rows == {"score": FeatureRow(None, None)}


def test_a_message_about_an_answer_does_not_name_the_entity() -> None:
    view = FeatureView("user_risk", ("score",), ("user_id",))
    for answer in ({"of": {"4711": [1]}}, {"of": {"4711": {"4711": [1]}}}):
        key = FeatureKey(view, (4711,))
        (found,) = answering({"value": "/of/{{entity}}/{{entity}}/{{feature}}"}).answers([key], answer)
        assert found.rows is None
        assert "4711" not in str(found.fault)


def test_an_answer_by_the_name_of_the_entity_is_read_by_it() -> None:
    view = FeatureView("user_risk", ("score",), ("user_id",))
    found = answering({"value": "/of/{{entity}}/{{feature}}"}).answers(
        [FeatureKey(view, (user,)) for user in (7, 8, 9)], {"of": {"8": {"score": 1}, "7": {"score": 2}, "9": None}}
    )
    assert [each.rows for each in found] == [{"score": FeatureRow(2, None)}, {"score": FeatureRow(1, None)}, {}]
