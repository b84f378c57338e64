"""Conditions: what is compiled, what is refused and in which words, and what cannot be evaluated."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.errors import InvalidInput
from extproc.resources.conditions import Condition, ConditionError, compile_condition, faults_in

RESULT: dict[str, Any] = {
    "canary": {"requests": 1000, "rate": 0.05},
    "control": {"requests": 900, "rate": 0.04},
    "difference": 0.01,
    "lower": -0.01,
    "upper": float("inf"),
    "ratio": 1.25,
}
ARGS: dict[str, str | None] = {"most": "0.06", "a-b": None}


def faults(source: str) -> list[str]:
    return faults_in(source, RESULT, ARGS)


def holds(source: str, **args: str) -> bool:
    return compile_condition(source).holds(RESULT, {"most": "0.06", **args})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("result.canary.rate < 0.06", True),
        ("result.lower > 0", False),
        ("result.upper < 1.0", False),
        ("result.canary.rate < double(args.most) && result.canary.requests >= 1000", True),
        ('result["canary"]["rate"] - result.control.rate > 0.02', False),
        ("args['most'] == '0.06'", True),
        ("!(result.ratio > 1.2) || result.canary.requests in [1000]", True),
        ("result.canary.requests > 5000 ? result.ratio < 1.1 : result.ratio < 1.3 // for a start", True),
        ("result.ratio\n  < 2.0", True),
        ("string(result.canary.requests) == '1000'", True),
        ("1e-5 < .5", True),
    ],
)
def test_a_condition_is_cel_over_the_result_and_the_arguments(source: str, expected: bool) -> None:
    assert faults(source) == []
    assert holds(source) is expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("result.lowr > 0", "'result.lowr' is unknown; did you mean 'result.lower'?"),
        ("result.canary.x > 0", "'result.canary.x' is unknown; requests and rate are known"),
        (
            "has(result.value)",
            "'result.value' is unknown; canary, control, difference, lower, upper and ratio are known",
        ),
        ("result.ratio.x > 0", "result.ratio has no fields"),
        ("reslt.lower > 0", "'reslt' is unknown; did you mean 'result'?"),
        (".result.lower > 0", "'.result' is unknown; did you mean 'result'?"),
        ("threshold > 0.1", "'threshold' is unknown; result and args are known"),
        ("result.ratio < double(args.mots)", "'args.mots' is unknown; did you mean 'args.most'?"),
        ("args['c'] == ''", "'args.c' is unknown; most and a-b are known"),
        ("max(result.ratio, 1.0) > 1.0", "'max' cannot be called here; double, has, int, size, string and uint can"),
        ("1 <", "is not CEL: mismatched input '<EOF>' at character 4"),
        ("result.lower > 0\n  && ) ", "is not CEL: mismatched input ')' at line 2, character 6"),
        ("result.ratio == '\\n'", "text in a condition is quoted simply, without a backslash"),
    ],
)
def test_what_is_wrong_with_a_condition_is_said(source: str, message: str) -> None:
    assert faults(source) == [message]


def test_every_wrong_name_is_said_at_once() -> None:
    assert len(faults("result.lowr > 0 || result.uper < 0 || args.x == result.lowr")) == 3


@pytest.mark.parametrize(
    ("source", "operator"),
    [
        ("result.lower > 0 and result.ratio > 1.1", "'and' is no operator of CEL; write &&"),
        ("result.lower > 0 or result.ratio > 1.1", "'or' is no operator of CEL; write ||"),
        ("not (result.lower > 0)", "'not' is no operator of CEL; write !"),
        ("not result.lower > 0", "'not' is no operator of CEL; write !"),
    ],
)
def test_an_operator_that_is_written_as_a_word_is_told_how_it_is_written(source: str, operator: str) -> None:
    assert operator in faults(source)


def test_without_arguments_there_are_none_to_name() -> None:
    assert faults_in("args.x == ''", RESULT, {}) == ["'args.x' is unknown; there are no arguments"]


@pytest.mark.parametrize("source", ["args.most < 0.1", "result.canary.rate * 2 > 0.1", "result.canary > 1"])
def test_values_of_types_that_do_not_go_together_are_found_before_there_is_a_result(source: str) -> None:
    (message,) = faults(source)
    assert "; write " in message


@pytest.mark.parametrize("source", ["result.ratio", "result.canary", "1 + 1", "null", "'yes'"])
def test_what_is_not_true_or_false_is_no_condition_and_a_number_is_to_be_compared(source: str) -> None:
    (message,) = faults(source)
    compared = f"; compare it with something, as '{source} > 0'" if source in ("result.ratio", "1 + 1") else ""
    assert message.endswith(f"which is neither true nor false{compared}")
    with pytest.raises(ConditionError, match="neither true nor false"):
        holds(source)


@pytest.mark.parametrize(
    "source",
    [
        "[1, 2].all(args, args > 1)",
        "[result].map(result, result) == []",
        "result.exists(x, true)",
        "[1] . filter // harmless\n (result, true) == [1]",
        "1.map(result, true) == 1",
        "{'a': 1}.all(result, true)",
        "result.`all`(result, true)",
        'r"\\".a || [1].all(result, true) || "" == ""',
        '""" """.all(result, true)',
        "'a'.matches('a')",
        "cel.bind(x, 1, x > 0)",
        "now() > 1",
    ],
)
def test_what_could_run_for_long_is_never_compiled(source: str) -> None:
    assert faults(source)
    with pytest.raises(InvalidInput) as caught:
        compile_condition(source)
    assert caught.value.code == "condition_invalid"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("args.absent == ''", "there is no field 'absent'"),
        ("double(args.most) > 1.0", "invalid float literal"),
        ("1 / 0 == 1", "division by zero"),
        ("9223372036854775807 + 1 > 0", "overflow"),
        ("args.most > 1", "compares text with a whole number"),
    ],
)
def test_a_condition_that_has_no_answer_says_why(source: str, message: str) -> None:
    with pytest.raises(ConditionError, match=message):
        holds(source, most="much")


def test_a_panic_in_the_library_is_an_error_like_others() -> None:
    class PanicException(BaseException):
        pass

    class Broken:
        def execute(self, context: object) -> object:
            raise PanicException

    with pytest.raises(ConditionError, match="cannot be evaluated"):
        Condition("true", Broken()).holds({}, {})


WORDS = ["result", "args", ".", "canary", "rate", "lower", "most", "all", "map", "(", ")", "[", "]", "{", "}", "'a'"]
WORDS += [
    '"',
    "'",
    "1",
    "1.5",
    "2u",
    "<",
    "==",
    "&&",
    "||",
    "!",
    "-",
    "/",
    "?",
    ":",
    ",",
    "in",
    "has",
    "double",
    "//",
    "\n",
]


@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=12).map(" ".join))
def test_any_text_at_all_is_a_condition_or_refused_and_ends(source: str) -> None:
    if faults(source):
        return
    try:
        answer = holds(source)
    except ConditionError:
        return
    assert answer in (True, False)


def test_workers_do_without_the_library() -> None:
    code = "import sys, extproc.run.worker, extproc.resources.loading; print('cel' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
