"""Lines that tests evaluated: all of a rule that held, as far as it did of one that did not, and none of the others."""

from __future__ import annotations

from extproc.adapters.regorus.coverage import Coverage, LineCoverage, ranges
from extproc.adapters.regorus.rego_tests import run_tests
from tests.support.policies import sources_of

EVERYTHING = """package a

default decision := {"allow": false}

decision := {
	"allow": true,
	"versions": [v |
		some v in input.xs
		v != "3"
	],
	"reason":
		concat(
			",",
			input.xs,
		),
} if {
	input.unit ==
		"a"
	some x in
		input.xs
	some i
	input.xs[i] == x
	y :=
		x
	z := object.get(
		input,
		["a", "b"],
		y,
	)
	z == y
	every q in input.ys {
		q > 1
		q <
			10
	}
	not f(
		x,
	)
	{
		"k": 1,
		"l": 2,
	} == {"k": 1, "l": 2}
	input.o[
		"k"
	] == 1
	m = {k: w |
		some k, w in input.o
	}
	m.k == 1
	input.unit in {
		"a",
		"b",
	}
	1 +
		2 == 3
	[e, g] := [
		1,
		2,
	]
	e < g
	trusted
	input.w == 1 with input.w as
		1
	walk(input, [
		path,
		_,
	])
	count(path) == 0
	io.jwt.decode(input.unit) == 1 with io.jwt.decode as
		one
}

trusted if true

f(x) := false if {
	x != "zz"
}

one(_) := 1

t contains
	u if {
	some u in [
		1,
		2,
	]
}

p[n] := r if {
	some n,
		r in
		{"a": 1}
}
"""
SOME = """package a

p if {
	input.x
	input.y
	input.z
}

else if {
	input.a; input.b
}

q if {
	f(
		input.x,
		1,
	)
}

f(x, y) if {
	x == y
}
"""
GIVEN = '{"unit": "a", "xs": ["1"], "ys": [2], "o": {"k": 1}}'


def covered(text: str, *conditions: str) -> tuple[dict[str, LineCoverage], Coverage]:
    rules = "\n".join(f"test_{number} if {condition}" for number, condition in enumerate(conditions))
    files = {
        "a.rego": text,
        "a_test.rego": f"package a_test\n\n{rules}\n",
        "b.rego": "package b\n\nx if {\n\tinput.x\n}\n",
    }
    run = run_tests(sources_of(files), coverage=True)
    assert {test.outcome for test in run.tests} == {"pass"}
    assert run.coverage is not None
    return run.coverage.files(), run.coverage


def test_whatever_is_written_in_a_rule_that_holds_is_covered() -> None:
    files, whole = covered(
        EVERYTHING, f"data.a.decision.allow with input as {GIVEN}", "data.a.t == {1, 2}", "data.a.p.a == 1"
    )
    assert files["a.rego"].not_covered == []
    assert len(files["a.rego"].covered) > 50
    assert list(files) == ["a.rego", "b.rego"]
    assert files["b.rego"] == LineCoverage([], [4])
    assert whole.whole().percent < 100


def test_a_rule_is_covered_as_far_as_it_was_evaluated_and_by_all_tests_together() -> None:
    files, _ = covered(SOME, 'not data.a.p with input as {"x": 1, "y": false}')
    assert files["a.rego"] == LineCoverage([4, 5, 10], [6, 15, 16, 21])
    files, whole = covered(
        SOME,
        'not data.a.p with input as {"x": 1, "y": false}',
        'data.a.p with input as {"x": 1, "y": 2, "z": 1}',
        'not data.a.q with input as {"x": 2}',
    )
    assert files["a.rego"].not_covered == []
    assert whole.as_dict() == {
        "files": {
            "a.rego": {
                "covered": [
                    {"start": {"row": first}, "end": {"row": last}}
                    for first, last in ((4, 6), (10, 10), (15, 16), (21, 21))
                ],
                "covered_lines": 7,
                "not_covered_lines": 0,
                "coverage": 100.0,
            },
            "b.rego": {
                "not_covered": [{"start": {"row": 4}, "end": {"row": 4}}],
                "covered_lines": 0,
                "not_covered_lines": 1,
                "coverage": 0.0,
            },
        },
        "covered_lines": 7,
        "not_covered_lines": 1,
        "coverage": 87.5,
    }


def test_lines_that_follow_each_other_are_ranges() -> None:
    assert ranges([1, 2, 3, 5, 7, 8]) == [(1, 3), (5, 5), (7, 8)]
    assert LineCoverage([], []).percent == 100.0
