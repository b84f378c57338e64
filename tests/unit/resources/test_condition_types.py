"""The types in a condition: what can only be an error, or is rounded, is refused where it is written, with advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from extproc.resources.condition_types import type_faults
from extproc.resources.conditions import ConditionError, compile_condition
from extproc.resources.loading import load_paths, parse_template
from extproc.resources.providers.observed import PROVIDER
from tests.support.templates import metric, template

RESULT = PROVIDER.results["error_rate"]
ARGS = {"most": "0.06", "n": None}


def faults(source: str) -> list[str]:
    compile_condition(source)
    return type_faults(source, RESULT, ARGS)


@pytest.mark.parametrize(
    ("source", "left", "right"),
    [
        ("result.canary.failures / result.canary.requests < 0.05", "result.canary.failures", "result.canary.requests"),
        (
            "0.05 > result.canary['failures']/result.canary.requests",
            "result.canary['failures']",
            "result.canary.requests",
        ),
        ("(result.canary.failures + 1) / 1000 < 1", "result.canary.failures + 1", "1000"),
        ("1.0 - double((result.canary.failures / 10)) > 0.5", "result.canary.failures", "10"),
        ("result.canary.rate < 5 / 100", "5", "100"),
        ("(true ? result.canary.failures : 1.0) / 7 < 0.5", "true ? result.canary.failures : 1.0", "7"),
        ("result.lower > 0.0 ? true : 1 / 3 == 0", "1", "3"),
        ("int(args.n) / [1, 2][0] < 1", "int(args.n)", "[1, 2][0]"),
        ("1u / uint(args.n) < 1u", "1u", "uint(args.n)"),
        ("-result.canary.failures / (2) > 1", "-result.canary.failures", "2"),
        ("(1 + 1) / (2 + 2) > 1", "1 + 1", "2 + 2"),
        ("0x10 / 2 > 1 // 1.0 / 2.0", "0x10", "2"),
    ],
)
def test_a_quotient_of_whole_numbers_is_refused_with_the_way_out(source: str, left: str, right: str) -> None:
    (message,) = faults(source)
    assert message.endswith(f"the quotient is rounded to one; write double({left}) / double({right})")


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("result[0] < 0.05", "result is no list and has no [0]; it has fields by name: canary, control, difference,"),
        ("result.canary[0] < 0.05", "result.canary is no list and has no [0]; it has fields by name: requests,"),
        ("result.lower > 0.0 || result[1 - 1] > 0", "result is no list and has no [1 - 1]; "),
        ("args[0] == ''", "args is no list and has no [0]; it has fields by name: most, n"),
        ("(result)[2.0] == 1", "result is no list and has no [2.0]; "),
    ],
)
def test_an_index_by_number_on_what_is_no_list_is_refused_with_the_fields(source: str, what: str) -> None:
    (message,) = faults(source)
    assert message.startswith(what)


FIELDS = "requests, failures, rate, abandoned"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "result.canary.rate > args.most",
            "'result.canary.rate > args.most' compares a double with text; write double(args.most)",
        ),
        ("args['most'] > 1", "\"args['most'] > 1\" compares text with a whole number; write double(args['most'])"),
        ("result.ratio > '1.5'", "\"result.ratio > '1.5'\" compares a double with text; write 1.5"),
        ("result.ratio > 'much'", "\"result.ratio > 'much'\" compares a double with text"),
        ("args.most > true", "'args.most > true' compares text with true or false"),
        (
            "result.lower > 0.0 || result.canary.rate * 2 > 0.1",
            "'result.canary.rate * 2' computes with a double and a whole number; write 2.0",
        ),
        ("true || (1 + 1.0 > 2)", "'1 + 1.0' computes with a whole number and a double; write 1.0"),
        (
            "result.canary.failures * 0.5 > 1.0",
            "'result.canary.failures * 0.5' computes with a whole number and a double; "
            "write double(result.canary.failures)",
        ),
        (
            "args.most - args.n > 1.0",
            "'args.most - args.n' computes with text and text; write double(args.most) and double(args.n)",
        ),
        (
            "result.canary.rate % 2 > 0",
            "'result.canary.rate % 2' computes with a double and a whole number; write int(result.canary.rate)",
        ),
        (
            "result.lower > 0.0 || result.canary > 1",
            f"'result.canary > 1' compares an object with a whole number; write a field of result.canary: {FIELDS}",
        ),
        (
            "result.lower > 0.0 || result.canary.requests == args.n",
            "'result.canary.requests == args.n' compares a whole number with text, which are never equal; "
            "write double(args.n)",
        ),
        ("-args.most > 1", "'-args.most > 1' compares text with a whole number"),
    ],
)
def test_types_that_do_not_go_together_are_said_with_what_to_write_in_branches_that_no_example_takes_too(
    source: str, message: str
) -> None:
    assert faults(source) == [message]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("result > args.most", "'result > args.most' compares a double with text; write double(args.most)"),
        ("{'a': 1}['a'] > args.most", "the condition compares or computes values of different types"),
        ("[1][0] > ('a' + args.most)", "\"[1][0] > 'a' + args.most\" compares a whole number with text"),
    ],
)
def test_what_goes_wrong_with_a_result_is_said_as_before_there_was_one(source: str, message: str) -> None:
    with pytest.raises(ConditionError) as caught:
        compile_condition(source).holds(0.5, {"most": "0.1"})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "source",
    [
        "double(result.canary.failures) / double(result.canary.requests) < 0.05",
        "result.canary.rate / 2.0 < 5e-2",
        "result.canary.failures * 100 < result.canary.requests * 5",
        "result.canary.failures % 10 == 0 && 1e-5 < .5",
        "result['canary']['rate'] < double(args.most)",
        "result.canary.requests > 5000 ? result.ratio < 1.1 : result.ratio < 1.3 // a / b",
        "result.canary.requests in [1, 2] || [1.0, 2.0][1] / 2.0 > 0.5 || ['a'][0] + 'b' == 'ab'",
        "has(result.lower) && !(result.ratio > 2) && -result.ratio < 1",
        "(result.canary.requests > 1 ? 1.0 : 2.0) / result.ratio > 0.1",
        "args.most == '1 / 2' || result.lower != null || result.canary == result.control || result.ratio == 1",
        "{'a': 1 / 2}['a'] == 0",
    ],
)
def test_what_its_types_allow_is_taken(source: str) -> None:
    assert faults(source) == []


def typed(kind: str, depth: int) -> st.SearchStrategy[tuple[str, bool]]:
    """Expressions of a type, and whether there is a quotient of whole numbers in them."""
    leaves = {
        "int": ["1", "7", "result.canary.requests", "result['control']['failures']", "int(args.most)"],
        "double": ["1.5", "2e-3", ".5", "result.canary.rate", "double(args.most)", "result.ratio"],
        "bool": ["true", "has(result.lower)", "args.most == '1'"],
    }[kind]
    leaf = st.sampled_from(leaves).map(lambda text: (text, False))
    if depth == 0:
        return leaf

    def joined(operator: str, of: str) -> st.SearchStrategy[tuple[str, bool]]:
        divides = operator == "/" and of == "int"
        pair = st.tuples(typed(of, depth - 1), typed(of, depth - 1))
        return pair.map(lambda two: (f"({two[0][0]}) {operator} ({two[1][0]})", divides or two[0][1] or two[1][1]))

    operators = {"int": "+-*/%", "double": "+-*/"}.get(kind, "")
    ways = [joined(operator, kind) for operator in operators]
    if kind == "bool":
        ways = [joined(operator, of) for operator in ("<", ">=", "==") for of in ("int", "double")]
        ways += [joined(operator, "bool") for operator in ("&&", "||")]
    if kind == "double":
        ways.append(typed("int", depth - 1).map(lambda one: (f"double({one[0]})", one[1])))
    branch = st.tuples(typed("bool", depth - 1), typed(kind, depth - 1), typed(kind, depth - 1))
    ways.append(branch.map(lambda of: (f"(({of[0][0]}) ? {of[1][0]} : {of[2][0]})", any(part[1] for part in of))))
    return leaf | st.one_of(ways)


@given(typed("bool", 3))
def test_a_condition_is_refused_where_whole_numbers_are_divided_and_nowhere_else(drawn: tuple[str, bool]) -> None:
    source, divides = drawn
    assert bool(type_faults(source, RESULT, ARGS)) == divides


@given(st.text("result.canary[0]/1.5 ?:()+-*%<>=!&|in'\"{}double,", max_size=60))
def test_any_text_ends_without_a_surprise(source: str) -> None:
    type_faults(source, RESULT, ARGS)
    type_faults("(" * 400 + source, RESULT, ARGS)


def test_a_template_is_refused_where_it_is_written_and_one_in_a_store_goes_on(tmp_path: Path) -> None:
    body: dict[str, Any] = template(metric(failureCondition="result[0] > 0.05"))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(body))
    (fault,) = load_paths([tmp_path]).faults
    assert (fault.code, fault.field) == ("condition_invalid", "spec.metrics[0].failureCondition")
    assert parse_template(body).spec.metrics[0].failure_condition == "result[0] > 0.05"
