"""Why a rule has its value, on the policies of OPA's own cases: a value has a definition that is said to hold."""

from __future__ import annotations

import pytest

from extproc.adapters.regorus.policy import check_here
from extproc.adapters.regorus.unused import led_to
from extproc.adapters.regorus.why import ExplainedRule, Reasons
from extproc.resources.policies import PolicySources
from tests.conformance.opa.cases import Case, folder_of_cases, read_cases

MANY = 1_500
FEW = 5


def explained(case: Case) -> list[ExplainedRule]:
    """The rules that the case's rule comes to; none of policies that are refused."""
    sources = PolicySources(case.files, case.data, "")
    if check_here(sources):
        return []
    path = tuple(case.path.split("."))
    reasons = Reasons(sources, lambda modules: led_to([path], modules))
    reasons.say_input(case.given)
    return reasons.rules(path)


@pytest.mark.nightly
def test_of_nearly_every_rule_it_is_said_which_definition_gives_its_value() -> None:
    """Where what is found would not give the value, nothing is said: where functions are replaced by variables."""
    cases, _ = read_cases(folder_of_cases())
    found = [(case.name, rule) for case in cases for rule in explained(case)]
    assert len(found) > MANY
    assert len([name for name, rule in found if not rule.definitions]) <= FEW
