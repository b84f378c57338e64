"""What the fields of one AnalysisTemplate must say together, and whether its conditions can be evaluated.

Like ``rules``, they read the document as written, so that a fault in one field hides no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from extproc.resources.analysis_template import CONDITION_FIELDS, EXAMPLE_RESULTS, MetricSpec
from extproc.resources.as_written import duplicates, exactly_one, given, items, mapping
from extproc.resources.conditions import INVALID_CODE, faults_in
from extproc.resources.faults import Problem
from extproc.resources.marked_yaml import Path

_PROVIDERS = tuple(EXAMPLE_RESULTS)
_METRIC_FIELDS = frozenset(field.alias for field in MetricSpec.model_fields.values())
_METRICS: Path = ("spec", "metrics")


def problems_between(body: Mapping[str, Any]) -> Iterator[Problem]:
    """Every rule that the document ``body`` breaks; values of the wrong type are left to the models."""
    spec = mapping(body.get("spec"))
    args, metrics = items(spec.get("args")), items(spec.get("metrics"))
    yield from duplicates("argument", [mapping(arg).get("name") for arg in args], ("spec", "args"), "name")
    yield from duplicates("metric", [mapping(metric).get("name") for metric in metrics], _METRICS, "name")
    for index, metric in enumerate(metrics):
        if isinstance(metric, dict):
            path = (*_METRICS, index)
            yield from _counts(metric, path)
            yield from _provider(metric.get("provider"), (*path, "provider"))
            yield from _conditions(metric, {arg["name"]: arg.get("value") for arg in args if _named(arg)}, path)


def _named(arg: Any) -> bool:
    return isinstance(arg, dict) and isinstance(arg.get("name"), str) and isinstance(arg.get("value"), str | None)


def _counts(metric: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    """Several measurements are some time apart, and a limit that they cannot exceed is a mistake."""
    count = metric.get("count")
    if not isinstance(count, int):
        return
    if count > 1 and not given(metric, "interval"):
        yield Problem("missing_field", "more than one measurement needs an interval", (*path, "interval"))
    for name in ("failureLimit", "inconclusiveLimit"):
        limit = metric.get(name)
        if isinstance(limit, int) and limit > count:
            message = f"of {count} measurements no more than {limit} can be; the limit would never be exceeded"
            yield Problem("invalid_value", message, (*path, name))


def _provider(provider: Any, path: Path) -> Iterator[Problem]:
    """One provider, and only what its metric takes."""
    yield from exactly_one(provider, _PROVIDERS, path)
    observed = mapping(mapping(provider).get("observed"))
    yield from _only_for(observed, "quantile", ("latency",), (*path, "observed"))
    yield from _only_for(observed, "alpha", ("error_rate", "abandoned"), (*path, "observed"))
    feedback = mapping(mapping(provider).get("feedback"))
    yield from _only_for(feedback, "outcome", ("mean",), (*path, "feedback"))
    if feedback.get("metric") == "mean" and not given(feedback, "outcome"):
        yield Problem("missing_field", "mean needs the name of an outcome", (*path, "feedback", "outcome"))


def _only_for(provider: Mapping[str, Any], name: str, metrics: tuple[str, ...], path: Path) -> Iterator[Problem]:
    metric = provider.get("metric")
    if given(provider, name) and isinstance(metric, str) and metric not in metrics:
        yield Problem("conflicting_fields", f"{name} is for {' and '.join(metrics)}", (*path, name))


def _conditions(metric: Mapping[str, Any], args: Mapping[str, str | None], path: Path) -> Iterator[Problem]:
    """There is a condition, or a field that may be one misspelt, and what it names exists."""
    if not any(given(metric, name) for name in CONDITION_FIELDS) and metric.keys() <= _METRIC_FIELDS:
        yield Problem("missing_field", f"needs {' or '.join(CONDITION_FIELDS)}, or both", path)
    result = _example_result(metric.get("provider"))
    if result is None:
        return
    for name in CONDITION_FIELDS:
        condition = metric.get(name)
        if isinstance(condition, str) and condition:
            for fault in faults_in(condition, result, args):
                yield Problem(INVALID_CODE, fault, (*path, name))


def _example_result(provider: Any) -> Mapping[str, Any] | None:
    """What results of the metric look like; None if it is not clear which one is meant."""
    for name, by_metric in EXAMPLE_RESULTS.items():
        metric = mapping(mapping(provider).get(name)).get("metric")
        if isinstance(metric, str) and metric in by_metric:
            return by_metric[metric]
    return None
