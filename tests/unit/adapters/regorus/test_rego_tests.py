"""The tests of policies: how each goes, whatever it does."""

from __future__ import annotations

import pytest

from extproc.adapters.regorus.rego_tests import CheckedTest, run_tests
from extproc.adapters.regorus.why import FailedCondition
from extproc.errors import InvalidInput
from tests.support.policies import sources_of

FALSE = FailedCondition(7, "false", False, {}, [], None)


def test_tests_pass_fail_throw_or_are_to_be_written() -> None:
    text = """package routing_test

test_pass if input == {}

test_fail if {
	print("seen", 1 + 1)
	false
}

test_error if regex.match("(?=a)", "a")

test_not_true := 3

todo_test_later if false

helper_test_x if true
"""
    name = "routing/decision_test.rego"
    assert run_tests(sources_of({name: text})).tests == [
        CheckedTest("data.routing_test.test_pass", name, 3, "pass", None, ()),
        CheckedTest("data.routing_test.test_fail", name, 5, "fail", None, (f"{name}:6: seen 2",), FALSE),
        CheckedTest("data.routing_test.test_error", name, 10, "error", f"{name}:10: invalid regex", ()),
        CheckedTest("data.routing_test.test_not_true", name, 12, "fail", None, ()),
        CheckedTest("data.routing_test.todo_test_later", name, 14, "skip", None, ()),
    ]


def test_the_condition_that_failed_has_the_values_of_its_parts() -> None:
    text = """package t

p(x) := x + 1

test_p if {
	some x in [1, 2]
	got := p(x) with input.unit as "a"
	got == 7
}
"""
    (result,) = run_tests(sources_of({"t_test.rego": text})).tests
    assert result.failed == FailedCondition(8, "got == 7", False, {"got": 2}, [], None)


def test_tests_of_one_name_are_tests_each_as_for_opa() -> None:
    text = "package t\n\ntest_x if true\n\ntest_x if {\n\tinput.y\n}\n\ntest_x if 1 == 1\n"
    found = run_tests(sources_of({"t_test.rego": text})).tests
    assert [(test.name, test.line, test.outcome) for test in found] == [
        ("data.t.test_x", 3, "pass"),
        ("data.t.test_x#01", 5, "fail"),
        ("data.t.test_x#02", 9, "pass"),
    ]
    assert found[1].failed is not None
    assert found[1].failed.undefined == ["input.y"]


def test_a_test_with_a_value_for_each_case_is_an_error_and_not_a_failure() -> None:
    text = 'package t\n\ntest_x[name] if {\n\tsome name, y in {"one": 1, "two": 2}\n\ty > 0\n}\n'
    (result,) = run_tests(sources_of({"t_test.rego": text})).tests
    assert (result.outcome, result.message) == (
        "error",
        "it has a value for each case, which opa test alone counts: write a rule for each",
    )


def test_only_tests_that_are_wanted_run() -> None:
    text = "package t\n\ntest_one if true\n\ntest_two if false\n"
    found = run_tests(sources_of({"t_test.rego": text}), wanted=r"t\.test_o")
    assert [test.name for test in found.tests] == ["data.t.test_one"]
    with pytest.raises(InvalidInput, match="test_filter"):
        run_tests(sources_of({"t_test.rego": text}), wanted="(")


def test_tests_may_do_what_policies_may_not() -> None:
    (result,) = run_tests(sources_of("package t\n\ntest_clock if time.now_ns() > 0\n")).tests
    assert result.outcome == "pass"


def test_a_name_that_is_nothing_is_a_fault_of_its_file_and_no_error_of_every_test() -> None:
    """As where the package of the tests is another one than that of the policy."""
    text = "package rooting\n\ntest_x if allow\n\ntest_y if true\n"
    with pytest.raises(InvalidInput) as caught:
        run_tests(sources_of({"a.rego": "package routing\n\nallow if true\n", "t_test.rego": text}))
    assert [(fault.code, fault.file, fault.line) for fault in caught.value.faults] == [
        ("policy_name_unknown", "t_test.rego", 3)
    ]


def test_tests_that_would_end_the_process_are_refused() -> None:
    with pytest.raises(InvalidInput, match="depends on itself"):
        run_tests(sources_of("package t\n\nf(x) := f(x)\n\ntest_f if f(1)\n"))


def test_a_test_that_never_ends_is_an_error_by_its_place_and_the_others_run() -> None:
    each = "numbers.range(1, 20000)"
    endless = f"test_endless if {{\n\tsome a in {each}\n\tsome b in {each}\n\ta * b == -1\n}}"
    text = f"package t\n\n{endless}\n\ntest_before_it if true\n\ntest_after_it if true\n"
    name = "t_test.rego"
    assert run_tests(sources_of({name: text}), limit=0.3).tests == [
        CheckedTest("data.t.test_endless", name, 3, "error", "it took more than 0.3 s of a processor", ()),
        CheckedTest("data.t.test_before_it", name, 9, "pass", None, ()),
        CheckedTest("data.t.test_after_it", name, 11, "pass", None, ()),
    ]


def test_tests_that_bring_the_engine_down_are_refused() -> None:
    union = "|\n".join(["{1}"] * 19_000)
    with pytest.raises(InvalidInput, match="does not survive loading these tests"):
        run_tests(sources_of({"t_test.rego": f"package t\n\ntest_x := {union}\n"}))
