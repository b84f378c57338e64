"""No text that a client sends, and no pattern of a policy, makes a builtin take the square of its length, or worse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import product

import pytest

from extproc.adapters.regorus.builtins.guarded import GUARDED
from extproc.adapters.regorus.builtins.table import BUILTINS
from extproc.adapters.regorus.process import PolicyProcess
from extproc.names import Reason
from tests.support.policies import sources_of

SECONDS = 2.0
"""Of a processor: ten times what is taken, and less than a square."""
LONG = 20_000
PARTS = (
    *("1", "1.", "1h", "1e", "0x1", " ", ".", ".a", "a.", "a,", "a:", "- ", "? ", "&a ", "'", "\n", "@", "=&"),
    *("{", "[", "(", "[a-", "{,}{", "{{ .a", "{ a: ", "[^{", "\\", "\\Q", "%", "%1", "%[1", "a{1,9}", "-----BEGIN "),
)
TEXTS = [part * (LONG // len(part)) + "x" for part in PARTS]
TEXTS.append("2024" + TEXTS[PARTS.index(" ")])
OTHERS = ('"2006   01"', "input.text")
PATTERNS = ("(a|a)*b", "(a+a+)+b", "(a*)*b", "^(a|aa)+$", "(.*a){25}b", "(a{1,1000}){1,1000}b", "((a{9}){9}){9}{9}{9}b")


def calls() -> Iterator[str]:
    """Of builtins that are Python's in part, with a text that was sent in each place."""
    for name, builtin in {**GUARDED, **BUILTINS}.items():
        if builtin.function is not None and name != "internal.template_string":
            for place, other in product(range(len(builtin.types)), OTHERS):
                given = ["input.text" if at == place else other for at in range(len(builtin.types))]
                yield f"{name}({', '.join(given)})"


@pytest.mark.parametrize("family", sorted({call.partition("(")[0].partition(".")[0] for call in calls()}))
def test_no_builtin_takes_long_for_a_text_that_is_sent(family: str) -> None:
    asked = [call for call in dict.fromkeys(calls()) if call.startswith((f"{family}.", f"{family}("))]
    rules = "\n".join(f"x{number} := {call}\n" for number, call in enumerate(asked))
    with closing(PolicyProcess(sources_of(f"package routing\n\n{rules}"), SECONDS)) as process:
        for number, text in product(range(len(asked)), TEXTS):
            process.evaluate(f"routing/x{number}", {"text": text, "time": 1})  # or raises


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_regular_expression_explodes(pattern: str) -> None:
    names = ("match(p, input.text)", "find_n(p, input.text, -1)", "split(p, input.text)", 'replace(input.text, p, "-")')
    rules = "\n".join(
        f"x{number} := y if {{ p := `{pattern}`; y := regex.{call} }}\n" for number, call in enumerate(names)
    )
    with closing(PolicyProcess(sources_of(f"package routing\n\n{rules}"), SECONDS)) as process:
        for number, text in product(range(len(names)), ("a" * LONG, "a" * LONG + "!", "ab" * LONG)):
            verdict = process.evaluate(f"routing/x{number}", {"text": text})
            assert verdict.fault in (Reason.POLICY_INVALID, Reason.POLICY_ERROR)


def test_no_pair_of_globs_explodes() -> None:
    globs = (".*[a]*" * 50, ".+a*" * 50, "a*b*" * 50, "[ab]+.*" * 50, ".*a" * 50 + "b", ".*" * 101 + "a")
    text = "package routing\n\nmet := regex.globs_match(input.a, input.b)\n"
    with closing(PolicyProcess(sources_of(text), SECONDS)) as process:
        for one, other in product(globs, globs):
            assert process.evaluate("routing/met", {"a": one, "b": other}).fault is not None
