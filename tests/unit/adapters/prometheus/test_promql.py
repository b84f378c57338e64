"""Variables in PromQL: what stands for one stays a value, wherever it is and whatever it holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapters.prometheus.promql import _pieces, filled
from extproc.errors import InvalidInput
from extproc.resources.loading import parse_template
from tests.support.templates import metric, template

TEXTS = [
    'up{job="{{args.x}}"}',
    "up{job='{{ args.x }}', b=~'y'}",
    'up{job=~"a{{args.x}}.*", c!~ # {{args.x}}\n "{{args.x}}"}',
    r'up{job="\\{{args.x}}"}',
]


@pytest.mark.parametrize("query", TEXTS)
@given(value=st.text(st.characters(exclude_categories=["Cs"])))
def test_no_value_ends_the_text_that_it_is_in(query: str, value: str) -> None:
    pieces = list(_pieces(filled(query, {"args.x": value})))
    assert [(piece.kind, piece.is_pattern) for piece in pieces] == [
        (piece.kind, piece.is_pattern) for piece in _pieces(query)
    ]
    assert "\n" not in "".join(piece.text for piece in pieces if piece.kind == "text")


@pytest.mark.parametrize(
    ("query", "value", "expected"),
    [
        ('up{job="{{args.x}}"}', 'a"b\\', r'up{job="a\"b\\"}'),
        ("up{job='{{args.x}}'}", "it's", r"up{job='it\'s'}"),
        ('up{job=~"{{args.x}}|b.*"}', "a.b|c", r'up{job=~"a\\.b\\|c|b.*"}'),
        ('up{job !~ "{{args.x}}"}', "(", r'up{job !~ "\\("}'),
        ("rate(up[{{args.x}}]) # {{args.x}}", "1h30m", "rate(up[1h30m]) # {{args.x}}"),
        ("up > {{ args.x }}", "-1.5e3", "up > -1.5e3"),
    ],
)
def test_a_value_is_written_as_its_place_needs_it(query: str, value: str, expected: str) -> None:
    assert filled(query, {"args.x": value}) == expected


@pytest.mark.parametrize("value", ["up", "1 or up", "5m]", "", "0x1", "1h 1m", "Inf"])
def test_outside_of_quotes_only_a_number_or_a_duration_is_taken(value: str) -> None:
    with pytest.raises(ValueError, match="outside of quotes a query takes a number or a duration"):
        filled("up > {{args.x}}", {"args.x": value})


def test_a_backslash_before_a_variable_does_not_let_its_value_end_the_text() -> None:
    with pytest.raises(ValueError, match="behind a backslash cannot be escaped"):
        filled(r'up{a="\{{args.x}}"}', {"args.x": '"} or vector(1) or up{a="'})


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ('up{a="{{args.mots}}"}', "unknown variable 'args.mots'; known are args.most, rollout.namespace"),
        ("up{a=`{{args.most}}`}", "a variable in backticks cannot be escaped"),
        ("up > {{most}}", "unknown variable 'most'"),
        (r'up{a="\{{args.most}}"}', "a variable behind a backslash cannot be escaped"),
        (r"up{a='\\\{{args.most}}'}", "a variable behind a backslash cannot be escaped"),
    ],
)
def test_a_variable_that_is_unknown_or_cannot_be_escaped_is_refused_where_it_is_written(query: str, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_template(document(query))
    (fault,) = refused.value.faults
    assert (fault.code, fault.field) == ("query_invalid", "spec.metrics[0].provider.prometheus.query")
    assert said in fault.message


def test_a_query_with_what_every_rollout_has_is_taken() -> None:
    said = "{{rollout.namespace}} {{rollout.name}} {{canary.version}} {{control.version}} {{args.most}}"
    assert parse_template(document(f'up{{a="{said}"}} # {{{{nobody}}}}')).spec.metrics[0].provider.name == "prometheus"


def document(query: str) -> dict[str, Any]:
    asked = {"prometheus": {"server": "main", "query": query}}
    return template(metric(provider=asked, failureCondition="result[0] > 0.5"), args=[{"name": "most", "value": "1"}])
