"""The engine and OPA refuse the same rules for depending on themselves."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.adapters.regorus.policy import check_here
from tests.support.policies import sources_of
from tests.systems.opa import opa

RULES = ("p.a", "p.b", "p.c.d", "q.a", "q.b")
FORMS = (
    "{rule} := {ref}",
    "{rule} := 1 if {ref} == 1",
    "{rule} := [x | some x in {ref}]",
    "{rule} := x if {{ a := 1; b := 2; x := a + b }}",
    "{rule} := count([b | some b in [1]])",
    "{rule} := object.get({ref}, [" + '"d"' + "], 1)",
    "{rule} := 1 if {{ not {ref} }} else := 2",
    "{rule} := f_{at}({ref})\n\nf_{at}(x) := x",
    "{rule} := f_{at}(1)\n\nf_{at}(x) := [x, {ref}]",
)
REFS = (*(f"data.{rule}" for rule in RULES), "data.p", "data.q", "data.p.c", "data.p.c.d.e", "a", "b", "input.a")


@st.composite
def policies(draw: st.DrawFn) -> dict[str, str]:
    """Two files of rules that refer to each other, or to themselves."""
    bodies: dict[str, list[str]] = {"p": [], "q": []}
    for at, rule in enumerate(RULES):
        package, _, name = rule.partition(".")
        form, ref = draw(st.sampled_from(FORMS)), draw(st.sampled_from(REFS))
        bodies[package].append(form.format(rule=name, ref=ref, at=at))
    return {
        f"{name}.rego": "\n\n".join([f"package {name}", "import rego.v1", *rules]) for name, rules in bodies.items()
    }


@given(policies())
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_rule_that_depends_on_itself_is_refused_where_opa_refuses_it(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    theirs = opa("check", *(tmp_path / name for name in files)).stderr
    ours = {fault.code for fault in check_here(sources_of(files))}
    assert ("policy_recursion" in ours) == ("rego_recursion_error" in theirs), (files, theirs)
