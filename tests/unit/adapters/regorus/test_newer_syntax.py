"""OPA's newer syntax in the engine's: on its line, and left alone where it is none."""

from __future__ import annotations

import pytest

from extproc.adapters.regorus.newer_syntax import in_older_syntax
from extproc.adapters.regorus.policy import check_here
from tests.support.policies import engine_of, sources_of


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ('$"{input.user} from {input.place}"', "ann from <undefined>"),
        ('$"\\{a} {count([1, 2])} {{"x": [1]}.x}"', "{a} 2 [1]"),
        ('$"{$"<{input.user}>"} \\"\\u00fc"', '<ann> "ü'),
        ("$`{input.user}\n`", "ann\n"),
        ("input.default", "d"),
        ("input.if.not", "n"),
        ("data.set.with.x", "w"),
        ('"input.if $\\"{x}"', 'input.if $"{x}'),
        ('"a" # input.if $"{', "a"),
    ],
)
def test_texts_with_expressions_and_keywords_in_references_are_read(value: str, answer: str) -> None:
    text = 'package routing\n\ndecision := {"allow": true, "body": value}\n\nvalue := ' + value
    rules = {
        "routing/decision.rego": text,
        "set.rego": 'package set.with\n\nx := "w"\n',
    }
    document = {"user": "ann", "default": "d", "if": {"not": "n"}}
    assert engine_of(rules).evaluate("routing/decision", document).body == answer


def test_an_expression_of_several_values_ends_the_evaluation_as_in_opa() -> None:
    engine = engine_of('package routing\n\ndecision := $"{input.xs[_]}"\n')
    assert engine.evaluate("routing/decision", {"xs": [1, 2]}).fault == "policy_error"


@pytest.mark.parametrize("text", ['x := $"{a', "x := $`{", 'x := $"' + "{$" * 100, 'x := "a.if', "x := $"])
def test_what_nobody_reads_is_left_to_the_engine_to_refuse(text: str) -> None:
    assert in_older_syntax(text) in (text, text.replace(".if", '["if"]'))
    (fault,) = check_here(sources_of(f"package routing\n\n{text}\n"))
    assert (fault.code, fault.file) == ("policy_syntax", "routing/decision.rego")


def test_a_name_that_is_a_keyword_is_refused_by_its_line() -> None:
    (fault,) = check_here(sources_of("package routing\n\nif.x := 1\n"))
    assert (fault.code, fault.line) == ("policy_syntax", 3)
