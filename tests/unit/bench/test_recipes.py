"""The bench of the recipes: what it asks has answers, and the figures that the guide shows are of what it asks."""

from __future__ import annotations

import json

import pytest

from tests.bench.recipes import KEPT, LEAST, cases, question
from tests.support.policies import recipes


def test_the_figures_in_the_repository_are_of_the_recipes_that_there_are() -> None:
    kept = json.loads(KEPT.read_text())["over_the_least"]
    assert kept.keys() == cases().keys() > {*recipes()}
    assert kept[LEAST] == {"time": 1.0, "instructions": 1.0}
    assert all(ratio >= 1 for each in kept.values() for ratio in each.values())


@pytest.mark.parametrize("name", cases())
def test_the_request_of_the_bench_is_allowed_so_that_no_policy_ends_early(name: str) -> None:
    question(cases()[name])
