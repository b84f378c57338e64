"""Builtins by Python: which there are, that what fails is undefined, and that a policy without them pays nothing."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.adapters.regorus.builtins.builtin import Builtin
from extproc.adapters.regorus.builtins.table import BUILTINS
from extproc.adapters.regorus.policy import check_here
from extproc.adapters.regorus.rego_tests import run_tests
from tests.support.policies import engine_of, sources_of

SHA256_OF_A = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


def value_of(rules: str, document: dict[str, Any] | None = None, data: dict[str, Any] | None = None) -> Any:
    """The reason of the decision of a rule ``value``; None where that is undefined."""
    head = 'package routing\n\ndecision := {"allow": true, "reason": value}\n\ndefault value := "undefined"\n\n'
    verdict = engine_of(head + rules + "\n", data).evaluate("routing/decision", document or {})
    assert verdict.fault is None, verdict
    return verdict.reason


@pytest.mark.parametrize(
    "rule",
    [
        'value := crypto.sha256("a")',
        'value := x if crypto.sha256("a", x)',
        'value := x if x = crypto.sha256("a")',
        'value := crypto["sha256"]("a")',
        'value := x if {\n\ty := {"ünï": "a"}["ünï"]; x := crypto.sha256(y)\n}',
        'value := [crypto.sha256(x) | some x in ["a"]][0]',
        'value := f("a")\n\nf(x) := crypto.sha256(x)',
        'value := x if x := input.x with input.x as crypto.sha256("a")',
        'value := x if x := lower("a") with lower as crypto.sha256',
    ],
)
def test_a_builtin_of_ours_is_called_as_any_other(rule: str) -> None:
    assert value_of(rule) == SHA256_OF_A


def test_a_builtin_of_ours_can_be_replaced_by_with() -> None:
    assert value_of('value := x if x := crypto.sha256("a") with crypto.sha256 as "b"') == "b"


def test_several_calls_on_one_line_are_each_found() -> None:
    assert value_of('value := crypto.md5(crypto.sha1("ü")) if crypto.md5("ü") != crypto.sha1("ü")').isalnum()


@pytest.mark.parametrize("given", ["null", "1", '["a"]', '{"a"}', "{[1]}", "{{1}}", '{"a": {[1]}}', "true"])
def test_what_fails_is_undefined_and_neither_null_nor_an_error(given: str) -> None:
    document = 'x := {"given": ' + given + "}\n\n"
    assert value_of(f"{document}value := crypto.sha256(x.given)") == "undefined"
    assert value_of(f'{document}value := "held" if crypto.sha256(x.given)') == "undefined"
    assert value_of(f'{document}value := "not" if not crypto.sha256(x.given)') == "not"


def test_whatever_a_function_raises_is_undefined() -> None:
    def fail(_: Any) -> Any:
        raise RecursionError

    assert Builtin("f", ("any",), fail).answer(1) == []


def test_a_policy_that_defines_or_imports_the_name_gets_its_own() -> None:
    assert value_of('value := crypto.sha256(1)\n\ncrypto.sha256(x) := "own"') == "own"
    lib = 'package lib.crypto\n\nsha256(_) := "lib\'s"\n'
    text = 'package routing\n\nimport data.lib.crypto\n\ndecision := {"allow": true, "reason": crypto.sha256(1)}\n'
    engine = engine_of({"routing/decision.rego": text, "lib.rego": lib})
    assert engine.evaluate("routing/decision", {}).reason == "lib's"


def test_a_policy_cannot_name_our_functions_by_where_they_are() -> None:
    text = 'package routing\n\ndecision := data.dropout_builtins.crypto.md5("a")\n\nx := crypto.md5("a")\n'
    assert [fault.code for fault in check_here(sources_of(text))] == ["policy_function_unknown"]
    text = 'package routing\n\ndecision := host.crypto.md5("a")\n'
    assert [fault.code for fault in check_here(sources_of(text))] == ["policy_builtin_missing"]


def test_only_the_builtins_that_policies_use_are_given_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    register = "extproc.adapters.regorus.engines.register"
    monkeypatch.setattr(register, lambda _, builtins: given.append({builtin.name for builtin in builtins}))
    engine_of("package routing\n\ndecision := input.x\n")
    assert given == [set()]
    engine_of('package routing\n\ndecision := [crypto.md5("a"), crypto.md5("b")]\n')
    assert given[1:] == [set(), {"crypto.md5"}]


def test_a_policy_in_which_nothing_can_throw_has_one_engine_and_its_own_text() -> None:
    assert engine_of("package routing\n\ndecision := input.x\n")._engines.second is None
    engines = engine_of("package routing\n\ndecision := count(input.x) + 1\n")._engines
    assert "count(input.x) + 1" in str(engines.first.get_policies())
    assert engines.second is not None


def test_faults_name_the_line_as_it_is_written() -> None:
    text = 'package routing\n\ndecision := crypto.md5("a") + {"a": crypto.md5("b")}.b\n\nx := no.such("a")\n'
    assert [(fault.code, fault.line) for fault in check_here(sources_of(text))] == [("policy_builtin_missing", 5)]
    text = 'package routing\n\nx := crypto.md5("a")\n\ndecision := regex.match("(?=a)", x)\n'
    verdict = engine_of(text).evaluate("routing/decision", {})
    assert verdict.message == "routing/decision.rego:5: invalid regex"


def test_a_line_may_be_as_long_as_a_file() -> None:
    assert value_of('value := x if x := crypto.sha256("a") # ' + "x" * 980) == SHA256_OF_A
    certificate = "A" * 500_000
    assert value_of(f'value := "held" if count("{certificate}") == 500000') == "held"
    body = "; ".join(['crypto.md5("")'] * 2_000)
    assert value_of(f'value := crypto.sha256("a") if {{ {body} }}') == SHA256_OF_A


def test_tests_of_policies_have_them_too() -> None:
    text = 'package routing_test\n\ntest_it if crypto.sha256("a") == "' + SHA256_OF_A + '"\n'
    (result,) = run_tests(sources_of({"routing/decision_test.rego": text})).tests
    assert (result.outcome, result.message) == ("pass", None)


def test_every_builtin_is_by_its_name_and_of_types_that_rego_knows() -> None:
    kinds = {"any", "string", "number", "array", "set", "object", "boolean"}
    for name, builtin in BUILTINS.items():
        assert builtin.name == name
        assert set(builtin.types) <= kinds


@pytest.mark.parametrize(
    "call",
    [
        'net.cidr_expand("0.0.0.0/0")',
        'net.cidr_expand("::/0")',
        'net.cidr_expand("10.0.0.0/15")',
        'net.cidr_contains_matches(["10.0.0.0/8" | some _ in data.n], [input.a | some _ in data.n])',
        'net.cidr_contains("10.0.0.0/1e999999", input.a)',
        'net.cidr_contains(concat("", ["10.0.0.0/", input.long]), input.a)',
        'net.cidr_contains("10.0.0.0/8", concat("", [input.a, input.long]))',
        'net.cidr_merge(["224.0.0.1"])',
        "net.cidr_merge({{1}})",
        "net.cidr_contains_matches({{1}}, input.a)",
    ],
)
def test_ranges_that_would_take_for_ever_or_are_none_are_undefined(call: str) -> None:
    assert (
        value_of(f'value := "held" if {call}', {"a": "10.0.0.1", "long": "9" * 100_000}, {"n": [0] * 400})
        == "undefined"
    )


def test_an_allow_list_of_thousands_of_rows_is_looked_through() -> None:
    rows = [f"10.{number // 256}.{number % 256}.0/24" for number in range(5000)]
    rule = 'value := "held" if count(net.cidr_contains_matches(data.rows, input.a)) == 1'
    assert value_of(rule, {"a": "10.3.4.5"}, {"rows": rows}) == "held"
    assert value_of(rule, {"a": "10.200.4.5"}, {"rows": rows}) == "undefined"
