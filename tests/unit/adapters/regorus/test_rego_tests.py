"""The tests of policies: how each goes, whatever it does."""

from __future__ import annotations

import pytest

from extproc.adapters.regorus.policy import CheckedTest
from extproc.adapters.regorus.rego_tests import run_tests
from extproc.errors import InvalidInput
from tests.support.policies import sources_of


def test_tests_pass_fail_throw_or_are_to_be_written() -> None:
    text = """package routing_test

test_pass if input == {}

test_fail if {
	print("seen", 1 + 1)
	false
}

test_error if 1 / 0

test_not_true := 3

todo_test_later if false

helper_test_x if true
"""
    name = "routing/decision_test.rego"
    assert run_tests(sources_of({name: text})) == [
        CheckedTest("data.routing_test.test_pass", name, 3, "pass", None, ()),
        CheckedTest("data.routing_test.test_fail", name, 5, "fail", None, (f"{name}:6: seen 2",)),
        CheckedTest("data.routing_test.test_error", name, 10, "error", f"{name}:10: divide by zero", ()),
        CheckedTest("data.routing_test.test_not_true", name, 12, "fail", None, ()),
        CheckedTest("data.routing_test.todo_test_later", name, 14, "skip", None, ()),
    ]


def test_tests_may_do_what_policies_may_not() -> None:
    (result,) = run_tests(sources_of("package t\n\ntest_clock if time.now_ns() > 0\n"))
    assert result.outcome == "pass"


def test_tests_that_would_end_the_process_are_refused() -> None:
    with pytest.raises(InvalidInput, match="calls itself"):
        run_tests(sources_of("package t\n\nf(x) := f(x)\n\ntest_f if f(1)\n"))


def test_a_test_that_never_ends_is_an_error_by_its_place_and_the_others_run() -> None:
    each = "numbers.range(1, 20000)"
    endless = f"test_endless if {{\n\tsome a in {each}\n\tsome b in {each}\n\ta * b == -1\n}}"
    text = f"package t\n\n{endless}\n\ntest_before_it if true\n\ntest_after_it if true\n"
    name = "t_test.rego"
    assert run_tests(sources_of({name: text}), limit=0.3) == [
        CheckedTest("data.t.test_endless", name, 3, "error", "it took more than 0.3 s of a processor", ()),
        CheckedTest("data.t.test_before_it", name, 9, "pass", None, ()),
        CheckedTest("data.t.test_after_it", name, 11, "pass", None, ()),
    ]


def test_tests_that_bring_the_engine_down_are_refused() -> None:
    union = "|\n".join(["{1}"] * 19_000)
    with pytest.raises(InvalidInput, match="does not survive loading these tests"):
        run_tests(sources_of({"t_test.rego": f"package t\n\ntest_x := {union}\n"}))
