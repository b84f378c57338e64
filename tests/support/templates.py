"""AnalysisTemplates for tests: metrics in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extproc.control.analysis.runs import Metric, run_plan
from extproc.resources.analysis_spec import AnalysisSpec
from extproc.resources.loading import parse_template

ERRORS: dict[str, Any] = {
    "name": "errors",
    "provider": {"observed": {"metric": "error_rate"}},
    "failureCondition": "result.lower > 0",
}
FALSE_POSITIVES: dict[str, Any] = {
    "name": "false-positives",
    "provider": {"feedback": {"metric": "false_positive_rate"}},
    "successCondition": "result.canary.rate < double(args.most)",
    "interval": "30s",
    "count": 5,
}


def metric(base: dict[str, Any] = ERRORS, **changes: Any) -> dict[str, Any]:
    """A metric with fields changed; one that is None is left out."""
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def template(
    *metrics: dict[str, Any], name: str = "health", args: list[Any] | None = None, **spec: Any
) -> dict[str, Any]:
    """A whole AnalysisTemplate document in the namespace ``payments``, by default of the metric ``ERRORS``."""
    return {
        "apiVersion": "dropout.dev/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": {"namespace": "payments", "name": name},
        "spec": {**({} if args is None else {"args": args}), "metrics": list(metrics or [ERRORS]), **spec},
    }


def metric_of(body: Mapping[str, Any], **args: str) -> Metric:
    """The one metric of a template, as an analysis in the background measures it."""
    given = [{"name": name, "value": value} for name, value in args.items()]
    spec = AnalysisSpec.model_validate({"templates": [{"templateName": "health"}], "args": given})
    planned = run_plan(spec, lambda _name: parse_template(body), background=True)
    assert planned.error == ""
    (found,) = planned.metrics
    return found
