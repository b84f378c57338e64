"""What a rollout's analysis and its templates must agree on: arguments, names of metrics, an end.

The same is asked when documents are applied and when a run begins; a template may have changed in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from extproc.resources.analysis_spec import AnalysisSpec
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.marked_yaml import FieldPath, shown
from extproc.resources.rollout import Rollout
from extproc.resources.steps import analysis_of
from extproc.suggestions import did_you_mean

UNKNOWN_ARGUMENT: Final = "argument_unknown"


class Use(NamedTuple):
    """An analysis of a rollout, where it stands, and whether a step waits for it."""

    analysis: AnalysisSpec
    path: FieldPath
    in_step: bool


class Misuse(NamedTuple):
    """A disagreement: where it shows in the analysis, and in the template with the index ``template``."""

    code: str
    message: str
    path: FieldPath
    template: int
    template_path: FieldPath


def uses(rollout: Rollout) -> Iterator[Use]:
    """Every analysis of ``rollout``."""
    for index, step in enumerate(rollout.spec.steps):
        if (analysis := analysis_of(step)) is not None:
            yield Use(analysis, ("spec", "steps", index, "analysis"), in_step=True)
    if rollout.spec.analysis is not None:
        yield Use(rollout.spec.analysis, ("spec", "analysis"), in_step=False)


def given_args(analysis: AnalysisSpec, template: AnalysisTemplate) -> dict[str, str | None]:
    """The template's arguments with the values that they have in ``analysis``; None where there is none."""
    values = {arg.name: arg.value for arg in analysis.args}
    return {arg.name: values.get(arg.name, arg.value) for arg in template.spec.args}


def misuses(analysis: AnalysisSpec, templates: Sequence[AnalysisTemplate | None], in_step: bool) -> Iterator[Misuse]:
    """What is wrong between ``analysis`` and its ``templates``, in their order; of one that is None nothing is known.

    Codes: ``argument_missing``, ``argument_unknown``, ``duplicate_name``, ``metric_endless``.
    """
    metrics: dict[str, AnalysisTemplate] = {}
    for index, template in enumerate(templates):
        if template is not None:
            yield from _missing_args(analysis, template, index)
            yield from _repeated_metrics(metrics, template, index)
            if in_step:
                yield from _endless_metrics(template, index)
    yield from _unknown_args(analysis, templates)


def _missing_args(analysis: AnalysisSpec, template: AnalysisTemplate, index: int) -> Iterator[Misuse]:
    for number, (name, value) in enumerate(given_args(analysis, template).items()):
        if value is None:
            message = f"the argument {shown(name)} of the template {template.key} needs a value"
            yield Misuse("argument_missing", message, (), index, ("spec", "args", number))


def _repeated_metrics(metrics: dict[str, AnalysisTemplate], template: AnalysisTemplate, index: int) -> Iterator[Misuse]:
    for number, metric in enumerate(template.spec.metrics):
        other = metrics.setdefault(metric.name, template)
        if other is not template:
            message = (
                f"the templates {other.key} and {template.key} run together, and both have a metric {metric.name!r}"
            )
            yield Misuse("duplicate_name", message, ("templates", index), index, ("spec", "metrics", number))


def _endless_metrics(template: AnalysisTemplate, index: int) -> Iterator[Misuse]:
    for number, metric in enumerate(template.spec.metrics):
        if metric.interval is not None and metric.count is None:
            message = (
                f"the metric {metric.name!r} of the template {template.key} has an interval and no count: "
                "in a step it would never end"
            )
            yield Misuse("metric_endless", message, ("templates", index), index, ("spec", "metrics", number))


def _unknown_args(analysis: AnalysisSpec, templates: Sequence[AnalysisTemplate | None]) -> Iterator[Misuse]:
    known: Mapping[str, None] = {arg.name: None for template in templates if template for arg in template.spec.args}
    if any(template is None for template in templates):
        return
    for index, arg in enumerate(analysis.args):
        if arg.name not in known:
            meant = did_you_mean(arg.name, known)
            message = f"no template of this analysis has an argument {shown(arg.name)}{meant}"
            last = len(templates) - 1
            yield Misuse(UNKNOWN_ARGUMENT, message, ("args", index, "name"), last, ("spec", "args"))
