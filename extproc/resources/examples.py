"""How a field is written, as its schema has it: for whoever wrote something else there."""

from __future__ import annotations

from typing import Any

import yaml

from extproc.resources.document import Part
from extproc.resources.marked_yaml import FieldPath
from extproc.resources.schema import resolved, schema_at


def example_at(model: type[Part], path: FieldPath) -> str | None:
    """A value for ``path`` of a document, in YAML on one line; None where the schema does not tell one.

    A mapping has what it needs; of what is to be chosen, the first. Plug-ins may say nothing of their fields.
    """
    value = example_of(model, path)
    return None if value is None else _in_a_line(value)


def example_of(model: type[Part], path: FieldPath) -> Any:
    """The value that ``example_at`` writes; None where the schema does not tell one."""
    try:
        return _example(model, schema_at(model, path))
    except _UntoldError:
        return None


def may_be_empty(model: type[Part], path: FieldPath) -> bool:
    """Whether {} is a value for ``path``."""
    schema = schema_at(model, path)
    return "properties" in schema and not schema.keys() & {"required", "oneOf", "anyOf", "minProperties"}


def one_of_fields(model: type[Part], path: FieldPath) -> list[str]:
    """The fields of which a mapping at ``path`` has exactly one; none where it may have several."""
    schema = schema_at(model, path)
    return list(schema.get("properties", {})) if schema.get("maxProperties") == 1 else []


class _UntoldError(Exception):
    """The schema does not tell what a value looks like."""


def _example(model: type[Part], schema: dict[str, Any]) -> Any:
    schema = resolved(model, schema)
    if "properties" in schema:
        return {name: _example(model, schema["properties"][name]) for name in _enough(schema)}
    for said in ("default", "const"):
        if said in schema:
            return schema[said]
    for said in ("examples", "enum"):
        if said in schema:
            return schema[said][0]
    if "items" in schema:
        return [_example(model, schema["items"])]
    raise _UntoldError


def _enough(schema: dict[str, Any]) -> list[str]:
    """The fields of a mapping without which it would be refused, or the first where it may be empty."""
    alternatives = schema.get("oneOf") or schema.get("anyOf") or [{}]
    enough = [*schema.get("required", ()), *alternatives[0].get("required", ())]
    return enough or list(schema["properties"])[:1]


def _in_a_line(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()
