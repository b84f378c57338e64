"""A query gives what ``opa eval`` makes of it, or is refused as a policy would be."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.adapters.regorus.newer_syntax import in_older_syntax
from extproc.adapters.regorus.querying import PolicyQuery, evaluate_query
from extproc.errors import InvalidInput
from tests.support.policies import sources_of

POLICY = 'package a\n\nx := {"v": ["3", "4"]}\n\ny if input.unit == "u"\n\nf(n) := n + 1\n'


def rows(query: str, given: Any = None) -> list[dict[str, Any]]:
    return PolicyQuery(sources_of(POLICY), query).results({} if given is None else {"input": given})


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("data.a.x.v[_]", ["3", "4"]),
        ("data.a.x", [{"v": ["3", "4"]}]),
        ("data.a.nope", []),
        ("data.a.f(1)", [2]),
        ("false", [False]),
        ("not true", []),
        ("not false", [True]),
        ("input", [{"unit": "u"}]),
        ("data.a.y with input.unit as 3", []),
        ('crypto.sha1("a")', ["86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"]),
        ('io.jwt.decode("garbage")', []),
        ("count(data.a.x.v)\n", [2]),
        ("true # and nothing else", [True]),
        ('$"{data.a.x.v[0]} of {count([v | some v in data.a.x.v])}"', ["3 of 2"]),
        ("{n | some n in [1, 2]} & {2, 3}", [[2]]),
    ],
)
def test_an_expression_has_its_values(query: str, values: list[Any]) -> None:
    found = rows(query, {"unit": "u"})
    assert [[each["value"] for each in row["expressions"]] for row in found] == [[value] for value in values]
    written = in_older_syntax(query.partition(" #")[0].strip())
    assert all(row["expressions"][0]["text"] == written for row in found)


@pytest.mark.parametrize(
    ("query", "bindings"),
    [
        ('x := data.a.x; x.v[i] == "4"', [{"i": 1, "x": {"v": ["3", "4"]}}]),
        ("some k in [1, 2]; k > 0; m := k", [{"k": 1, "m": 1}, {"k": 2, "m": 2}]),
        ("some i; [1, 2][i] == 2", [{"i": 1}]),
        ("x := 1; x == 2", []),
        ("[p, q] = [1, 2]", [{"p": 1, "q": 2}]),
        ("true; 1 == 1", [{}]),
        ("x := [n | n := 1]", [{"x": [1]}]),
        ("[n | n := 1] = x", [{"x": [1]}]),
        ('x := crypto.sha1("a")', [{"x": "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"}]),
    ],
)
def test_names_have_their_values_in_each_way_in_which_all_conditions_hold(
    query: str, bindings: list[dict[str, Any]]
) -> None:
    assert [row["bindings"] for row in rows(query)] == bindings


def test_without_an_input_there_is_none() -> None:
    assert rows("input") == []


@pytest.mark.parametrize(
    ("query", "code", "line"),
    [
        ("http.send({})", "policy_builtin_forbidden", 1),
        ("true\ntime.now_ns() > 0", "policy_builtin_forbidden", 2),
        ("x =", "policy_syntax", 1),
        ("typo", "policy_name_unknown", 1),
        ("  ", "query_empty", None),
    ],
)
def test_what_is_refused_in_a_policy_is_refused_in_a_query(query: str, code: str, line: int | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        rows(query)
    (fault, *_) = caught.value.faults
    assert (fault.code, fault.file, fault.line, fault.field) == (code, None, line, "QUERY")


@pytest.mark.slow
def test_a_query_that_throws_or_does_not_end_is_a_fault_of_it() -> None:
    each = "in numbers.range(1, 100000)"
    for query, code, message in (
        ("{k: v | some k in [1]; some v in [1, 2]}", "policy_error", ""),
        (f"some x {each}; some y {each}; x * y == -1", "policy_too_slow", "the query takes more than 0.3 s"),
        ('"a": 1', "policy_error", ""),
    ):
        with pytest.raises(InvalidInput) as caught:
            evaluate_query(sources_of(POLICY), query, has_input=False, limit=0.3)
        assert caught.value.code == code
        assert caught.value.faults[0].message.startswith(message)
