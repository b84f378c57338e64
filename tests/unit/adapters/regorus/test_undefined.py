"""What is undefined in OPA is undefined here, where the engine by itself would end the evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.adapters.regorus import policy
from extproc.adapters.regorus.rego_tests import run_tests
from tests.support.policies import engine_of, sources_of


def reason_of(rules: str, document: dict[str, Any] | None = None, data: dict[str, Any] | None = None) -> str | None:
    """The reason of the decision, a rule ``value`` or else ``undefined``."""
    head = 'package routing\n\ndecision := {"allow": true, "reason": value}\n\ndefault value := "undefined"\n\n'
    verdict = engine_of(head + rules + "\n", data).evaluate("routing/decision", document or {})
    assert verdict.fault is None, verdict
    return verdict.reason


FAILING = [
    "1 / 0",
    "1 % 0",
    "1 % 0.5",
    "input.text + 1",
    "2 * input.text",
    "input.text - {1}",
    "{1} & input.text",
    "{1} | [1]",
    "(input.one + 2) * (3 - input.text) # 1 - 1 )",
    "count(7 / (input.one - 1))",
    'to_number("abc")',
    "to_number([])",
    "count(input.one)",
    "lower(input.one)",
    'startswith(input.one, "a")',
    'concat(",", ["a", input.one])',
    "sum([1, input.text])",
    "max(input.text)",
    'object.get(input.one, "a", 1)',
    'json.unmarshal("{")',
    "json.unmarshal(input.one)",
    'base64.decode("*")',
    'base64url.decode("*")',
    'hex.decode("0g")',
    'urlquery.decode("%zz")',
    'regex.match("(", "a")',
    "regex.match(input.one, input.text)",
    'time.parse_ns("2006-01-02", "2026-02-30")',
    'time.parse_rfc3339_ns("yesterday")',
    'time.parse_duration_ns("soon")',
    'time.weekday([1, "Nowhere/City"])',
    "time.clock(1e30)",
    "format_int(3, 7)",
    'substring("abc", -1, 2)',
    'semver.compare("1", "2")',
    "numbers.range_step(1, 2, 0)",
    'yaml.unmarshal("[a")',
    'units.parse_bytes("a lot")',
]


@pytest.mark.parametrize("expression", FAILING)
def test_what_fails_in_opa_is_undefined_and_the_evaluation_goes_on(expression: str) -> None:
    given = {"one": 1, "text": "a"}
    rules = f"found := {expression}\n\n"
    assert reason_of(f'{rules}value := "held" if found', given) == "undefined"
    assert reason_of(f'{rules}value := "not" if not found', given) == "not"
    assert reason_of(f'{rules}value := "other" if 1 + input.one == 2', given) == "other"


def test_a_test_of_a_policy_goes_on_like_a_decision() -> None:
    text = (
        'package routing_test\n\ntest_it if not to_number("x")\n\ntest_with if 3 == count("x") with count as lower_\n'
    )
    text += "\nlower_(_) := 3 if not 1 / 0\n"
    results = run_tests(sources_of({"routing/decision_test.rego": text})).tests
    assert [(result.name, result.outcome) for result in results] == [
        ("data.routing_test.test_it", "pass"),
        ("data.routing_test.test_with", "pass"),
    ]


def test_what_is_not_sure_to_be_undefined_in_opa_ends_the_evaluation_at_the_policys_own_line() -> None:
    text = 'package routing\n\nx if 1 / 0\n\ndecision := regex.match("(?<name>a)(?=b)", input.a) if not x\n'
    verdict = engine_of(text).evaluate("routing/decision", {"a": "ab"})
    assert (verdict.fault, verdict.message) == ("policy_error", "routing/decision.rego:3: divide by zero")


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ('sprintf("%q", [input.a])', "sprintf cannot be sure to answer this as OPA does"),
        ('glob.match("{,a}[b]", null, input.a)', "glob.match cannot be sure to answer this as OPA does"),
        ('$"{[1, 2][_]}"', "a template string cannot be sure to answer this as OPA does"),
        ('regex.split("(?=b)", input.a)', "regex.split: invalid regex"),
    ],
)
@pytest.mark.parametrize("wide", ["", "💡"])
def test_an_error_in_a_function_of_ours_names_it_and_the_line_that_calls_it(
    expression: str, said: str, wide: str
) -> None:
    rules = f'package lib\n\nx := sprintf("%d", [1])\n\ny := {expression}\n'
    policy = {"lib.rego": rules, "routing.rego": 'package routing\n\ndecision := [data.lib.y, sprintf("%s", ["a"])]\n'}
    verdict = engine_of(policy).evaluate("routing/decision", {"a": f"a{wide}"})
    assert (verdict.fault, verdict.message) == ("policy_error", f"lib.rego:5: {said}")


def test_a_function_of_ours_is_replaced_by_with_wherever_it_is_called() -> None:
    rules = 'value := sprintf("%d", [1])\n\ntold if value == "x" with sprintf as mocked\n\nmocked(_, _) := "x"\n'
    text = "package a_test\n\nimport data.a\n\ntest_it if a.told\n"
    results = run_tests(sources_of({"a.rego": f"package a\n\n{rules}", "a_test.rego": text})).tests
    assert [result.outcome for result in results] == ["pass"]


def test_where_very_many_calls_are_the_function_is_named_without_the_line() -> None:
    calls = "\n".join(f'x{number} := sprintf("%d", [1])' for number in range(200))
    verdict = engine_of(f'package routing\n\n{calls}\n\ndecision := sprintf("%q", [1])\n').evaluate(
        "routing/decision", {}
    )
    assert verdict.message == "sprintf cannot be sure to answer this as OPA does"


def test_rules_that_contradict_each_other_end_the_evaluation_as_in_opa() -> None:
    verdict = engine_of("package routing\n\ndecision := 1 if not 1 / 0\n\ndecision := 2\n").evaluate(
        "routing/decision", {}
    )
    assert verdict.fault == "policy_error"


def test_an_engine_that_panics_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As the library calls its own."""

    panics, ask = [PanicException()], policy._of_rule

    def once(*asked: Any) -> Any:
        if panics:
            raise panics.pop()
        return ask(*asked)

    monkeypatch.setattr(policy, "_of_rule", once)
    engine = engine_of("package routing\n\ndecision := {} if input.a == 1\n")
    verdict = engine.evaluate("routing/decision", {"a": 1})
    assert (verdict.fault, verdict.message) == ("policy_error", "the engine panicked")
    assert engine.evaluate("routing/decision", {"a": 1}).fault == "policy_invalid"


@pytest.mark.parametrize("where", ["input", "policy", "data"])
def test_a_character_beyond_the_first_plane_is_one_character(where: str) -> None:
    text = {"input": "input.x", "policy": '"a💡"', "data": "data.x"}[where]
    rules = f'value := sprintf("%d", [count({text})])'
    assert reason_of(rules, {"x": "a💡"}, {"x": "a💡"} if where == "data" else None) == "2"
