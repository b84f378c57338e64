"""What the engine cannot read is told with what was most likely meant."""

from __future__ import annotations

import pytest

from extproc.adapters.regorus.policy import check_here
from extproc.resources.policies import PolicySources

MISTAKES = {
    "a body without if": ("decision := true {\n\ttrue\n}", "this is Rego v1"),
    "a partial set of Rego v0": (
        'deny[msg] {\n\tmsg := "no"\n}',
        "a set's rule has `contains` before it: `opa fmt --v0-v1",
    ),
    "two packages": ("package other", "a file holds one package"),
    "not in": ('decision := true if input.unit not in ["a"]', "write `not x in xs`"),
    "and": ("decision := true if input.draw < 10 and input.draw > 2", "stand on lines of their own"),
    "single quotes": ("decision := {'allow': true}", 'text is quoted by " or by `'),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_that_is_made_often_is_told_with_what_to_write(mistake: str) -> None:
    text, said = MISTAKES[mistake]
    (fault,) = check_here(PolicySources({"r.rego": f"package r\n\n{text}\n"}, {}, "0"))
    assert (fault.code, fault.file, fault.line) == ("policy_syntax", "r.rego", 3)
    assert said in fault.message


def test_where_nothing_is_known_the_engines_word_stands_alone() -> None:
    (fault,) = check_here(PolicySources({"r.rego": "package r\n\nx := [\n"}, {}, "0"))
    assert ";" not in fault.message
