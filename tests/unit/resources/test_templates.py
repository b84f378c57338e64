"""AnalysisTemplates by themselves: what is read, and every fault with its code, file, line and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from extproc.errors import InvalidInput
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.loading import load_paths, parse_rollout, parse_template
from extproc.resources.providers.feedback import PROVIDER as FEEDBACK_PROVIDER
from extproc.resources.providers.feedback import FeedbackSpec
from extproc.resources.providers.observed import PROVIDER as OBSERVED_PROVIDER
from extproc.resources.providers.observed import ObservedSpec
from tests.support.rollouts import CANARY, document
from tests.support.templates import ERRORS, FALSE_POSITIVES, metric, template

FULL = """\
apiVersion: dropout.dev/v1alpha1
kind: AnalysisTemplate
metadata: {namespace: payments, name: fraud-health}
spec:
  args:
    - {name: threshold, value: "0.02"}
    - name: outcome-name
  metrics:
    - name: errors
      interval: 10s
      count: 6
      initialDelay: 1m
      startingStep: 2
      successCondition: result.upper < double(args.threshold)
      failureCondition: result.lower > 0
      failureLimit: 1
      inconclusiveLimit: 3
      consecutiveErrorLimit: 2
      provider: {observed: {metric: error_rate, minRequests: 200, alpha: 0.01, window: 5m}}
    - name: slow
      dryRun: true
      failureCondition: result.canary.value > 2.0 * result.control.value
      provider: {observed: {metric: latency, quantile: 0.95}}
    - name: traffic
      successCondition: result.canary.requests > 50
      provider: {observed: {metric: requests, minRequests: 0}}
    - name: false-positives
      successCondition: result.canary.rate <= result.control.rate * 1.1
      provider: {feedback: {metric: false_positive_rate, minLabels: 100}}
    - name: revenue
      failureCondition: result.upper < 0 && args["outcome-name"] != ""
      provider: {feedback: {metric: mean, outcome: revenue}}
"""


def faults_of(*metrics: dict[str, Any], **changes: Any) -> list[tuple[str, str | None]]:
    """Code and field of every fault of a template with these metrics."""
    with pytest.raises(InvalidInput) as caught:
        parse_template(template(*metrics, **changes))
    return [(fault.code, fault.field) for fault in caught.value.faults]


def observed(**fields: Any) -> dict[str, Any]:
    return {"observed": {"metric": "error_rate", **fields}}


def feedback(**fields: Any) -> dict[str, Any]:
    return {"feedback": {"metric": "false_positive_rate", **fields}}


def test_everything_that_can_be_said_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(FULL)
    loaded = load_paths([tmp_path])
    assert loaded.faults == []
    read = loaded.documents[0].resource
    assert isinstance(read, AnalysisTemplate)
    assert read.key == "payments/fraud-health"
    assert [(arg.name, arg.value) for arg in read.spec.args] == [("threshold", "0.02"), ("outcome-name", None)]
    errors, slow, *_, revenue = read.spec.metrics
    assert (errors.interval, errors.count, errors.initial_delay, errors.starting_step) == (10.0, 6, 60.0, 2)
    assert (errors.failure_limit, errors.inconclusive_limit, errors.consecutive_error_limit) == (1, 3, 2)
    said = errors.provider.spec
    assert isinstance(said, ObservedSpec)
    assert (said.min_requests, said.alpha, said.window) == (200, 0.01, 300.0)
    assert slow.dry_run
    assert isinstance(slow.provider.spec, ObservedSpec)
    assert slow.provider.spec.quantile == 0.95
    assert isinstance(revenue.provider.spec, FeedbackSpec)
    assert revenue.provider.spec.outcome == "revenue"


def test_what_is_left_out_is_as_in_argo_rollouts() -> None:
    (plain,) = parse_template(template()).spec.metrics
    assert (plain.interval, plain.count, plain.initial_delay, plain.starting_step) == (None, None, None, 0)
    assert (plain.failure_limit, plain.inconclusive_limit, plain.consecutive_error_limit) == (0, 0, 4)
    assert (plain.timeout, plain.dry_run) == (30.0, False)
    assert isinstance(plain.provider.spec, ObservedSpec)
    assert (plain.provider.spec.min_requests, plain.provider.spec.alpha) == (100, 0.05)
    (labels,) = parse_template(template(FALSE_POSITIVES, args=[{"name": "most"}])).spec.metrics
    assert isinstance(labels.provider.spec, FeedbackSpec)
    assert (labels.provider.spec.min_labels, labels.provider.spec.alpha) == (50, 0.05)


# What, its metric, and the faults.
METRIC_FAULTS: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    ("no condition", metric(failureCondition=None), [("missing_field", "")]),
    ("an empty condition", metric(failureCondition=""), [("invalid_value", ".failureCondition")]),
    (
        "a condition of a thousand letters",
        metric(failureCondition=f"'{'a' * 1000}' == ''"),
        [("invalid_value", ".failureCondition")],
    ),
    ("a condition that is a number", metric(failureCondition=1), [("mistyped_value", ".failureCondition")]),
    ("no provider", metric(provider=None), [("missing_field", ".provider")]),
    ("an empty provider", metric(provider={}), [("missing_field", ".provider")]),
    ("two providers", metric(provider=observed() | feedback()), [("conflicting_fields", ".provider.feedback")]),
    (
        "a metric that does not exist",
        metric(provider=observed(metric="errors")),
        [("invalid_value", ".provider.observed.metric")],
    ),
    (
        "labels of requests",
        metric(provider=feedback(metric="error_rate")),
        [("invalid_value", ".provider.feedback.metric")],
    ),
    ("a name with capitals", metric(name="Errors"), [("invalid_value", ".name")]),
    ("an interval of nothing", metric(interval="0s"), [("invalid_value", ".interval")]),
    ("an interval without a unit", metric(interval=10), [("mistyped_value", ".interval")]),
    ("no measurement", metric(count=0), [("invalid_value", ".count")]),
    ("several measurements at once", metric(count=2), [("missing_field", ".interval")]),
    ("a limit above the count", metric(count=2, interval="1s", failureLimit=3), [("invalid_value", ".failureLimit")]),
    (
        "an inconclusive limit above the count",
        metric(count=1, inconclusiveLimit=2),
        [("invalid_value", ".inconclusiveLimit")],
    ),
    ("a limit below nothing", metric(failureLimit=-1), [("invalid_value", ".failureLimit")]),
    ("certainty", metric(provider=observed(alpha=0)), [("invalid_value", ".provider.observed.alpha")]),
    ("a coin toss", metric(provider=observed(alpha=0.6)), [("invalid_value", ".provider.observed.alpha")]),
    (
        "the largest latency",
        metric(failureCondition="result.ratio > 2.0", provider=observed(metric="latency", quantile=1)),
        [("invalid_value", ".provider.observed.quantile")],
    ),
    (
        "a quantile of errors",
        metric(provider=observed(quantile=0.5)),
        [("conflicting_fields", ".provider.observed.quantile")],
    ),
    (
        "bounds of a latency",
        metric(provider=observed(metric="latency", alpha=0.01)),
        [("conflicting_fields", ".provider.observed.alpha"), ("condition_invalid", ".failureCondition")],
    ),
    (
        "an outcome without a mean",
        metric(provider=feedback(outcome="x")),
        [("conflicting_fields", ".provider.feedback.outcome")],
    ),
    ("a mean of nothing", metric(provider=feedback(metric="mean")), [("missing_field", ".provider.feedback.outcome")]),
    ("dry for text", metric(dryRun="yes"), [("mistyped_value", ".dryRun")]),
    (
        "an argument that nobody declares",
        metric(failureCondition="args.x == ''"),
        [("condition_invalid", ".failureCondition")],
    ),
    (
        "a field that the result has not",
        metric(failureCondition="result.value > 1.0"),
        [("condition_invalid", ".failureCondition")],
    ),
    ("no CEL", metric(failureCondition="result.lower >"), [("condition_invalid", ".failureCondition")]),
    (
        "two conditions that are none",
        metric(failureCondition="1 +", successCondition="+ 1"),
        [("condition_invalid", ".successCondition"), ("condition_invalid", ".failureCondition")],
    ),
]


@pytest.mark.parametrize(("what", "wrong", "expected"), METRIC_FAULTS, ids=[fault[0] for fault in METRIC_FAULTS])
def test_a_faulty_metric_is_refused_with_code_and_field(
    what: str, wrong: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert sorted(faults_of(wrong)) == sorted((code, f"spec.metrics[0]{field}") for code, field in expected)


def test_names_are_there_once() -> None:
    assert faults_of(ERRORS, ERRORS) == [("duplicate_name", "spec.metrics[1].name")]
    assert faults_of(ERRORS, args=[{"name": "a"}, {"name": "a"}]) == [("duplicate_name", "spec.args[1].name")]


def test_a_template_measures_something() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_template({**template(), "spec": {"metrics": []}})
    assert [(fault.code, fault.field) for fault in caught.value.faults] == [("invalid_value", "spec.metrics")]


def test_every_fault_of_a_file_comes_in_one_go_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    wrong = FULL.replace("failureLimit", "failurLimit").replace("metric: mean", "metric: meen")
    file.write_text(wrong.replace("result.lower > 0", "result.lowr > 0") + "---\n" + yaml.safe_dump(document({})))
    assert [(fault.code, fault.line, fault.field, fault.message) for fault in load_paths([file]).faults][:3] == [
        (
            "condition_invalid",
            15,
            "spec.metrics[0].failureCondition",
            "'result.lowr' is unknown; did you mean 'result.lower'?",
        ),
        (
            "unknown_field",
            16,
            "spec.metrics[0].failurLimit",
            "unknown field 'failurLimit'; did you mean 'failureLimit'?",
        ),
        (
            "invalid_value",
            32,
            "spec.metrics[4].provider.feedback.metric",
            "must be 'false_positive_rate', 'false_negative_rate', 'precision', 'recall' or 'mean'; did you mean "
            "'mean'?",
        ),
    ]


def test_a_misspelt_condition_is_one_fault(tmp_path: Path) -> None:
    wrong = metric(failureCondition=None, failureConditions="result.lower > 0")
    assert faults_of(wrong) == [("unknown_field", "spec.metrics[0].failureConditions")]


def test_each_kind_is_read_as_itself() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rollout(template())
    assert str(caught.value) == "kind 'AnalysisTemplate' is not known here; Rollout is (unsupported_kind)"
    with pytest.raises(InvalidInput, match="kind 'Rollout' is not known here; AnalysisTemplate is"):
        parse_template(document(CANARY))


@pytest.mark.parametrize(
    ("provider", "name"),
    [("observed", name) for name in OBSERVED_PROVIDER.results]
    + [("feedback", name) for name in FEEDBACK_PROVIDER.results],
)
def test_every_metric_of_every_provider_can_be_asked_for(provider: str, name: str) -> None:
    fields = {"metric": name, **({"outcome": "revenue"} if name == "mean" else {})}
    parsed = parse_template(template(metric(provider={provider: fields}, failureCondition="result.ratio > 2.0")))
    chosen = parsed.spec.metrics[0].provider
    assert isinstance(chosen.spec, ObservedSpec | FeedbackSpec)
    assert (chosen.name, chosen.spec.metric) == (provider, name)
