"""Why rules have the values that they have, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from extproc.adapters.regorus.why import ExplainedDefinition, ExplainedRule, FailedCondition
from extproc.cli.output import printable, to_json

_MAX_VALUE: Final = 200


def why_lines(rules: Iterable[ExplainedRule]) -> Iterator[str]:
    """Each rule with its value, and how each of its definitions went."""
    for rule in rules:
        given = "" if rule.arguments is None else f"({', '.join(map(_short, rule.arguments))})"
        value = _short(rule.value) if rule.defined else "undefined"
        yield f"{rule.rule}{given} {f'threw: {printable(rule.error)}' if rule.error is not None else f'is {value}'}"
        for definition in rule.definitions:
            yield from (f"  {line}" for line in _definition(definition))


def failed_lines(failed: FailedCondition) -> Iterator[str]:
    """The condition that failed, and the values of its parts."""
    what = "has no value: " if failed.is_value else ""
    why = f", which threw: {printable(failed.error)}" if failed.error is not None else ""
    yield f"line {failed.line}: {what}{_on_one_line(failed.condition)}{why}"
    for text, value in failed.values.items():
        yield f"  {_on_one_line(text)} is {_short(value)}"
    for text in failed.undefined:
        yield f"  {_on_one_line(text)} is undefined"


def _definition(definition: ExplainedDefinition) -> Iterator[str]:
    place = f"{printable(definition.file)}:{definition.line}"
    if definition.kind == "default":
        yield f"{place}: the default{'' if definition.holds else ', which is not needed'}"
    elif definition.failed is None:
        yield f"{place}: holds"
    else:
        first, *more = failed_lines(definition.failed)
        yield f"{place}: does not hold, {first}"
        yield from (f"  {line}" for line in more)


def _short(value: Any) -> str:
    text = to_json(value).decode()
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}..."


def _on_one_line(text: str) -> str:
    found = " ".join(text.split())
    return printable(found if len(found) <= _MAX_VALUE else f"{found[:_MAX_VALUE]}...")
