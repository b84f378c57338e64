"""What is right in documents and easily overlooked: notes, which are told and refuse nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from extproc.errors import Fault
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.document import Resource
from extproc.resources.examples import may_be_empty
from extproc.resources.faults import Problem
from extproc.resources.fields import format_percent
from extproc.resources.loaded import LoadedDocument
from extproc.resources.marked_yaml import FieldPath, dotted
from extproc.resources.rollout import Rollout
from extproc.resources.steps import SetWeightStep, ShadowStep
from extproc.resources.uses import uses
from extproc.suggestions import did_you_mean


def notes(
    documents: Sequence[LoadedDocument[Any]], *, outcome_limit: float, stored: Collection[str] | None
) -> Iterator[Fault]:
    """What to tell of valid ``documents``, in the order of their lines: each as a fault that is none.

    ``outcome_limit``: the seconds after which an observer takes an answer that has not begun for a failure.
    ``stored``: the analysis templates that the store has (``namespace/name``), None where no store is asked.
    Codes: ``no_value``, ``canary_is_stable``, ``shadow_is_stable``, ``weight_falls``, ``step_without_effect``,
    ``step_without_time``, ``on_error_unwritten``, ``timeout_beyond_outcome``, ``template_absent``, ``view_unused``.
    """
    there = {each.resource.key for each in documents if isinstance(each.resource, AnalysisTemplate)}
    for document in documents:
        resource = document.resource
        found = list(_without_value(type(resource), document.body))
        if isinstance(resource, Rollout):
            found += [*_versions(resource), *_steps(resource), *_defaults(resource, outcome_limit), *_views(resource)]
            found += _absent_templates(resource, there, stored)
        for problem in sorted(found, key=lambda problem: document.line_at(problem.path)):
            line, field = document.line_at(problem.path), dotted(problem.path)
            yield Fault(problem.code, problem.message, document.file, line, field)


def _without_value(model: type[Resource], value: Any, path: FieldPath = ()) -> Iterator[Problem]:
    """Fields that are written without a value, as ``breaker:`` at the end of a line is."""
    match value:
        case None:
            field = path[-1]
            instead = f"; {field}: {{}} takes its defaults" if may_be_empty(model, path) else ""
            yield Problem("no_value", f"{field} has no value, which is as if it were left out{instead}", path)
        case dict():
            for name, part in value.items():
                yield from _without_value(model, part, (*path, name))
        case list():
            for index, part in enumerate(value):
                yield from _without_value(model, part, (*path, index))


def _versions(rollout: Rollout) -> Iterator[Problem]:
    """A canary or a shadow of what is stable."""
    spec = rollout.spec
    if spec.stable is None:
        return
    stable = spec.resolve(spec.stable)
    if spec.canary is not None and spec.resolve(spec.canary) == stable:
        message = f"version {stable} is stable and canary at once, so there is nothing to roll out"
        yield Problem("canary_is_stable", message, ("spec", "canary"))
    if spec.shadow is not None and spec.resolve(spec.shadow) == stable:
        message = f"version {stable} is stable and shadow at once, and what serves a request gets no copy of it"
        yield Problem("shadow_is_stable", message, ("spec", "shadow"))


def _steps(rollout: Rollout) -> Iterator[Problem]:
    """Steps that take back what one before gave, that change nothing, or that the next one ends at once."""
    weight = shadow = 0
    steps = rollout.spec.steps
    for index, (step, after) in enumerate(zip(steps, [*steps[1:], None], strict=False)):
        path: FieldPath = ("spec", "steps", index, "shadow" if isinstance(step, ShadowStep) else "setWeight")
        match step:
            case SetWeightStep(set_weight=percent):
                before = weight, shadow
                weight, shadow = percent, 0
                if weight < before[0]:
                    units = f"the weight falls from {format_percent(before[0])} to {format_percent(weight)}"
                    yield Problem("weight_falls", f"{units}: units that had the canary get stable again", path)
            case ShadowStep():
                before = weight, shadow
                shadow = step.shadow.percent
            case _:
                continue
        if (weight, shadow) == before:
            yield Problem("step_without_effect", "the step changes nothing: this is in force already", path)
        elif isinstance(after, SetWeightStep):
            message = "the next setWeight follows at once; put a pause or an analysis between them"
            yield Problem("step_without_time", message, path)


def _defaults(rollout: Rollout, limit: float) -> Iterator[Problem]:
    """A default that denies, and what asks something of settings."""
    policy, timeout = rollout.spec.policy, rollout.spec.timeout
    if policy is not None and policy.on_error is None:
        message = (
            f"onError is not written: if {policy.path} can deny, a request that it fails on is denied; "
            "onError: stable serves stable"
        )
        yield Problem("on_error_unwritten", message, ("spec", "policy"))
    if timeout is not None and not 0 < timeout <= limit:
        message = (
            f"an answer may begin after more than {limit:g} s, and a version whose answer has not begun "
            f"by then has failed to the observer: raise DROPOUT_OUTCOME_LIMIT"
        )
        yield Problem("timeout_beyond_outcome", message, ("spec", "timeout"))


def _views(rollout: Rollout) -> Iterator[Problem]:
    """Views of versions that are not here; one of them may be stable by now, which the status knows alone."""
    spec = rollout.spec
    versions = spec.versions()
    for version in spec.features.views if spec.features is not None else ():
        if version not in versions:
            message = (
                f"the document names no version {version}, so that its view is read only if that is stable by "
                f"now{did_you_mean(version, versions)}"
            )
            yield Problem("view_unused", message, ("spec", "features", "views", version))


def _absent_templates(rollout: Rollout, there: set[str], stored: Collection[str] | None) -> Iterator[Problem]:
    """The templates that ``rollout`` names and that are neither ``there`` nor ``stored``."""
    known = there.union(stored or ())
    where = "is not among these documents" if stored is None else "is neither among these documents nor in the store"
    for use in uses(rollout):
        for index, named in enumerate(use.analysis.templates):
            key = f"{rollout.metadata.namespace}/{named.template_name}"
            if key not in known:
                waits = "analysis_error" if use.in_step else "background_error"
                message = (
                    f"the analysis template {key} {where}; without it nothing is measured, "
                    f"and a canary waits as {waits}{did_you_mean(key, known)}"
                )
                yield Problem("template_absent", message, (*use.path, "templates", index))
