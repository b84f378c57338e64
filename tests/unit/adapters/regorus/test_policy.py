"""The embedded engine: what it answers, what it refuses, and that nothing brings it down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapters.regorus.policy import MAX_FAULTS, RegorusEngine, check_here, check_sources
from extproc.datapath.model import PolicyVerdict
from extproc.errors import Fault, InvalidInput
from extproc.names import Reason
from extproc.resources.policies import PolicySources, read_sources
from tests.support.paths import POLICIES, ROOT
from tests.support.policies import engine_of, recipe, recipes, sources_of

PATH = "routing/decision"


def verdict_of(rule: str, document: dict[str, Any] | None = None) -> PolicyVerdict:
    return engine_of(f"package routing\n\n{rule}\n").evaluate(PATH, document or {})


def refusals(
    text: str | dict[str, str], data: dict[str, Any] | None = None
) -> list[tuple[str, str | None, int | None]]:
    return [(fault.code, fault.file, fault.line) for fault in check_here(sources_of(text, data))]


# -- what it answers


@pytest.fixture(scope="module")
def shipped() -> RegorusEngine:
    return RegorusEngine(read_sources(POLICIES))


def test_the_shipped_policy_keeps_high_risk_on_stable(shipped: RegorusEngine) -> None:
    document = {"rollout": {"stable": "3"}, "features": {"risk_score": 0.9}}
    assert shipped.evaluate(PATH, document) == PolicyVerdict(
        versions=frozenset({"3"}), reason="high risk stays on stable"
    )
    assert shipped.evaluate(PATH, {**document, "features": {"risk_score": 0.1}}) == PolicyVerdict()
    assert shipped.evaluate(PATH, {**document, "features": {}}) == PolicyVerdict()


def test_the_shipped_policy_reads_two_values(shipped: RegorusEngine) -> None:
    assert shipped.has(PATH)
    assert shipped.reads(PATH).paths == ("features.risk_score", "rollout.stable")


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_can_be_served_in_a_folder_of_its_own_and_has_an_answer_to_anything(name: str) -> None:
    engine = RegorusEngine(recipe(name))
    for document in ({}, {"rollout": {"stable": "3", "versions": ["3"], "canary": None}, "unit": None}):
        assert engine.evaluate(f"{name}/decision", document).fault in (None, Reason.POLICY_UNDEFINED)


def test_a_set_is_as_good_as_an_array() -> None:
    assert verdict_of('decision := {"allow": true, "versions": {"3", "4"}}').versions == {"3", "4"}


def test_an_error_costs_no_megabytes_where_rust_is_asked_for_stack_traces() -> None:
    script = (
        "import os, re\n"
        "from extproc.adapters.regorus.policy import engine_has\n"
        "def held(): return int(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = held()\n"
        "assert not engine_has('no.such.function') and engine_has('count')\n"
        "print(held() - before)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUST_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "RUST_BACKTRACE": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 20_000


def test_an_evaluation_that_throws_is_an_error_with_its_place() -> None:
    verdict = verdict_of('decision := {"allow": x} if x := regex.match("(?=a)", input.n)', {"n": "0"})
    assert verdict.fault is Reason.POLICY_ERROR
    assert verdict.message == "routing/decision.rego:3: invalid regex"


@pytest.mark.parametrize(
    ("rules", "can_deny"),
    [
        ('decision := {"allow": true}', False),
        ('decision := {"allow": true, "versions": input.versions}', False),
        ('default decision := {"allow": true}\n\ndecision := {"allow": true, "version": "4"} if input.pin', False),
        ('decision := {"allow": true} if input.a else := {"allow": true}', False),
        ("decision.allow := true\n\ndecision.http_status := input.status", False),
        ('decision := {"allow": false}', True),
        ('default decision := {"allow": false}\n\ndecision := {"allow": true} if input.a', True),
        ('decision := {"allow": true} if input.a else := {"allow": false}', True),
        ('decision := {"allow": true} if input.a else := answer if input.b\n\nanswer := {"allow": true}', True),
        ('decision := {"allow": input.allowed}', True),
        ('decision := {"allow": true, input.key: false}', True),
        ('decision := {"reason": "allow was forgotten"}', True),
        ('decision := object.union({"allow": true}, input.more)', True),
        ("decision if input.a", True),
        ("decision.allow if input.a", True),
        ("default decision.allow := false\n\ndecision.allow if input.a", True),
        ("default decision.allow := true\n\ndecision.reason := input.why", False),
        ("decision.reason := input.why", True),
        ("decision.allow.x := true", True),
        ("decision.allow := input.allowed", True),
        ('decision[input.key] := "x"\n\ndecision.allow := false if input.a', True),
    ],
)
def test_a_rule_can_deny_unless_every_answer_that_is_written_out_allows(rules: str, can_deny: bool) -> None:
    assert engine_of(f"package routing\n\n{rules}\n").can_deny("routing/decision") == can_deny


def test_garbage_does_not_pass_a_rule_that_can_deny() -> None:
    claims = 'claims := json.unmarshal(base64url.decode(split(input.token, ".")[1]))'
    rules = f'{claims}\n\ndefault decision := {{"allow": false}}\n\ndecision := {{"allow": true}} if claims.sub == "a"'
    for token in ("", "x", "x.y.z", "x.%%%.z", "x.bm90IGpzb24.z"):
        assert not verdict_of(rules, {"token": token}).allow


def test_rules_that_contradict_each_other_are_an_error() -> None:
    verdict = verdict_of('decision := {"allow": true}\n\ndecision := {"allow": false}')
    assert (verdict.fault, verdict.message) == (
        Reason.POLICY_ERROR,
        "routing/decision.rego:5: rule conflicts with rule",
    )


@pytest.mark.parametrize(
    "expression",
    [
        'regex.match("(?=a)", input.s)',
        'time.parse_ns("2 Jan", input.s)',
        "{k: v | some k in [input.s]; some v in [1, 2]}",
        'sprintf("%q", [input.s])',
    ],
)
def test_no_value_of_the_input_is_in_an_error(expression: str) -> None:
    verdict = verdict_of(f'decision := {{"allow": true, "x": {expression}}}', {"s": "s3cret(", "n": 77177})
    assert verdict.fault is Reason.POLICY_ERROR
    assert verdict.message is not None
    assert not any(text in verdict.message for text in ("s3cret", "S3CRET", "77177", "\n", "backtrace"))


def test_a_rule_without_a_value_is_undefined() -> None:
    verdict = verdict_of('decision := {"allow": true} if input.never')
    assert verdict.fault is Reason.POLICY_UNDEFINED


@pytest.mark.parametrize("path", ["routing/nothing", "routin", "other/decision", "", "routing/f", 'routing"]/x', "/"])
def test_what_is_no_rule_is_undefined(path: str) -> None:
    engine = engine_of("package routing\n\ndecision := {}\n\nf(x) := x\n")
    assert engine.evaluate(path, {}).fault is Reason.POLICY_UNDEFINED


@pytest.mark.parametrize("value", ["true", "null", "[]", '"yes"', '{"allow": 1}', "{}", '{"allow": true, "x": 1}'])
def test_an_answer_of_the_wrong_shape_is_invalid(value: str) -> None:
    assert verdict_of(f"decision := {value}").fault is Reason.POLICY_INVALID


def test_rules_are_found_by_the_path_of_their_package_and_name() -> None:
    engine = engine_of(
        {
            "a.rego": 'package a.b["x-y"]\n\nc.d := {"allow": true}\n\nparts contains 1\n\nm[k] := k if k := 1\n',
            "b.rego": "package a.b\n\ndefault e := {}\n",
        }
    )
    assert all(map(engine.has, ["a/b/e", "a/b/x-y/c/d", "a/b/x-y/m", "a/b/x-y/parts", "a/b/x-y", "a/b/e/below"]))
    assert not any(map(engine.has, ["b/e", "a/b/d", "e", "a/b/x-y/c/e", "a/b/x/y"]))
    assert engine.evaluate("a/b/x-y/c/d", {}) == PolicyVerdict()
    assert engine.evaluate("a/b/x-y/m", {}).fault is Reason.POLICY_INVALID


def test_data_is_seen_and_evaluations_do_not_affect_each_other() -> None:
    engine = engine_of('package routing\n\ndecision := {"allow": input.n > data.limits.n}\n', {"limits": {"n": 3}})
    assert [engine.evaluate(PATH, {"n": n}).allow for n in (5, 1, 4)] == [True, False, True]
    assert engine.evaluate(PATH, {}).fault is Reason.POLICY_UNDEFINED


def test_print_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    assert verdict_of('decision := {"allow": true} if print("unit", input.unit)', {"unit": "alice"}) == PolicyVerdict()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", ["\ud800", 2**70, {1, 2}, b"bytes", object(), {(1, 2): 3}])
def test_an_input_that_is_not_json_is_an_error(value: object) -> None:
    verdict = verdict_of('decision := {"allow": true, "reason": input.x}', {"x": value})
    assert verdict.fault is Reason.POLICY_ERROR
    assert verdict.message == "the input cannot be written as JSON"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["features", "rollout", "unit"]), JSON))
def test_no_input_makes_the_shipped_policy_raise(shipped: RegorusEngine, document: dict[str, Any]) -> None:
    verdict = shipped.evaluate(PATH, document)
    assert verdict.fault in (None, Reason.POLICY_INVALID, Reason.POLICY_UNDEFINED)


@given(JSON)
def test_any_answer_of_a_policy_is_a_verdict(value: Any) -> None:
    engine = engine_of("package routing\n\ndecision := input.x\n")
    assert isinstance(engine.evaluate(PATH, {"x": value}), PolicyVerdict)


# -- what it refuses


def test_a_policy_that_does_not_parse_is_refused_by_line_and_without_a_stack_trace() -> None:
    (fault,) = check_here(sources_of("package routing\n\ndecision := }\n"))
    assert (fault.code, fault.file, fault.line) == ("policy_syntax", "routing/decision.rego", 3)
    assert "backtrace" not in fault.message
    assert "\n" not in fault.message


def test_every_file_that_does_not_parse_is_named() -> None:
    assert refusals({"a.rego": "", "b.rego": "package b\n\nx := :", "c.rego": "package c"}) == [
        ("policy_syntax", "a.rego", 1),
        ("policy_syntax", "b.rego", 3),
    ]


def test_a_name_without_a_value_is_refused() -> None:
    assert refusals("package routing\n\nx if {\n\ty := z\n\ty\n}\n") == [
        ("policy_name_unknown", "routing/decision.rego", 4)
    ]


def test_names_are_known_wherever_they_get_a_value() -> None:
    text = """package routing

import data.other
import input.features as feats

decision := [constant, sibling, own(1), other.x, feats.y]

constant := 1

helper(_) := 1

own(a) := b if {
	some c, d
	input.l[c][d]
	some e, f in input.m
	every g, h in input.n { g == h }
	every i in input.o { i }
	[j, k] = input.p
	{"l": l} := input.q
	m := input.r[n]
	input.s[[o, _]]
	walk(input, [p, q])
	r := [t | t := 1]
	u := {v: w | some v, w in input.x}
	b := [a, c, d, e, f, j, k, l, m, n, o, p, q, r, u]
	y := count([1]) with count as helper with input.z as 3
	is_number(y)
}
"""
    assert refusals({"a.rego": text, "b.rego": "package routing\n\nsibling := 2\n", "c.rego": "package other"}) == []


FORBIDDEN = {
    "http.send": 'http.send({"method": "get", "url": "http://127.0.0.1"})',
    "time.now_ns": "time.now_ns()",
    "rand.intn": 'rand.intn("s", 3)',
    "uuid.rfc4122": 'uuid.rfc4122("s")',
    "opa.runtime": "opa.runtime()",
    "net.lookup_ip_addr": 'net.lookup_ip_addr("localhost")',
    "trace": 'trace("x")',
}
MISSING = {
    "graphql.parse_and_verify": "graphql.parse_and_verify({}, {}, {})",
    "rego.metadata.rule": "rego.metadata.rule()",
    "rego.metadata.chain": "rego.metadata.chain()",
    "graphql.is_valid": 'graphql.is_valid("x", "y")',
    "providers.aws.sign_req": "providers.aws.sign_req({}, {}, 1)",
    "no_such_function": "no_such_function(1)",
    "no.such.function": "no.such.function(1)",
}
PLACES = {
    "a body": "decision := {} if {CALL}",
    "a head": 'decision := {{"x": {CALL}}}',
    "a default": "f(x) := {CALL}",
    "a comprehension": "decision := [y | y := {CALL}]",
    "a nested comprehension": "decision := {{y: [z | z := {CALL}] | some y in [1]}}",
    "an argument": "decision := count([{CALL}])",
    "a negation": "decision := {{}} if not {CALL}",
    "every": "decision := {{}} if every x in [1] {{\n x == {CALL} }}",
    "the domain of every": "decision := {{}} if every x in {CALL} {{ x }}",
    "some": "decision := {{}} if {{ some x in {CALL}; x }}",
    "else": "decision := {{}} if input.x\n else := {CALL}",
    "a with value": "decision := {{}} if input.x with input as {CALL}",
    "a bracket": "decision := input.x[{CALL}]",
    "a partial set": "decision contains {CALL}",
    "arithmetic": "decision := 1 + {CALL}",
    "a function": "decision := f(1)\nf(x) := y if y := {CALL}",
    "a set": "decision := {{1, {CALL}}}",
    "a term of a reference": "decision := {CALL}.a.b",
    "a comparison": "decision := {{}} if {CALL} > 3",
    "membership": "decision := {{}} if 3 in {CALL}",
    "minus": "decision := -{CALL}",
}


@pytest.mark.parametrize("place", PLACES)
def test_forbidden_and_missing_builtins_are_found_wherever_they_stand(place: str) -> None:
    for code, calls in (("policy_builtin_forbidden", FORBIDDEN), ("policy_builtin_missing", MISSING)):
        for name, call in calls.items():
            rule = PLACES[place].replace("{{", "{").replace("}}", "}").replace("{CALL}", call)
            faults = check_here(sources_of(f"package routing\n\n{rule}\n"))
            assert [fault.code for fault in faults] == [code], (name, rule, faults)
            assert name in faults[0].message
            assert faults[0].file == "routing/decision.rego"
            assert faults[0].line is not None


@pytest.mark.parametrize("change", ["http.send as f", "time.now_ns as 3", "count as http.send"])
def test_forbidden_builtins_are_found_in_with(change: str) -> None:
    text = f"package routing\n\ndecision := x if {{\n\tx := count([1]) with {change}\n}}\n\nf(x) := x\n"
    assert refusals(text) == [("policy_builtin_forbidden", "routing/decision.rego", 4)]


def test_a_policy_cannot_define_its_own_http_send() -> None:
    text = "package routing\n\nhttp.send(x) := x\n\ndecision := http.send(1)\n"
    assert refusals(text) == [("policy_builtin_forbidden", "routing/decision.rego", 5)]


def test_the_hint_for_the_clock_is_the_input() -> None:
    (fault,) = check_here(sources_of("package routing\n\ndecision := time.now_ns()\n"))
    assert fault.message.endswith("use input.time")


def test_functions_of_policies_are_known_by_every_name() -> None:
    lib = "package lib.util\n\nf(x) := x\n\ng.h(x) := f(x)\n"
    text = """package routing

import data.lib.util
import data.lib.util.f as renamed
import input.features.count as count_feature

decision := [own(1), util.f(1), renamed(1), data.lib.util.f(1), util.g.h(1), data.routing.own(2), count_feature]

own(x) := x

default own(_) := 0
"""
    assert refusals({"routing/decision.rego": text, "lib.rego": lib}) == []


@pytest.mark.parametrize(
    "call",
    [
        "x := f(1, 2)",
        "x := data.lib.g(1)",
        "f()",
        "f(1, 2, 3)",
        "x := count([], 1)",
        'time.clock(1, "Europe/Berlin")[0] > 8',
        "y := [1 | io.jwt.decode(1, 2, 3)]",
        "is_string(1, 2) == true",
        "walk(1, 2, 3)",
    ],
)
def test_a_call_with_more_or_fewer_arguments_than_there_are_is_refused(call: str) -> None:
    policy = {
        "a.rego": f"package a\n\nf(x) := x\n\nr if {{\n\t{call}\n}}\n",
        "lib.rego": "package lib\n\ng(x, y) := x + y\n",
    }
    assert refusals(policy) == [("policy_arguments", "a.rego", 6)]


@pytest.mark.parametrize(
    "call",
    ["f(1, 1)", "not f(1, 2)", "walk(input, [_, 1])", "count([], n)", "f(1) with input as 1", "print()", "print(1, 2)"],
)
def test_a_condition_that_is_a_call_may_have_the_result_as_its_last_argument(call: str) -> None:
    assert refusals(f"package a\n\nf(x) := x\n\nr if {{\n\t{call}\n}}\n") == []


def test_a_function_that_no_policy_defines_is_named() -> None:
    text = "package routing\n\nimport data.lib\n\nx := lib.f(1)\n\ny := data.routing.g(1)\n"
    faults = check_here(sources_of({"a.rego": text, "lib.rego": "package lib\n\nf := 1\n"}))
    assert [(fault.code, fault.line) for fault in faults] == [
        ("policy_function_unknown", 5),
        ("policy_function_unknown", 7),
    ]
    assert "lib.f" in faults[0].message


@pytest.mark.parametrize(
    "rules",
    [
        "f(x) := f(x + 1)",
        "f(x) := g(x)\ng(x) := h(x)\nh(x) := f(x)",
        "f(x) := y if { y := data.routing.f(x) }",
        "f(x) := [g(y) | some y in x]\ng(x) := f(x) if x > 1",
        "h(x) := x\nf(x) := y if { y := h(x) with h as f }",
    ],
)
def test_functions_that_recurse_are_refused_because_they_would_end_the_process(rules: str) -> None:
    faults = check_here(sources_of(f"package routing\n\n{rules}\n\ndecision := f(1)\n"))
    assert faults
    assert {fault.code for fault in faults} == {"policy_recursion"}


@pytest.mark.parametrize(
    ("rules", "lines"),
    [
        ('a := b\nb := a\ndecision := {"allow": true, "reason": a}', [3, 4]),
        ('decision := {"allow": true} if decision.allow', [3]),
        ('a contains x if some x in b\nb contains x if some x in a\ndecision := {"allow": count(a) == 0}', [3, 4]),
        ("decision.allow := data.routing.decision != {}", [3]),
    ],
)
def test_rules_that_depend_on_themselves_are_refused(rules: str, lines: list[int]) -> None:
    faults = check_here(sources_of(f"package routing\n\n{rules}\n"))
    assert [(fault.code, fault.line) for fault in faults] == [("policy_recursion", line) for line in lines]


def test_a_name_of_its_own_and_a_rule_beside_it_are_no_recursion() -> None:
    rules = 'a := 1\nb := x if { a := 2; x := a }\na_b.c := a_b.d\na_b.d := 1\nd(a) := a\ndecision := {"allow": true}'
    assert check_here(sources_of(f"package routing\n\nimport rego.v1\n\n{rules}\n")) == []


def test_recursion_by_way_of_another_package_is_found() -> None:
    a = "package a\n\nimport data.b\n\nf(x) := b.g(x)\n"
    b = "package b\n\nimport data.a.f as back\n\ng(x) := back(x)\n"
    assert refusals({"a.rego": a, "b.rego": b}) == [
        ("policy_recursion", "a.rego", 5),
        ("policy_recursion", "b.rego", 5),
    ]


@pytest.mark.parametrize(
    "body",
    [
        'some t; t != "a"',
        'not input.rollout.versions[i] == "4"',
        "not f(input.unit, x)",
    ],
)
def test_a_variable_that_opa_calls_unsafe_is_named(body: str) -> None:
    text = f"package routing\n\nf(a, b) := a == b\n\ndecision if {{\n\t{body}\n}}\n"
    assert refusals(text) == [("policy_name_unknown", "routing/decision.rego", 6)]


@pytest.mark.parametrize(
    "body",
    [
        "some i; input.rollout.versions[i] == input.unit",
        "i := 1; not input.rollout.versions[i]",
        "not [v | some v in input.rollout.versions][0]",
        "not {v: 1 | some v in input.rollout.versions}[input.unit]",
        "some path; walk(input, [path, _])",
    ],
)
def test_a_variable_that_is_given_a_value_is_none(body: str) -> None:
    assert refusals(f"package routing\n\ndecision if {{\n\t{body}\n}}\n") == []


def test_a_file_that_cannot_be_read_hides_nothing_of_others_but_what_it_may_define() -> None:
    broken = "package a\n\nf(x) := [\n"
    wrong = "package b\n\nimport data.a\n\ndefault y := input.x\n\nx := a.f(http.send({})) + g(name)\n"
    assert refusals({"a.rego": broken, "b.rego": wrong}) == [
        ("policy_syntax", "a.rego", 4),
        ("policy_default", "b.rego", 5),
        ("policy_builtin_forbidden", "b.rego", 7),
    ]


def test_a_function_defined_twice_is_not_recursive() -> None:
    assert refusals("package routing\n\nf(1) := 2\n\nf(2) := 3\n\ndecision := f(f(1))\n") == []


@pytest.mark.parametrize("data", [{"routing": {"decision": 1}}, {"routing": 1}, {"routing": {"f": {}}}])
def test_data_and_rules_may_not_give_the_same_value(data: dict[str, Any]) -> None:
    codes = {code for code, _, _ in refusals("package routing\n\ndecision := {}\n\nf(x) := x\n", data)}
    assert codes == {"policy_data_conflict"}


@pytest.mark.parametrize(
    "rules",
    [
        'decision := {"allow": true}\n\ndecision.reason := "x"',
        'default decision := {"allow": false}\n\ndecision.allow if input.a',
    ],
)
def test_a_whole_rule_and_parts_of_it_are_refused(rules: str) -> None:
    assert refusals(f"package routing\n\n{rules}\n") == [("policy_rule_conflict", "routing/decision.rego", 3)]
    packages = {
        "a.rego": "package routing\n\ndecision := {}\n",
        "b.rego": "package routing.decision\n\nallow := true\n",
    }
    assert refusals(packages) == [("policy_rule_conflict", "a.rego", 3)]


@pytest.mark.parametrize(
    "value", ["input.x", '{"allow": input.x}', "[data.y]", 'count("x")', "other", '{"a": [{input.x}]}']
)
def test_a_default_that_refers_to_something_is_refused(value: str) -> None:
    text = f"package routing\n\nother := 1\n\ndefault decision := {value}\n"
    assert refusals(text) == [("policy_default", "routing/decision.rego", 5)]


def test_a_default_that_is_written_out_is_fine() -> None:
    for value in ('{"allow": true, "versions": ["3", -1, null]}', "[x | x := input.y]", "{1, 2}", "-1", '"text"'):
        assert refusals(f"package routing\n\ndefault decision := {value}\n") == []


def test_data_beside_rules_is_fine() -> None:
    assert refusals("package routing\n\ndecision := {}\n", {"routing": {"threshold": 1}, "other": []}) == []


def test_an_engine_refuses_what_a_check_refuses() -> None:
    with pytest.raises(InvalidInput) as caught:
        engine_of("package routing\n\ndecision := time.now_ns()\n")
    assert caught.value.code == "policy_builtin_forbidden"


def test_any_number_of_faults_fits_on_the_line_that_the_supervisor_reads() -> None:
    rules = "".join(f"rule_{i} if {'x' * 800}{i}(1)\n" for i in range(700))
    faults = check_here(sources_of({f"{name}.rego": f"package {name}\n\n{rules}" for name in ("one", "two")}))
    assert (len(faults), faults[-1].code) == (MAX_FAULTS + 1, "too_many_faults")
    assert len(json.dumps([fault.as_dict() for fault in faults])) < 100_000


@pytest.mark.slow
def test_a_policy_that_takes_too_long_to_load_is_refused() -> None:
    nested = "[" * 40 + "1" + "]" * 40
    faults = check_sources(sources_of(f"package routing\n\ndecision := {nested}\n"), cpu_seconds=1)
    assert faults == [Fault("policy_too_slow", "checking these policies took more than 1 s of CPU time")]


@pytest.mark.slow
def test_a_policy_that_brings_the_engine_down_is_refused() -> None:
    union = "|\n".join(["{1}"] * 19_000)
    assert [fault.code for fault in check_sources(sources_of(f"package routing\n\ndecision := {union}\n"))] == [
        "policy_too_complex"
    ]


def test_a_check_in_a_process_of_its_own_finds_the_same(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A module of that name where the command is run must not be taken for the engine.
    (tmp_path / "regorus.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    sources = sources_of("package routing\n\ndecision := {} if {\n\thttp.send({})\n\tcrypto.md5(1)\n}\n")
    assert check_sources(sources) == check_here(sources) != []
    assert check_sources(read_sources(POLICIES)) == []


@given(st.text(max_size=60))
def test_garbage_for_a_policy_is_a_fault(text: str) -> None:
    assert check_here(PolicySources({"a.rego": "package a\n" + text.replace("[", "(").replace("{", "(")}, {}, "x")) != [
        None
    ]
