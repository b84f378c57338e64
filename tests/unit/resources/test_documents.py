"""Documents by themselves: what is read, and every fault with its code, file, line and field."""

from __future__ import annotations

import copy
import textwrap
from pathlib import Path
from typing import Any

import pytest

from extproc.errors import Fault, InvalidInput
from extproc.resources.loading import MAX_FILE_BYTES, load_paths, parse_rollout
from extproc.resources.marked_yaml import MAX_STREAM_VALUES, MAX_VALUES
from extproc.resources.rollout import MAX_MATCHES, Rollout
from extproc.resources.steps import PauseStep, SetWeightStep
from tests.support.rollouts import CANARY, EXPERIMENT, document

DESIGN = """\
apiVersion: dropout.dev/v1alpha1
kind: Rollout
metadata: {namespace: payments, name: fraud-detector}
spec:
  model: fraud-detector                    # registered model
  match:
    - path: {type: PathPrefix, value: /v1/models/fraud-detector}
    - headers: [{name: x-model, value: fraud-detector}]
  unit: {header: x-user-id, missing: stable}
  seed: fraud-2026-11
  stable: {alias: champion}
  canary: {alias: challenger}
  aliases: {champion: "3", challenger: "4"}
  upstream: "{model}-v{version}"
  timeout: 12.5s
  idleTimeout: 0s
  features:
    {entity: {header: x-user-id}, view: user_risk, names: [risk_score], maxAge: 1h, timeout: 5ms, onMissing: stable}
  policy: {path: routing/decision, onError: stable}
  log: {headers: [x-region], features: [risk_score]}
  steps:
    - shadow: {percent: 100}
    - pause: {duration: 10m}
    - setWeight: 5
    - analysis: {templates: [{templateName: fraud-health}], args: [{name: threshold, value: "0.02"}]}
    - setWeight: 50
    - pause: {}
  analysis: {templates: [{templateName: live-health}]}
  breaker: {window: 10s, minRequests: 20, errorRate: 0.2, consecutive: 10}
"""

MINIMAL = """\
apiVersion: dropout.dev/v1alpha1
kind: Rollout
metadata: {name: fraud-detector}
spec:
  model: fraud-detector
  match: [{path: {value: /v1}}]
  unit: {cookie: user}
  stable: {version: "3"}
  canary: {version: "4"}
"""


def spec_with(base: dict[str, Any] = CANARY, **changes: Any) -> dict[str, Any]:
    """The spec with fields changed; one that is None is left out."""
    return {key: value for key, value in {**copy.deepcopy(base), **changes}.items() if value is not None}


def accepted(base: dict[str, Any] = CANARY, **changes: Any) -> Rollout:
    return parse_rollout(document(spec_with(base, **changes)))


def faults_of(base: dict[str, Any] = CANARY, **changes: Any) -> list[tuple[str, str | None]]:
    """Code and field of every fault of the changed document."""
    with pytest.raises(InvalidInput) as caught:
        accepted(base, **changes)
    return [(fault.code, fault.field) for fault in caught.value.faults]


def faults_in(tmp_path: Path, text: str | bytes, name: str = "r.yaml") -> list[Fault]:
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_paths([file]).faults


def places(faults: list[Fault]) -> list[tuple[str, int | None, str | None]]:
    return [(fault.code, fault.line, fault.field) for fault in faults]


# What is read


def test_the_designs_example_is_read_into_hundredths_seconds_and_lower_case(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(DESIGN)
    loaded = load_paths([tmp_path])
    assert loaded.faults == []
    spec = loaded.documents[0].resource.spec
    assert [step.set_weight for step in spec.steps if isinstance(step, SetWeightStep)] == [500, 5000]
    assert [step.pause.duration for step in spec.steps if isinstance(step, PauseStep)] == [600.0, None]
    assert spec.features is not None
    assert (spec.features.timeout, spec.features.max_age) == (0.005, 3600.0)
    assert (spec.timeout, spec.idle_timeout) == (12.5, 0.0)
    assert spec.canary is not None
    assert spec.resolve(spec.canary) == "4"
    assert spec.versions() == ["3", "4"]
    assert loaded.documents[0].resource.upstream_of("4") == "fraud-detector-v4"


def test_what_is_left_out_has_safe_defaults(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(MINIMAL)
    rollout = load_paths([tmp_path]).documents[0].resource
    assert rollout.key == "default/fraud-detector"
    assert rollout.spec.unit.missing == "stable"
    assert (rollout.spec.policy, rollout.spec.features, rollout.spec.seed) == (None, None, None)
    assert rollout.spec.upstream == "{model}-v{version}"
    assert not rollout.spec.is_experiment


def test_an_empty_policy_is_the_rule_decision_of_package_routing() -> None:
    policy = accepted(policy={}).spec.policy
    assert policy is not None
    assert (policy.path, policy.on_error) == ("routing/decision", None)


def test_an_experiment_and_a_shadow_only_rollout_are_accepted() -> None:
    experiment = accepted(EXPERIMENT, coverage=20, holdout={"name": "global-2026", "percent": 5}).spec
    assert experiment.is_experiment
    assert [variant.weight for variant in experiment.variants] == [5000, 5000]
    assert experiment.coverage == 2000
    shadow = accepted(canary=None, shadow={"version": "4", "percent": 12.5}).spec.shadow
    assert shadow is not None
    assert shadow.percent == 1250


def test_a_shadow_may_stand_beside_a_canary() -> None:
    assert accepted(shadow={"version": "5"}).spec.versions() == ["3", "4", "5"]


def test_a_prefix_loses_its_trailing_slash_and_an_exact_path_keeps_it() -> None:
    prefix, exact, root = accepted(
        match=[
            {"path": {"type": "PathPrefix", "value": "/a/"}},
            {"path": {"type": "Exact", "value": "/a/"}},
            {"path": {"value": "/"}},
        ]
    ).spec.match
    assert [entry.path.value for entry in (prefix, exact, root) if entry.path] == ["/a", "/a/", "/"]


def test_hosts_and_header_names_are_lower_cased() -> None:
    entry = accepted(
        match=[{"hosts": ["API.Example.com", "*.Example.com"], "headers": [{"name": "X-Model", "value": "A"}]}]
    )
    assert entry.spec.match[0].hosts == ["api.example.com", "*.example.com"]
    assert (entry.spec.match[0].headers[0].name, entry.spec.match[0].headers[0].value) == ("x-model", "A")


def test_an_alias_that_is_not_there_is_refused_by_resolve_too() -> None:
    spec = accepted().spec
    with pytest.raises(InvalidInput) as caught:
        spec.resolve(spec.stable.model_copy(update={"version": None, "alias": "nobody"}))  # type: ignore[union-attr]
    assert caught.value.code == "alias_unresolved"


def test_a_rollout_written_out_and_read_again_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(DESIGN)
    rollout = load_paths([tmp_path]).documents[0].resource
    written = rollout.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True, mode="json")
    assert parse_rollout(written) == rollout
    assert written["spec"]["steps"][1:3] == [{"pause": {"duration": "10m"}}, {"setWeight": 5}]


# One fault at a time

SPEC_FAULTS: list[tuple[str, dict[str, Any], tuple[str, str]]] = [
    ("an unknown field", {"sede": "x"}, ("unknown_field", "spec.sede")),
    ("a missing model", {"model": None}, ("missing_field", "spec.model")),
    ("a missing match", {"match": None}, ("missing_field", "spec.match")),
    ("a missing unit", {"unit": None}, ("missing_field", "spec.unit")),
    ("a version that is a number", {"canary": {"version": 3}}, ("mistyped_value", "spec.canary.version")),
    ("a model that is a list", {"model": ["a"]}, ("mistyped_value", "spec.model")),
    ("a match that is no list", {"match": {"path": "/"}}, ("mistyped_value", "spec.match")),
    ("an empty match", {"match": []}, ("empty_match", "spec.match")),
    ("an empty match entry", {"match": [{}]}, ("empty_match", "spec.match[0]")),
    ("a match entry with empty lists", {"match": [{"headers": []}]}, ("empty_match", "spec.match[0]")),
    ("a path without a slash", {"match": [{"path": {"value": "v1"}}]}, ("invalid_value", "spec.match[0].path.value")),
    ("a path with a query", {"match": [{"path": {"value": "/a?b"}}]}, ("invalid_value", "spec.match[0].path.value")),
    (
        "a path of a kind that is not known",
        {"match": [{"path": {"type": "Regex", "value": "/"}}]},
        ("invalid_value", "spec.match[0].path.type"),
    ),
    ("a host with a port", {"match": [{"hosts": ["a:80"]}]}, ("invalid_value", "spec.match[0].hosts[0]")),
    ("a bare wildcard", {"match": [{"hosts": ["*"]}]}, ("invalid_value", "spec.match[0].hosts[0]")),
    (
        "a header name that is no token",
        {"match": [{"headers": [{"name": "x y", "value": "a"}]}]},
        ("invalid_value", "spec.match[0].headers[0].name"),
    ),
    (
        "a header that Dropout itself sets",
        {"unit": {"header": "X-Model-Version"}},
        ("invalid_value", "spec.unit.header"),
    ),
    (
        "a header asked for twice",
        {"match": [{"headers": [{"name": "a", "value": "1"}, {"name": "A", "value": "2"}]}]},
        ("duplicate_name", "spec.match[0].headers[1].name"),
    ),
    ("a unit of two sources", {"unit": {"header": "a", "cookie": "b"}}, ("conflicting_fields", "spec.unit.cookie")),
    ("a unit without a source", {"unit": {"missing": "stable"}}, ("missing_field", "spec.unit")),
    ("a seed with a colon", {"seed": "a:b"}, ("invalid_value", "spec.seed")),
    ("an empty seed", {"seed": ""}, ("invalid_value", "spec.seed")),
    ("a version with a space", {"canary": {"version": "3 4"}}, ("invalid_value", "spec.canary.version")),
    ("a version with a newline", {"canary": {"version": "3\n"}}, ("invalid_value", "spec.canary.version")),
    ("a version that is not ASCII", {"canary": {"version": "ü"}}, ("invalid_value", "spec.canary.version")),
    ("a version of 129 characters", {"canary": {"version": "3" * 129}}, ("invalid_value", "spec.canary.version")),
    ("an alias that resolves to nothing", {"stable": {"alias": "x"}}, ("alias_unresolved", "spec.stable.alias")),
    (
        "alias and version at once",
        {"stable": {"alias": "x", "version": "3"}, "aliases": {"x": "3"}},
        ("conflicting_fields", "spec.stable.version"),
    ),
    ("an alias for a number", {"aliases": {"x": 3}}, ("mistyped_value", "spec.aliases.x")),
    ("an unknown variable", {"upstream": "{model}-{versio}"}, ("upstream_unknown_variable", "spec.upstream")),
    ("a variable with a conversion", {"upstream": "{model!r}"}, ("upstream_unknown_variable", "spec.upstream")),
    ("an attribute of a variable", {"upstream": "{model.x}"}, ("upstream_unknown_variable", "spec.upstream")),
    ("a variable without a name", {"upstream": "a{}"}, ("upstream_unknown_variable", "spec.upstream")),
    ("a lonely brace", {"upstream": "{model}}-x"}, ("upstream_invalid_template", "spec.upstream")),
    ("an upstream with a space", {"upstream": "a b"}, ("invalid_value", "spec.upstream")),
    (
        "an upstream that grows too long",
        {"model": "m" * 128, "upstream": "{model}" * 3},
        ("invalid_value", "spec.upstream"),
    ),
    ("servers without a port", {"endpoints": {"host": "models"}}, ("missing_field", "spec.endpoints.port")),
    ("servers at no port", {"endpoints": {"host": "models", "port": 0}}, ("invalid_value", "spec.endpoints.port")),
    ("servers at no host", {"endpoints": {"host": "m/{version}", "port": 1}}, ("invalid_value", "spec.endpoints.host")),
    ("a duration without a unit", {"breaker": {"window": 10}}, ("mistyped_value", "spec.breaker.window")),
    ("a duration in days", {"breaker": {"window": "1d"}}, ("invalid_value", "spec.breaker.window")),
    ("a duration of nothing", {"breaker": {"window": "0s"}}, ("invalid_value", "spec.breaker.window")),
    ("a timeout without a unit", {"timeout": 60}, ("mistyped_value", "spec.timeout")),
    ("a part that no input has", {"policy": {"reads": ["feature.x"]}}, ("invalid_value", "spec.policy.reads[0]")),
    ("a part that is no path", {"policy": {"reads": ["a..b"]}}, ("invalid_value", "spec.policy.reads[0]")),
    ("the whole input as a part", {"policy": {"reads": [""]}}, ("invalid_value", "spec.policy.reads[0]")),
    ("no part at all", {"policy": {"reads": []}}, ("invalid_value", "spec.policy.reads")),
    (
        "the name of a header in upper case",
        {"policy": {"reads": ["attributes.request.http.headers.X-Tenant"]}},
        ("invalid_value", "spec.policy.reads[0]"),
    ),
    (
        "a feature that is not read",
        {"policy": {"reads": ["unit", "features.x"]}},
        ("invalid_value", "spec.policy.reads[1]"),
    ),
    ("a part twice", {"policy": {"reads": ["unit", "unit"]}}, ("duplicate_name", "spec.policy.reads[1]")),
    ("a time to remember without a unit", {"policy": {"remember": 2}}, ("mistyped_value", "spec.policy.remember")),
    ("a timeout that Envoy would take for none", {"timeout": "999us"}, ("invalid_value", "spec.timeout")),
    ("a timeout of more than a year", {"idleTimeout": "8761h"}, ("invalid_value", "spec.idleTimeout")),
    ("an error rate above one", {"breaker": {"errorRate": 1.5}}, ("invalid_value", "spec.breaker.errorRate")),
    ("half a request", {"breaker": {"minRequests": 2.5}}, ("mistyped_value", "spec.breaker.minRequests")),
    ("a rule without a package", {"policy": {"path": "decision"}}, ("invalid_value", "spec.policy.path")),
    ("a policy that fails elsewhere", {"policy": {"onError": "open"}}, ("invalid_value", "spec.policy.onError")),
    (
        "what becomes of a variant, without any",
        {"analysis": {"templates": [{"templateName": "t"}], "onFailed": "control"}},
        ("conflicting_fields", "spec.analysis.onFailed"),
    ),
    ("coverage without variants", {"coverage": 20}, ("conflicting_fields", "spec.coverage")),
    ("no stable", {"stable": None}, ("missing_field", "spec.stable")),
    (
        "steps without a canary",
        {"canary": None, "shadow": {"version": "4"}, "steps": [{"setWeight": 5}]},
        ("conflicting_fields", "spec.steps"),
    ),
    ("a step of nothing", {"steps": [{}]}, ("missing_field", "spec.steps[0]")),
    (
        "a step of two things",
        {"steps": [{"setWeight": 5, "pause": {}}]},
        ("conflicting_fields", "spec.steps[0].pause"),
    ),
    ("a misspelt step", {"steps": [{"setWeigth": 5}]}, ("unknown_field", "spec.steps[0].setWeigth")),
    ("three decimals", {"steps": [{"setWeight": 1.234}]}, ("invalid_value", "spec.steps[0].setWeight")),
    ("more than everything", {"steps": [{"setWeight": 100.01}]}, ("invalid_value", "spec.steps[0].setWeight")),
    ("less than nothing", {"steps": [{"setWeight": -1}]}, ("invalid_value", "spec.steps[0].setWeight")),
    ("a percent in quotes", {"steps": [{"setWeight": "5"}]}, ("mistyped_value", "spec.steps[0].setWeight")),
    ("a percent that is a truth", {"steps": [{"setWeight": True}]}, ("mistyped_value", "spec.steps[0].setWeight")),
    ("an analysis of nothing", {"analysis": {"templates": []}}, ("invalid_value", "spec.analysis.templates")),
    (
        "an argument that is a number",
        {"analysis": {"templates": [{"templateName": "a"}], "args": [{"name": "t", "value": 0.02}]}},
        ("mistyped_value", "spec.analysis.args[0].value"),
    ),
    (
        "an argument given twice",
        {"analysis": {"templates": [{"templateName": "a"}], "args": [{"name": "t", "value": "1"}] * 2}},
        ("duplicate_name", "spec.analysis.args[1].name"),
    ),
    (
        "a template named twice",
        {"steps": [{"analysis": {"templates": [{"templateName": "a"}] * 2}}]},
        ("duplicate_name", "spec.steps[0].analysis.templates[1].templateName"),
    ),
    (
        "a feature named twice",
        {"features": {"entity": {"cookie": "u"}, "view": "v", "names": ["a", "a"]}},
        ("duplicate_name", "spec.features.names[1]"),
    ),
    (
        "features of nobody",
        {"features": {"entity": {}, "view": "v", "names": ["a"]}},
        ("missing_field", "spec.features.entity"),
    ),
    (
        "an entity by header and by keys",
        {"features": {"entity": {"header": "x", "keys": [{"name": "k", "header": "y"}]}, "view": "v", "names": ["a"]}},
        ("conflicting_fields", "spec.features.entity.keys"),
    ),
    (
        "a join key from nowhere",
        {"features": {"entity": {"keys": [{"name": "k", "type": "integer"}]}, "view": "v", "names": ["a"]}},
        ("missing_field", "spec.features.entity.keys[0]"),
    ),
    (
        "a join key twice",
        {
            "features": {
                "entity": {"keys": [{"name": "k", "header": "x"}, {"name": "k", "header": "y"}]},
                "view": "v",
                "names": ["a"],
            }
        },
        ("duplicate_name", "spec.features.entity.keys[1].name"),
    ),
    ("a layer without buckets", {"layer": {"name": "l", "range": [5, 5]}}, ("invalid_value", "spec.layer.range")),
    (
        "a layer beyond the last bucket",
        {"layer": {"name": "l", "range": [0, 10001]}},
        ("invalid_value", "spec.layer.range[1]"),
    ),
    ("a layer of one bound", {"layer": {"name": "l", "range": [0]}}, ("missing_field", "spec.layer.range[1]")),
    ("a header that no request has", {"unit": {"header": "Host"}}, ("invalid_value", "spec.unit.header")),
    ("a deadline without steps", {"progressDeadline": "10m"}, ("conflicting_fields", "spec.progressDeadline")),
    (
        "an abort without a deadline",
        {"steps": [{"setWeight": 5}], "progressDeadlineAbort": True},
        ("conflicting_fields", "spec.progressDeadlineAbort"),
    ),
    ("a layer in capitals", {"layer": {"name": "L", "range": [0, 5]}}, ("invalid_value", "spec.layer.name")),
]


@pytest.mark.parametrize(("what", "changes", "expected"), SPEC_FAULTS, ids=[fault[0] for fault in SPEC_FAULTS])
def test_it_is_refused(what: str, changes: dict[str, Any], expected: tuple[str, str]) -> None:
    assert faults_of(**changes) == [expected]


def weighted(*weights: float, name: str = "v") -> list[dict[str, Any]]:
    return [{"name": f"{name}{i}", "version": str(i), "weight": weight} for i, weight in enumerate(weights)]


EXPERIMENT_FAULTS: list[tuple[str, dict[str, Any], tuple[str, str]]] = [
    ("weights below 100", {"variants": weighted(50, 49.99)}, ("variant_weights", "spec.variants")),
    ("weights above 100", {"variants": weighted(50, 50, 0.01)}, ("variant_weights", "spec.variants")),
    ("a single variant", {"variants": weighted(100)}, ("invalid_value", "spec.variants")),
    (
        "variants of one name",
        {"variants": weighted(50, 50, name="")[:1] * 2},
        ("duplicate_name", "spec.variants[1].name"),
    ),
    (
        "a variant called canary",
        {"variants": [*weighted(50), {"name": "canary", "version": "9", "weight": 50}]},
        ("reserved_name", "spec.variants[1].name"),
    ),
    (
        "a variant called excluded",
        {"variants": [{"name": "excluded", "version": "9", "weight": 50}, *weighted(50)]},
        ("reserved_name", "spec.variants[0].name"),
    ),
    ("stable beside variants", {"stable": {"version": "3"}}, ("conflicting_fields", "spec.stable")),
    ("steps beside variants", {"steps": [{"setWeight": 5}]}, ("conflicting_fields", "spec.steps")),
]


@pytest.mark.parametrize(("what", "changes", "expected"), EXPERIMENT_FAULTS, ids=[f[0] for f in EXPERIMENT_FAULTS])
def test_an_experiment_is_refused(what: str, changes: dict[str, Any], expected: tuple[str, str]) -> None:
    assert faults_of(EXPERIMENT, **changes) == [expected]


def test_weights_are_added_in_decimal() -> None:
    assert accepted(EXPERIMENT, variants=weighted(33.33, 33.33, 33.34)).spec.is_experiment
    assert accepted(EXPERIMENT, variants=weighted(0.1, 0.2, 99.7)).spec.is_experiment


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a.b", "a_b", "ä", "a" * 64, "a\n"])
def test_a_name_that_is_no_label_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rollout(document(spec_with(), name=name))
    assert [(fault.code, fault.field) for fault in caught.value.faults] == [("invalid_value", "metadata.name")]


def test_snake_case_is_no_spelling_of_a_field() -> None:
    assert ("unknown_field", "spec.policy.on_error") in faults_of(policy={"on_error": "deny"})


def test_a_fault_of_a_stored_body_names_the_file_it_is_given() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rollout({"apiVersion": "dropout.dev/v1alpha1", "kind": "Rollout"}, file="payments/a")
    assert {fault.file for fault in caught.value.faults} == {"payments/a"}
    assert [fault.field for fault in caught.value.faults] == ["metadata", "spec"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"kind": "Deployment"}, "unsupported_kind"),
        ({"apiVersion": "dropout.dev/v2"}, "unsupported_api_version"),
    ],
)
def test_a_document_of_somebody_else_is_refused_without_judging_its_fields(changes: dict[str, str], code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rollout({**document({"replicas": 3}), **changes})
    assert [fault.code for fault in caught.value.faults] == [code]


def test_a_misspelt_field_is_told_what_may_have_been_meant(tmp_path: Path) -> None:
    (fault,) = faults_in(tmp_path, MINIMAL + "  steps:\n    - setWeigth: 5\n")
    assert fault.message == "unknown field 'setWeigth'; did you mean 'setWeight'?"


@pytest.mark.parametrize(
    "written", ["4", "1.10", "007", "0x1F", "0o17", "7e10", "1234e567", "12345678e9", "+1", "1.", "true", "FALSE", "-0"]
)
@pytest.mark.parametrize(
    ("field", "of"),
    [
        ("spec.canary.version", '{version: "4"}'),
        ("spec.model", "model: fraud-detector"),
        ("spec.stable.version", '{version: "3"}'),
        ("spec.match[0].path.value", "{value: /v1}"),
    ],
)
def test_text_without_quotes_is_told_to_be_quoted_as_it_is_written(
    tmp_path: Path, written: str, field: str, of: str
) -> None:
    name, _, value = of.partition(": ")
    (fault,) = faults_in(tmp_path, MINIMAL.replace(of, f"{name}: {written}{'}' if value.endswith('}') else ''}"))
    assert (fault.field, fault.message) == (field, f'must be a string; write it in quotes: "{written}"')


def test_text_that_a_store_has_as_a_number_is_told_to_be_quoted() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rollout(document({**CANARY, "model": 1.5}))
    assert [fault.message for fault in caught.value.faults] == ["must be a string; write it in quotes"]


# Lines, and all faults in one go


def test_every_fault_of_a_document_is_reported_with_its_line(tmp_path: Path) -> None:
    text = textwrap.dedent("""\
        # a comment
        apiVersion: dropout.dev/v1alpha1
        kind: Rollout
        metadata:
          name: Fraud
        spec:
          model: fraud-detector
          match:
            - path:
                value: v1
            -
              headers: []
          unit: {header: x-user-id, cookie: user}
          sede: x
          seed: a:b
          stable: {alias: nobody}
          canary:
            version:
              4
          upstream: "{nope}"
          steps:
            - setWeight:
                5.001
          steps: []
          coverage: 20
    """)
    assert places(faults_in(tmp_path, text)) == [
        ("invalid_value", 5, "metadata.name"),
        ("invalid_value", 10, "spec.match[0].path.value"),
        ("empty_match", 12, "spec.match[1]"),
        ("conflicting_fields", 13, "spec.unit.cookie"),
        ("unknown_field", 14, "spec.sede"),
        ("invalid_value", 15, "spec.seed"),
        ("alias_unresolved", 16, "spec.stable.alias"),
        ("mistyped_value", 18, "spec.canary.version"),
        ("upstream_unknown_variable", 20, "spec.upstream"),
        ("invalid_value", 22, "spec.steps[0].setWeight"),
        ("duplicate_key", 24, "spec.steps"),
        ("conflicting_fields", 25, "spec.coverage"),
    ]


def test_a_missing_field_is_on_the_line_of_its_parent(tmp_path: Path) -> None:
    text = MINIMAL.replace("  model: fraud-detector\n", "").replace("{name: fraud-detector}", "\n  namespace: a")
    assert places(faults_in(tmp_path, text)) == [
        ("missing_field", 3, "metadata.name"),
        ("missing_field", 5, "spec.model"),
    ]


def test_the_faults_of_all_files_and_documents_are_reported_and_the_good_ones_are_read(tmp_path: Path) -> None:
    bad = MINIMAL.replace("  model: fraud-detector\n", "")
    (tmp_path / "a.yaml").write_text(MINIMAL + "---\n" + bad)
    (tmp_path / "b.yml").write_text("kind: [")
    (tmp_path / "c.json").write_text('{"kind": "Pod"}')
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.yaml").write_text(MINIMAL)
    loaded = load_paths([tmp_path, tmp_path / "nowhere"])
    assert [(Path(document.file).name, document.line_at()) for document in loaded.documents] == [
        ("a.yaml", 1),
        ("d.yaml", 1),
    ]
    assert [(Path(fault.file or "").name, fault.code, fault.line) for fault in loaded.faults] == [
        ("a.yaml", "missing_field", 14),
        ("b.yml", "yaml_syntax", 2),
        ("c.json", "unsupported_kind", 1),
        ("nowhere", "file_not_found", None),
    ]


def test_the_documents_before_broken_yaml_are_still_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MINIMAL + "---\n'unfinished")
    loaded = load_paths([tmp_path])
    assert len(loaded.documents) == 1
    assert [fault.code for fault in loaded.faults] == ["yaml_syntax"]


# Files and folders


def test_json_is_read_with_tabs_and_escapes(tmp_path: Path) -> None:
    text = '{\n\t"apiVersion": "dropout.dev\\/v1alpha1",\n\t"kind": "Rollout",\n\t"metadata": {"name": "A"}\n}\n'
    assert places(faults_in(tmp_path, text, "r.json")) == [
        ("missing_field", 1, "spec"),
        ("invalid_value", 4, "metadata.name"),
    ]


def test_hidden_and_foreign_files_of_a_folder_are_left_out(tmp_path: Path) -> None:
    for name in (".hidden.yaml", "README.md", "r.yaml~"):
        (tmp_path / name).write_text("kind: [")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "r.yaml").write_text("kind: [")
    (tmp_path / "r.yaml").write_text(MINIMAL)
    loaded = load_paths([tmp_path])
    assert (len(loaded.documents), loaded.faults) == (1, [])


def test_a_mounted_config_map_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "..2026_11_01").mkdir()
    (tmp_path / "..2026_11_01" / "r.yaml").write_text(MINIMAL)
    (tmp_path / "..data").symlink_to("..2026_11_01")
    (tmp_path / "r.yaml").symlink_to("..data/r.yaml")
    loaded = load_paths([tmp_path, tmp_path / "r.yaml"])
    assert (len(loaded.documents), loaded.faults) == (1, [])


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    assert [fault.code for fault in load_paths([tmp_path]).faults] == ["no_documents"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n---\n", "~\n", "\ufeff"])
def test_a_file_without_documents_is_an_error(tmp_path: Path, text: str) -> None:
    assert [fault.code for fault in faults_in(tmp_path, text)] == ["no_documents"]


def test_a_document_of_ten_megabytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "r.yaml").open("wb") as file:
        file.truncate(10 * 1024 * 1024)
    assert [fault.code for fault in load_paths([tmp_path]).faults] == ["document_too_large"]


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(MINIMAL + "#".ljust(MAX_FILE_BYTES - len(MINIMAL), "x"))
    assert load_paths([tmp_path]).faults == []


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    long = tmp_path / ("a" * 300)
    assert [fault.code for fault in load_paths([tmp_path / "loop.yaml", long]).faults] == ["file_unreadable"] * 2


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path: Path) -> None:
    assert places(faults_in(tmp_path, b"a: b\nc: \xff\n")) == [("not_utf8", 2, None)]


# YAML


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("a: [", "yaml_syntax", 2),
        ("a: b: c", "yaml_syntax", 1),
        ("a: 1\n\tb: 2\n", "yaml_syntax", 2),
        ("a: 1\nb: \x00", "yaml_syntax", 2),
        ("a: *nobody", "yaml_syntax", 1),
        ("a: &a [*a]", "yaml_syntax", 1),
        ("? [a]\n: b", "yaml_syntax", 1),
        ("[" * 100_000, "yaml_too_deep", 1),
        ("{a: " * 100_000, "yaml_too_deep", 1),
        ("- " * 100_000, "yaml_too_deep", 1),
    ],
)
def test_yaml_that_cannot_be_read_ends_the_file_with_a_line(tmp_path: Path, text: str, code: str, line: int) -> None:
    (fault,) = faults_in(tmp_path, text)
    assert (fault.code, fault.line) == (code, line)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("a:\n\tb: 1\n", "use spaces"),
        ("a:\n  c: 1\n \tb: 1\n", "use spaces"),
        ("a: {\n\t b: 1, c: d: e}", "use spaces"),
        ("a: b: c", "text with ': ' lacks quotes"),
        ("a:\n  b: 1\n c: 1\n", "indented otherwise"),
        ('a: "b\nc: 1\n', "a quote is not closed"),
        ("a: [1, 2\nb: 1\n", "a bracket is not closed"),
        ("a: @b", "no value begins with '@': put it in quotes"),
        ("a: %b", "no value begins with '%': put it in quotes"),
    ],
)
def test_yaml_that_cannot_be_read_is_told_with_what_its_author_most_likely_did(
    tmp_path: Path, text: str, advice: str
) -> None:
    (fault,) = faults_in(tmp_path, text)
    assert fault.code == "yaml_syntax"
    assert advice in fault.message


def test_aliases_that_would_multiply_are_refused(tmp_path: Path) -> None:
    levels = "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    (fault,) = faults_in(tmp_path, "a: &a [1,2,3,4,5,6,7,8,9,0]\n" + levels)
    assert fault.code == "yaml_too_many_aliases"


def test_more_values_than_any_document_has_are_refused(tmp_path: Path) -> None:
    (fault,) = faults_in(tmp_path, "a: [" + "1," * 200_000 + "]")
    assert fault.code == "document_too_large"


def test_what_the_documents_of_one_file_may_cost_is_bounded(tmp_path: Path) -> None:
    """However it is divided: many may wait for it."""
    each = MAX_VALUES // 2
    enough = MAX_STREAM_VALUES // each + 1
    faults = faults_in(tmp_path, f"--- [{'1,' * each}]\n" * enough)
    assert [fault.code for fault in faults if fault.code != "mistyped_value"] == ["document_too_large"]
    assert "into another" in faults[-1].message


def test_a_rollout_has_at_most_so_many_matches(tmp_path: Path) -> None:
    matches = [f"{{path: {{value: /{number}}}}}" for number in range(MAX_MATCHES + 1)]
    whole = MINIMAL.replace("match: [{path: {value: /v1}}]", f"match: [{', '.join(matches[1:])}]")
    assert whole != MINIMAL
    assert faults_in(tmp_path, whole) == []
    (fault,) = faults_in(tmp_path, whole.replace("match: [", f"match: [{matches[0]}, "))
    assert (fault.code, fault.field) == ("invalid_value", "spec.match")
    assert fault.message == f"must have at most {MAX_MATCHES} entries"


def test_the_faults_of_a_hostile_file_are_cut_short(tmp_path: Path) -> None:
    faults = faults_in(tmp_path, MINIMAL + "  steps: [" + "a," * 10_000 + "]")
    assert (len(faults), faults[-1].code) == (1001, "too_many_faults")


def test_an_anchor_may_be_used_again(tmp_path: Path) -> None:
    text = MINIMAL.replace("{cookie: user}", "{header: &h x-user-id}")
    text += "  features: {entity: {header: *h}, view: v, names: [a]}\n"
    assert faults_in(tmp_path, text) == []


def test_duplicate_keys_are_found_at_every_level_with_the_line_of_the_second(tmp_path: Path) -> None:
    text = MINIMAL.replace("{cookie: user}", "\n    cookie: user\n    'cookie': other") + "kind: Rollout\n"
    assert places(faults_in(tmp_path, text)) == [
        ("duplicate_key", 9, "spec.unit.cookie"),
        ("duplicate_key", 12, "kind"),
    ]


def test_merge_keys_and_foreign_tags_are_refused(tmp_path: Path) -> None:
    text = MINIMAL + "  log: {<<: {headers: [a]}}\n  seed: !!python/name:os.system x\n"
    assert [fault.code for fault in faults_in(tmp_path, text)] == ["yaml_merge_key", "yaml_tag"]


@pytest.mark.parametrize("text", ["2026-11-01", "no", "on", ".inf", "1_000", "12:30:45"])
def test_what_yaml_1_1_would_twist_stays_a_string(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(MINIMAL.replace('{version: "4"}', f"{{version: {text}}}"))
    canary = load_paths([tmp_path]).documents[0].resource.spec.canary
    assert canary is not None
    assert canary.version == text


@pytest.mark.parametrize("text", ["4", "0x1F", "1e3", "4.", "true", "~", "[4]"])
def test_a_version_that_yaml_reads_as_something_else_is_a_fault(tmp_path: Path, text: str) -> None:
    codes = [fault.code for fault in faults_in(tmp_path, MINIMAL.replace('{version: "4"}', f"{{version: {text}}}"))]
    assert codes == (["missing_field"] if text == "~" else ["mistyped_value"])
