"""What the engine answers otherwise than OPA is refused, with the place and the way out, or answered as OPA does."""

from __future__ import annotations

import pytest

from extproc.adapters.regorus.policy import check_here
from tests.support.policies import engine_of, sources_of


@pytest.mark.parametrize(
    ("rule", "code", "says"),
    [
        ('p := json.match_schema("{}", {})', "policy_builtin_differs", "json.match_schema"),
        ('p := yaml.is_valid("a")', "policy_builtin_differs", "ask json.is_valid"),
        ("p if is_string(1) with is_string as yaml.is_valid", "policy_builtin_differs", "yaml.is_valid"),
        ("p := [v | [_, v] := walk(input)]", "policy_construct_differs", "write walk(x, [path, value])"),
        ('f($"{x}") := 1 if x = 1', "policy_construct_differs", "compare with it in the body"),
        ('p := strings.render_template("{{if .a}}b{{end}}", {})', "policy_construct_differs", "write sprintf"),
        ("p := a if { not a = f(1)\n a = f(2) }\n\nf(x) := x", "policy_construct_differs", "a is negated"),
        ('p[q].r := 1 if some q in ["a"]\n\np.b.s := 2', "policy_construct_differs", "by one rule"),
        ("p := yaml.marshal(1)", "policy_builtin_differs", "with json.marshal"),
        ('p := sprintf("%d", [1e2])', "policy_construct_differs", "write it as it is printed"),
        ('p := json.unmarshal("[1e400]")', "policy_construct_differs", "three digits"),
        ("default p.q.f(x) := 1", "policy_construct_differs", "write it as a function"),
        ("import future.keywords.not\n\np if not input.x", "policy_construct_differs", "the keyword not"),
        ("p if { [true, x] := input.xs; x }", "policy_construct_differs", "write ="),
        ('p if { {"a": [x, 1]} := input.xs; x }', "policy_construct_differs", "write ="),
        ("import rego.v2\n\np if not { input.x }", "policy_construct_differs", "rego.v2"),
    ],
)
def test_what_opa_answers_otherwise_is_refused(rule: str, code: str, says: str) -> None:
    faults = check_here(sources_of(f"package routing\n\n{rule}\n"))
    assert [(fault.code, fault.file) for fault in faults] == [(code, "routing/decision.rego")]
    assert faults[0].line in (3, 4, 5)
    assert says in faults[0].message


@pytest.mark.parametrize(
    "condition",
    [
        "walk(input, [_, 1])",
        '{"a": [x, _], "b": y} := input.xs; x == y',
        '"a" in input.xs',
        "not input.x = 2",
        "a = 1; not a = 2",
        "not input.x = 2; input.y = 3",
        "some key, value in input.xs; key == value",
    ],
)
def test_what_is_near_it_and_answered_alike_is_served(condition: str) -> None:
    assert check_here(sources_of(f"package routing\n\np if {{ {condition} }}\n")) == []


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ('sprintf("%s %d %v %.2f%%", ["a", -3, [1, "b", {2}], 0.5])', 'a -3 [1, "b", {2}] 0.50%'),
        ('sprintf("%d %x", [-255, 255])', "-255 ff"),
        ('sprintf("%v %v", [0.0000001, 100000000.5])', "1e-07 1.000000005e+08"),
        ('sprintf("%d", [strings.count("11111", "11")])', "2"),
        ('strings.replace_n({"a": "b", "b": "a"}, "abba")', "baab"),
        ('strings.replace_n({"": "-", "é": "e"}, "aéb")', "-a-e-b-"),
        ('sprintf("%d", [units.parse("5Ki")])', "5120"),
        ('sprintf("%v", [json.is_valid(1)])', "false"),
        ('sprintf("%05d|%-4s|%4s|%+d|%o", [7, "a", "b", 3, 8])', "00007|a   |   b|+3|10"),
        ('sprintf("%d %s", ["a"])', "%!d(string=a) %!s(MISSING)"),
        ('sprintf("a", [1, "b"])', "a%!(EXTRA int64=1, string=b)"),
        ('sprintf("%v", [18446744073709551617 + 1])', "18446744073709551618"),
        ('sprintf("%v", [glob.match("a{,b}", [], "a")])', "true"),
        ('sprintf("%v", [glob.match("a{,b}", [], "ac")])', "false"),
        ('sprintf("%v", [units.parse_bytes("-1.5")])', "-1"),
        ('sprintf("%v", [semver.compare("v1.2.3", "1.2.3")])', "0"),
        ('json.marshal("<&>")', r'"\u003c\u0026\u003e"'),
        ('urlquery.decode("a%3Db&c")', "a=b&c"),
        ('urlquery.encode("a*b c")', "a%2Ab+c"),
        ('concat("|", regex.split("x*", "axb"))', "a|b"),
        ('regex.replace("a{b", "{", "-")', "a-b"),
        ('sprintf("%v", [regex.is_valid("{")])', "true"),
        ('sprintf("%v", [json.remove({"a": 1}, ["a/b"])])', '{"a": 1}'),
        ('sprintf("%v", [object.subset(["a"], [])])', "true"),
        ('sprintf("%v", [[v | v := ("a", "b" in {"a", "b"})]])', "[false]"),
        ('sprintf("%v", [(1, "b" in ["a", "b"])])', "true"),
        ('concat("|", array.flatten([["a", "b"], "c"]))', "a|b|c"),
        ('concat("|", strings.split_n("a.b.c", ".", 2))', "a|b"),
        ('concat("|", strings.split_n("a.b.c", ".", -1))', "c"),
        ('strings.render_template("{{.a}} {{ .b.c }} {{.d}}", {"a": "x", "b": {"c": 2}})', "x 2 <undefined>"),
        ('uri.parse("https://u@h:8443/a%20b?q=1#f").port', "8443"),
        ('sprintf("%v", [uri.is_valid("")])', "false"),
        ("time.format(1700000000120000000)", "2023-11-14T22:13:20.12Z"),
        ('time.format([1700000000000000000, "Europe/Rome"])', "2023-11-14T23:13:20+01:00"),
        ('time.format([1700000000000000000, "UTC", "2006-01-02"])', "2023-11-14"),
        ('glob.quote_meta("[a]")', r"\[a\]"),
        ('time.format([time.add_date(1706659200000000000, 0, 1, 0), "UTC", "2006-01-02"])', "2024-03-02"),
        ('sprintf("%v", [glob.match("{a,b}c", [], "ac")])', "true"),
    ],
)
def test_builtins_that_the_engine_has_otherwise_answer_as_opa(call: str, answer: str) -> None:
    engine = engine_of(f'package routing\n\ndecision := {{"allow": true, "reason": {call}}}\n')
    assert engine.evaluate("routing/decision", {}).reason == answer


@pytest.mark.parametrize(
    "call",
    [
        'units.parse("1e9999999999")',
        'units.parse("a")',
        'strings.replace_n({"a": 1}, "a")',
        'indexof("a", "")',
        'to_number(" 1")',
        "object.subset(input, [])",
        'regex.template_match("a", "a", "<<", ">")',
    ],
)
def test_what_opa_leaves_undefined_is_undefined(call: str) -> None:
    verdict = engine_of(f"package routing\n\ndecision := {call}\n").evaluate("routing/decision", {})
    assert verdict.fault == "policy_undefined"


@pytest.mark.parametrize(
    "call",
    [
        'sprintf("%q", ["a"])',
        'sprintf("%*d", [1, 2])',
        'glob.match("[a]{,b}", [], "a")',
        'time.parse_ns("é2", "")',
        'time.format([1, "UTC", "RFC850"])',
    ],
)
def test_what_is_not_sure_to_be_as_in_opa_ends_the_evaluation(call: str) -> None:
    verdict = engine_of(f"package routing\n\ndecision := {call}\n").evaluate("routing/decision", {})
    assert verdict.fault == "policy_error"
