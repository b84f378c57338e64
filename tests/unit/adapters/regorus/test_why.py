"""Why a rule has its value: the first condition that fails, whatever the engine's own order, and its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from extproc.adapters.regorus.unused import led_to
from extproc.adapters.regorus.why import ExplainedRule, FailedCondition, Reasons, as_json, explain_rules
from extproc.errors import Unreachable
from tests.support.policies import sources_of


def why(text: str | Mapping[str, str], given: Any = None, data: Any = None, entry: str = "a/p") -> list[ExplainedRule]:
    path = tuple(entry.split("/"))
    reasons = Reasons(sources_of(text, data), lambda modules: led_to([path], modules))
    reasons.say_input({} if given is None else given)
    return reasons.rules(path)


def failed(body: str, given: Any = None, rest: str = "") -> FailedCondition | None:
    """The condition that fails of the one rule ``p``, which has this body."""
    rule = why(f"package a\n\np if {{\n{body}\n}}\n{rest}", given)[0]
    (definition,) = rule.definitions
    assert definition.holds == (definition.failed is None) == rule.defined
    return definition.failed


@pytest.mark.parametrize(
    ("body", "line", "condition", "values", "undefined"),
    [
        ("input.x == 1; input.y == 1", 4, "input.y == 1", {"input.y": 2}, []),
        ("input.x == 1\ninput.z == 1\ninput.y == 1", 5, "input.z == 1", {}, ["input.z"]),
        ("v := input.x\nv > 1 # not enough; really", 5, "v > 1", {"v": 1}, []),
        ("not input.x", 4, "not input.x", {"input.x": 1}, []),
        ('"a" == input.s', 4, '"a" == input.s', {"input.s": "b"}, []),
        ('input.s == "a"', 4, 'input.s == "a"', {"input.s": "b"}, []),
        ("some v in input.xs\nv > 3", 5, "v > 3", {"v": 1}, []),
        ('input.o["m"] == 3', 4, 'input.o["m"] == 3', {}, ['input.o["m"]']),
        ("input.xs[i] == 3", 4, "input.xs[i] == 3", {"input.xs": [1, 2]}, []),
        ("some i\ninput.xs[i] == 2\ni == 0", 6, "i == 0", {"i": 1}, []),
        ("every v in input.xs {\n\tv > 1\n}", 4, "every v in input.xs {\n\tv > 1\n}", {"input.xs": [1, 2]}, []),
        ("count(input.xs) > 3", 4, "count(input.xs) > 3", {"count(input.xs)": 2, "input.xs": [1, 2]}, []),
        ('startswith(input.s, "a")', 4, 'startswith(input.s, "a")', {"input.s": "b"}, []),
        ("input.x == 2 with input.y as 5", 4, "input.x == 2 with input.y as 5", {"input.x": 1}, []),
        ('input.o["k"] == {"a": 1}', 4, 'input.o["k"] == {"a": 1}', {'input.o["k"]': 3}, []),
        ("v > 1\nv = input.x", 4, "v > 1", {"v": 1}, []),
        ("x = 1\nx = input.y", 5, "x = input.y", {"x": 1, "input.y": 2}, []),
        ("c := [v | some v in input.xs; v > 5]\ncount(c) > 0", 5, "count(c) > 0", {"count(c)": 0, "c": []}, []),
    ],
)  # fmt: skip
def test_the_first_condition_that_fails_is_named_with_the_values_of_its_parts(
    body: str, line: int, condition: str, values: dict[str, Any], undefined: list[str]
) -> None:
    given = {"x": 1, "y": 2, "s": "b", "xs": [1, 2], "o": {"k": 3}}
    found = failed(body, given)
    assert found is not None
    assert (found.line, found.condition, found.values, found.undefined, found.error) == (
        line,
        condition,
        values,
        undefined,
        None,
    )


@pytest.mark.parametrize(
    "body",
    [
        "input.x == 1",
        "some v in input.xs\nv > 1",
        "v > 0\nv = input.x",
        'q(input.x, "a")',
        "io.jwt.decode(input.s) == 1; false",
    ],
)
def test_a_rule_that_holds_has_nothing_that_failed(body: str) -> None:
    rest = '\nq(x, "a") if x == 1\n'
    assert (failed(body, {"x": 1, "xs": [1, 2]}, rest) is None) == ("false" not in body)


def test_a_condition_that_throws_is_named_with_what_it_says() -> None:
    found = failed('x := input.x\nregex.match("(?=a)", x)', {"x": "a"})
    assert found is not None
    assert (found.condition, found.values["x"]) == ('regex.match("(?=a)", x)', "a")
    assert found.error is not None
    assert found.error.endswith("invalid regex")


def test_a_condition_that_has_no_value_is_what_failed() -> None:
    found = failed("x := input.x\n1 / x > 1", {"x": 0})
    assert found is not None
    assert (found.condition, found.values["x"], found.error) == ("1 / x > 1", 0, None)


def test_a_value_that_is_undefined_is_what_failed() -> None:
    (rule,) = why('package a\n\np := {"q": 1, "r": input.y} if input.x\n', {"x": 1})
    found = rule.definitions[0].failed
    assert found is not None
    assert (found.is_value, found.condition, found.undefined) == (True, '{"q": 1, "r": input.y}', ["input.y"])


def test_a_value_that_fails_without_any_name_in_it_is_what_failed() -> None:
    (rule,) = why('package a\n\np := io.jwt.decode("garbage")\n')
    found = rule.definitions[0].failed
    assert found is not None
    assert (rule.defined, found.is_value, found.condition) == (False, True, 'io.jwt.decode("garbage")')


def test_where_what_is_found_does_not_add_up_nothing_is_said() -> None:
    text = "package a\n\np if {\n\tv := 1\n\tq with f as v\n}\n\nq if f(1) == 1\n\nf(1) := 2\n"
    rule = why(text)[0]
    assert (rule.value, rule.definitions) == (True, [])


def test_each_definition_and_each_else_has_its_own_answer_and_a_default_says_whether_it_is_needed() -> None:
    text = (
        "package a\n\ndefault p := 0\n\np := 1 if input.x\n\nelse := 2 if input.y\n\nelse := 3\n\np := 2 if input.y\n"
    )
    for given, value, holds in (
        ({"y": 1}, 2, [(5, "rule", False), (7, "else", True), (11, "rule", True), (3, "default", False)]),
        ({"x": 1}, 1, [(5, "rule", True), (11, "rule", False), (3, "default", False)]),
    ):
        (rule,) = why(text, given)
        assert (rule.value, [(each.line, each.kind, each.holds) for each in rule.definitions]) == (value, holds)
    (rule,) = why("package a\n\ndefault p := 0\n\np := 1 if input.x\n")
    assert [(each.kind, each.holds) for each in rule.definitions] == [("rule", False), ("default", True)]


def test_what_a_rule_came_to_is_explained_after_it_and_nothing_else() -> None:
    """By the conditions up to the first that failed, by imports, and with the arguments of calls."""
    lib = "package lib\n\ninside(x, k) if {\n\tx in data.nets\n\tk == limit\n}\n\nlimit := 3\n\nother if true\n"
    body = "some x in input.xs\n\tlib.inside(x, 3)\n\tinput.never\n\tlast"
    text = f"package a\n\nimport data.lib\n\np if {{\n\t{body}\n}}\n\nlast if true\n"
    rules = why({"a.rego": text, "lib.rego": lib}, {"xs": ["n", "m"]}, {"nets": ["n"]})
    assert [(rule.rule, rule.arguments, rule.value) for rule in rules] == [
        ("data.a.p", None, None),
        ("data.lib.inside", ["n", 3], True),
        ("data.lib.inside", ["m", 3], None),
        ("data.lib.limit", None, 3),
    ]
    found = rules[2].definitions[0].failed
    assert found is not None
    assert (found.condition, found.values) == ("x in data.nets", {"x": "m", "data.nets": ["n"]})


def test_arguments_that_no_definition_is_for_are_what_failed() -> None:
    rules = why('package a\n\np if f("b")\n\nf("a") := true\n')
    found = rules[1].definitions[0].failed
    assert found is not None
    assert (found.condition, found.values) == ('("a")', {})


def test_a_decision_of_parts_has_the_rules_of_its_parts() -> None:
    text = "package a.p\n\ndefault allow := false\n\nallow if input.x\n\nreason := input.y\n"
    assert [(rule.rule, rule.value) for rule in why(text, {"y": "z"})] == [
        ("data.a.p.allow", False),
        ("data.a.p.reason", "z"),
    ]


def test_rules_that_conflict_threw() -> None:
    (rule,) = why("package a\n\np := 1 if input.x\n\np := 2 if input.x\n", {"x": 1})
    assert (rule.defined, [each.holds for each in rule.definitions]) == (False, [True, True])
    assert rule.error is not None
    assert "conflicts" in rule.error


@pytest.mark.slow
def test_it_is_said_by_a_process_of_its_own_which_may_not_end() -> None:
    given = {"unit": "x"}
    text = 'package a\n\np if input.unit == "y"\n'
    (rule,) = explain_rules(sources_of(text), "a/p", given)
    assert rule == why(text, given)[0]
    assert as_json(rule)["definitions"][0]["failed"]["values"] == {"input.unit": "x"}
    each = "in numbers.range(1, 100000)"
    endless = f"package a\n\np if {{\n\tsome x {each}\n\tsome y {each}\n\tx * y == -1\n}}\n"
    with pytest.raises(Unreachable, match="why_unknown"):
        explain_rules(sources_of(endless), "a/p", given, limit=0.3)
