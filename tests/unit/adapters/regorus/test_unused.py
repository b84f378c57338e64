"""What decides nothing is noted, and nothing that may decide is."""

from __future__ import annotations

import pytest

from tests.support.policies import engine_of

DECISION = 'default decision := {"allow": true}\n\n'


def noted(*files: str) -> list[tuple[str, int | None]]:
    """The code and the line of each note."""
    engine = engine_of({f"{number}.rego": text for number, text in enumerate(files)})
    return [(note.code, note.line) for note in engine.notes()]


@pytest.mark.parametrize(
    "rule",
    [
        "decision := {} if trusted",
        "decision := {} if not trusted",
        "decision := {} if f(1)\n\nf(x) if x == trusted",
        "decision.reason := x if { some x in [trusted] }",
        "decision := {} if data.a.trusted",
        "decision := {} if data.a[input.unit]",
        "decision := {} if input.x with input.x as trusted",
    ],
)
def test_what_a_decision_may_come_to_by_any_way_is_used(rule: str) -> None:
    assert noted(f"package a\n\ntrusted if input.unit\n\n{rule}\n") == []


def test_rules_that_no_decision_leads_to_are_noted_wherever_they_are() -> None:
    of_decision = f"package a\n\nimport data.lib.f\n\n{DECISION}decision := {{}} if f(1)\n\nx := y\n\ny := 1\n"
    lib = "package lib\n\nf(x) if g(x)\n\ng(x) if x > 1\n\nh(x) if g(x)\n\nh(x) if f(x)\n"
    assert noted(of_decision, lib) == [
        ("policy_rule_unused", 9),
        ("policy_rule_unused", 11),
        ("policy_rule_unused", 7),
    ]


def test_where_nothing_is_called_decision_any_rule_may_be_asked() -> None:
    assert noted("package a\n\nverdict := {}\n\nx := 1\n") == []


@pytest.mark.parametrize(
    ("rule", "never_applies"),
    [
        ('decision := {"allow": false}', True),
        ('decision := {"allow": false} if input.x else := {"allow": true}', True),
        ('decision := {"allow": false, "versions": [v | some v in input.xs]}', True),
        ('decision := {"allow": false} if input.x', False),
        ('decision := {"allow": input.x}', False),
        ('decision := {"allow": input.x} if input.y else := {"allow": true}', False),
        ("decision[x] := 1 if some x in input.xs", False),
    ],
)
def test_a_default_is_noted_where_another_definition_gives_a_value_in_any_case(rule: str, never_applies: bool) -> None:
    assert noted(f"package a\n\n{DECISION}{rule}\n") == ([("policy_default_unused", 3)] if never_applies else [])
