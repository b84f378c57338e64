"""The kinds of document that there are: for each its model, and the rules that a model alone cannot say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from extproc.resources import analysis_template, rollout, rules, template_rules
from extproc.resources.document import Resource
from extproc.resources.faults import Problem

AnyResource = rollout.Rollout | analysis_template.AnalysisTemplate
"""A document of any kind."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of document.

    ``between`` gives what fields break together, from the document as written; ``beyond``, from the model, what can
    be said only when all else is right.
    """

    name: str
    model: type[Resource]
    between: Callable[[Mapping[str, Any]], Iterable[Problem]]
    beyond: Callable[[Any], Iterable[Problem]]


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(rollout.KIND, rollout.Rollout, rules.problems_between, rules.problems_beyond),
        Kind(
            analysis_template.KIND,
            analysis_template.AnalysisTemplate,
            template_rules.problems_between,
            lambda template: (),
        ),
    )
}
"""By name, as ``kind`` says it."""
