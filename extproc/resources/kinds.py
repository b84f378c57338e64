"""The kinds of document that there are: for each its model, and the rules that a model alone cannot say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from extproc.resources import analysis_template, rollout, rules, template_rules
from extproc.resources.document import Resource
from extproc.resources.enrolment import without_units
from extproc.resources.faults import Problem
from extproc.resources.match_paths import never_matched
from extproc.resources.shadow_only import analysis_in_vain

AnyResource = rollout.Rollout | analysis_template.AnalysisTemplate
"""A document of any kind."""


@dataclass(frozen=True, slots=True)
class DocumentKind:
    """A kind of document.

    ``between`` gives what fields break together, from the document as written; ``beyond``, from the model, what can
    be said only when all else is right. ``in_vain``, from the model, is refused where it is written, and served on
    where a store has it: it does no harm, and nothing of what its author wants.
    """

    name: str
    model: type[Resource]
    between: Callable[[Mapping[str, Any]], Iterable[Problem]]
    beyond: Callable[[Any], Iterable[Problem]]
    in_vain: Callable[[Any], Iterable[Problem]]


KINDS: Final[Mapping[str, DocumentKind]] = {
    kind.name: kind
    for kind in (
        DocumentKind(
            rollout.KIND,
            rollout.Rollout,
            rules.problems_between,
            rules.problems_beyond,
            lambda found: [*never_matched(found), *without_units(found), *analysis_in_vain(found)],
        ),
        DocumentKind(
            analysis_template.KIND,
            analysis_template.AnalysisTemplate,
            template_rules.problems_between,
            lambda template: (),
            template_rules.ill_typed,
        ),
    )
}
"""By name, as ``kind`` says it."""
