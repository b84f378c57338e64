"""What the fields of one AnalysisTemplate must say together, and whether its conditions can be evaluated.

Like ``rules``, they read the document as written, so that a fault in one field hides no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from extproc.resources.analysis_template import CONDITION_FIELDS, AnalysisTemplate, MetricSpec
from extproc.resources.as_written import duplicates, given, items, mapping
from extproc.resources.condition_types import type_faults
from extproc.resources.conditions import INVALID_CODE, faults_in
from extproc.resources.faults import Problem
from extproc.resources.marked_yaml import FieldPath
from extproc.resources.providers.chosen import example_results, problems_of_provider
from extproc.resources.providers.kind import Arguments

_METRIC_FIELDS = frozenset(field.alias for field in MetricSpec.model_fields.values())
_METRICS: FieldPath = ("spec", "metrics")
_Check = Callable[[str, Any, Arguments], list[str]]


def problems_between(body: Mapping[str, Any]) -> Iterator[Problem]:
    """Every rule that the document ``body`` breaks; values of the wrong type are left to the models."""
    spec = mapping(body.get("spec"))
    args, metrics = items(spec.get("args")), items(spec.get("metrics"))
    yield from duplicates("argument", [mapping(arg).get("name") for arg in args], ("spec", "args"), "name")
    yield from duplicates("metric", [mapping(metric).get("name") for metric in metrics], _METRICS, "name")
    arguments = {arg["name"]: arg.get("value") for arg in args if _named(arg)}
    for index, metric in enumerate(metrics):
        if isinstance(metric, dict):
            path = (*_METRICS, index)
            yield from _counts(metric, path)
            yield from problems_of_provider(metric.get("provider"), arguments, (*path, "provider"))
            yield from _conditions(metric, arguments, path)


def _named(arg: Any) -> bool:
    return isinstance(arg, dict) and isinstance(arg.get("name"), str) and isinstance(arg.get("value"), str | None)


def _counts(metric: Mapping[str, Any], path: FieldPath) -> Iterator[Problem]:
    """Several measurements are some time apart, and a limit that they cannot exceed is a mistake."""
    count = metric.get("count")
    if not isinstance(count, int):
        return
    if count > 1 and not given(metric, "interval"):
        yield Problem("missing_field", "more than one measurement needs an interval", (*path, "interval"))
    for name in ("failureLimit", "inconclusiveLimit"):
        limit = metric.get(name)
        if isinstance(limit, int) and limit > count:
            message = f"of {count} measurements no more than {limit} can be; raise count, or write {count} at most"
            yield Problem("invalid_value", message, (*path, name))


def _conditions(metric: Mapping[str, Any], args: Arguments, path: FieldPath) -> Iterator[Problem]:
    """There is a condition, or a field that may be one misspelt, and what it names exists."""
    if not any(given(metric, name) for name in CONDITION_FIELDS) and metric.keys() <= _METRIC_FIELDS:
        yield Problem("missing_field", f"needs {' or '.join(CONDITION_FIELDS)}, or both", path)
    results = example_results(metric.get("provider"))
    for name in CONDITION_FIELDS:
        condition = metric.get(name)
        if isinstance(condition, str) and condition:
            for fault in _faults(faults_in, condition, results, args):
                yield Problem(INVALID_CODE, fault, (*path, name))


def ill_typed(template: AnalysisTemplate) -> Iterator[Problem]:
    """Conditions that can only be errors, or are true of the worst canary: what their types make of them."""
    args = {arg.name: arg.value for arg in template.spec.args}
    for index, metric in enumerate(template.spec.metrics):
        results = example_results({metric.provider.name: metric.provider.spec.model_dump(by_alias=True)})
        conditions = (metric.success_condition, metric.failure_condition)
        for name, condition in zip(CONDITION_FIELDS, conditions, strict=True):
            if condition is not None:
                for fault in _faults(type_faults, condition, results, args):
                    yield Problem(INVALID_CODE, fault, (*_METRICS, index, name))


def _faults(check: _Check, condition: str, results: Iterable[Any], args: Arguments) -> list[str]:
    """What is wrong with a condition on the first of ``results``; nothing where there is one that it fits, or none."""
    found = [check(condition, result, args) for result in results]
    return found[0] if found and all(found) else []
