"""What a policy can read is known from its text, and an input of only that leads to the same verdict."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.adapters.regorus.policy import RegorusEngine
from extproc.datapath.model import Features, FeatureValue, Request, Unit
from extproc.datapath.policy_input import EVERYTHING, build_input
from extproc.errors import InvalidInput
from extproc.resources.policies import read_sources
from tests.support.decisions import make_rollout
from tests.support.paths import POLICIES
from tests.support.policies import engine_of, recipe, recipes

PATH = "routing/decision"
HTTP = "input.attributes.request.http"
ALIASED = "import input.attributes.request.http as http\nimport input.features\n"


def reads_of(body: str, imports: str = "", more: str = "") -> tuple[str, ...]:
    text = f"package routing\n\n{imports}\ndecision := {{}} if {{\n{body}\n}}\n{more}\n"
    return engine_of(text).reads(PATH).paths


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ("input.unit", ["unit"]),
        ('input["unit"]', ["unit"]),
        ("input[`unit`]", ["unit"]),
        ('input["un\\u0069t"]', ["unit"]),
        ("input.rollout.versions[0]", ["rollout.versions"]),
        (f'{HTTP}.headers["x-a"]', ["attributes.request.http.headers.x-a"]),
        (f'{HTTP}.headers["x.a"]', ['attributes.request.http.headers["x.a"]']),
        (f"some h\n{HTTP}.headers[h]", ["attributes.request.http.headers"]),
        (f"{HTTP}.headers[input.unit]", ["attributes.request.http.headers", "unit"]),
        ("input[data.x].y", [""]),
        ("x := input\nx.unit", ["unit"]),
        ("x := input\nx == 1", [""]),
        ("x = input\nx.unit", [""]),
        ("walk(input, [p, v])\np\nv", [""]),
        ("some x in input.parsed_path\nx", ["parsed_path"]),
        ('"x" in input.parsed_path', ["parsed_path"]),
        ("every x in input.features { x }", ["features"]),
        ("[x | x := input.features[_]][0]", ["features"]),
        ("not input.features.a", ["features.a"]),
        ("count(input.features) > -input.time", ["features", "time"]),
        ('object.get(input.features, "k", input.unit)', ["features.k", "unit"]),
        ('object.get(input, ["features", "k"], 0)', ["features.k"]),
        ('object.get(input, ["features", input.unit], 0)', [""]),
        ("object.get(input.features, input.unit, 0)", ["features", "unit"]),
        ('object.get(input.features[input.unit], "k", 0)', ["features", "unit"]),
        ("x := input.features\nx.a == x.b", ["features.a", "features.b"]),
        ('x := input.features\nobject.get(x, "k", 0)', ["features.k"]),
        ("x := input.features.unused", ["features.unused"]),
        ("x := input.rollout\ny := x.stable\ny == 1", ["rollout.stable"]),
        ("x := input.features\ny := {z | z := x[_]}\ny", ["features"]),
        ("data.q with input.unit as input.time", ["time", "unit"]),
        ('{"a": x} = input.features\nx', ["features"]),
        ("f(input.features)", ["features"]),
        ("true", []),
    ],
)
def test_references_are_followed_and_widened_where_they_cannot_be(body: str, paths: list[str]) -> None:
    assert list(reads_of(body, more="f(x) := x.a")) == paths


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ('http.headers["x-a"]', ["attributes.request.http.headers.x-a"]),
        ("http.method == features.a", ["attributes.request.http.method", "features.a"]),
        ("x := http.headers\nx.a", ["attributes.request.http.headers.a"]),
        ("count(http) > 1", ["attributes.request.http"]),
        ("features[_]", ["features"]),
        ("true", []),
    ],
)
def test_imports_of_the_input_are_followed(body: str, paths: list[str]) -> None:
    assert list(reads_of(body, ALIASED)) == paths


def test_what_is_read_by_way_of_other_packages_counts() -> None:
    files = {
        "a.rego": "package routing\n\nimport data.lib\n\ndecision := lib.f(1)\n",
        "b.rego": "package lib\n\nf(x) := data.deep.limit if x > input.features.a\n",
        "c.rego": "package deep\n\nlimit := input.unit\n",
        "d.rego": "package control\n\ndecision := input.time\n",
        "e.rego": "package routing\n\nother := input.parsed_path\n",
    }
    engine = engine_of(files)
    assert engine.reads(PATH).paths == ("features.a", "parsed_path", "unit")
    assert engine.reads("control/decision").paths == ("time",)
    assert engine.reads("lib/f").paths == ("features.a", "unit")


def test_data_as_a_whole_reaches_every_package() -> None:
    files = {
        "a.rego": "package routing\n\ndecision := {x | x := data[_].x}\n",
        "b.rego": "package lib\n\nx := input.unit\n",
    }
    assert engine_of(files).reads(PATH).paths == ("unit",)


def test_a_rule_that_is_not_there_reads_nothing() -> None:
    assert engine_of("package routing\n\ndecision := input.unit\n").reads("other/decision").paths == ()


# -- an input of only what is read leads to the same verdict

NAMES = ["a", "b", "x-a"]
VALUES = st.sampled_from([None, True, False, 0, 1, 0.9, "", "3", "a", ["a"], {"a": "b"}, {"k": 1}, {}])
ROLLOUTS = st.sampled_from([make_rollout(), make_rollout(policy_input={"stable": "3", "canary": None, "versions": []})])
REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST"]),
    path=st.sampled_from(["/", "/v1/models/x", "/a%2Fb?a=1&b", "/a?a=a&a=b"]),
    host=st.sampled_from(["", "h"]),
    scheme=st.just("http"),
    headers=st.dictionaries(st.sampled_from([*NAMES, "x-request-id"]), st.sampled_from([b"", b"a", b"3", b"\xff"])),
    attributes=st.sampled_from([{}, {"source.address": "10.0.0.1:5"}, {"request.protocol": "HTTP/2", "a": 1}]),
)
UNITS = st.sampled_from([Unit(b"a"), Unit(None), Unit(b"a", per_request=True)])
FEATURES = st.dictionaries(st.sampled_from(NAMES), VALUES.map(lambda value: FeatureValue(value, 1.0, "cache"))).map(
    Features
)
NOW = st.sampled_from([0.0, 1_763_640_000.25, 1_763_812_800.0])

CONTAINERS = [
    "input",
    "input.features",
    "input.attributes",
    "input.attributes.request",
    "input.attributes.source",
    "input.attributes.envoy",
    HTTP,
    f"{HTTP}.headers",
    "input.rollout",
    "input.parsed_query",
    "http",
    "http.headers",
    "features",
    "input.parsed_path",
    "input.version",
    "input.unit",
]
KEYS = ["a", "b", "x-a", "x-request-id", "stable", "canary", "method", "headers", "request", "http", "unit", "source"]
REFERENCES = st.builds(
    lambda container, keys: container + "".join(f'["{key}"]' for key in keys),
    st.sampled_from(CONTAINERS),
    st.lists(st.sampled_from(KEYS), max_size=2),
)
STATEMENTS = st.sampled_from(
    [
        "REF",
        "not REF",
        "REF == OTHER",
        "REF != OTHER",
        "REF > OTHER",
        "is_object(REF)",
        "count(REF) > 1",
        "REF[KEY]",
        "REF[OTHER][KEY]",
        "object.get(REF[OTHER], KEY, 7) == 7",
        "object.get(REF, KEY, OTHER) == OTHER",
        "some k in REF\nk == OTHER",
        "some k, v in REF\nk == KEY\nv",
        "every k, v in REF { k != KEY\n v != OTHER }",
        "x := REF",
        "x := REF\nx[KEY]",
        "x := REF\nx[KEY] == OTHER",
        "x := REF\ny := x[KEY]\ny[KEY] == OTHER",
        "x := REF\nz := {k | x[k]}\ncount(z) == 1",
        "x = REF\nx[KEY]",
        "object.get(REF, KEY, 7) == 7",
        "object.get(REF, [KEY, KEY], OTHER) == OTHER",
        "x := REF\nobject.get(x, KEY, 7) != 7",
        "f(REF)",
        "f(REF) == OTHER",
        "walk(REF, [p, v])\nv == OTHER\ncount(p) > 0",
        "count([k | some k in REF]) > 0",
        'sprintf("%v", [REF]) == sprintf("%v", [OTHER])',
        "inner with input as {KEY: REF}",
        "inner with input.unit as REF",
        "REF[OTHER]",
        "KEY in object.keys(REF)",
        "json.marshal(REF) == json.marshal(OTHER)",
    ]
)


@st.composite
def policies(draw: st.DrawFn) -> str:
    """A policy that says which of its rules hold, made of all the ways to refer to an input."""
    rules = []
    for number in range(draw(st.integers(1, 4))):
        body = draw(STATEMENTS)
        while "REF" in body:
            body = body.replace("REF", draw(REFERENCES), 1)
        body = body.replace("OTHER", draw(REFERENCES | st.sampled_from(['"a"', "1", "null", "true"])))
        body = body.replace("KEY", draw(st.sampled_from(KEYS).map('"{}"'.format)))
        rules.append(f"hits contains {number} if {{\n{body}\n}}\n")
    return (
        "package routing\n\n"
        + ALIASED
        + '\ndecision := {"allow": true, "reason": sprintf("%v", [sort(hits)])}\n\n'
        + "inner if input.a == input.features.a\n\nf(x) := x.a if x.b\n\nf(x) := 1 if x.k\n\n"
        + "\n".join(rules)
    )


def verdicts(
    engine: RegorusEngine, path: str, request: Request, rollout: Any, unit: Unit, features: Features, now: float
) -> tuple[Any, Any]:
    full = build_input(request, rollout, unit, features, now, EVERYTHING)
    pruned = build_input(request, rollout, unit, features, now, engine.reads(path))
    return engine.evaluate(path, full), engine.evaluate(path, pruned)


@settings(max_examples=300, deadline=None)
@given(policies(), REQUESTS, ROLLOUTS, UNITS, FEATURES, NOW)
def test_generated_policies_cannot_tell_what_was_left_out(
    policy: str, request: Request, rollout: Any, unit: Unit, features: Features, now: float
) -> None:
    try:
        engine = engine_of(policy)
    except InvalidInput:
        return  # `x := input.a["b"]` and the like, twice in one rule
    on_full, on_pruned = verdicts(engine, PATH, request, rollout, unit, features, now)
    assert on_pruned == on_full


@given(REQUESTS, ROLLOUTS, UNITS, st.floats(0, 1) | VALUES, NOW)
def test_the_shipped_and_shown_policies_cannot_tell_what_was_left_out(
    request: Request, rollout: Any, unit: Unit, risk: Any, now: float
) -> None:
    features = Features({"risk_score": FeatureValue(risk, 1.0, "cache"), "other": FeatureValue(1, 1.0, "cache")})
    for engine, path in SERVED:
        on_full, on_pruned = verdicts(engine, path, request, rollout, unit, features, now)
        assert on_pruned == on_full


SERVED = [
    (RegorusEngine(read_sources(POLICIES)), PATH),
    *((RegorusEngine(recipe(name)), f"{name}/decision") for name in recipes()),
]
