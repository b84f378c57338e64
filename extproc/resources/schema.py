"""The JSON Schema of the Rollout document, for editors and for checks outside of Dropout."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from extproc.resources.marked_yaml import Path
from extproc.resources.rollout import API_VERSION, Rollout


class _EditorSchema(GenerateJsonSchema):
    """What an editor should offer: optional fields left out rather than null, no titles that repeat the names."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        if not described.get("default"):
            described.pop("default", None)
        return described

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@cache
def rollout_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a Rollout document; shared, so not to be changed."""
    generated = Rollout.model_json_schema(schema_generator=_EditorSchema)
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"https://{API_VERSION}/rollout.schema.json",
        **generated,
    }


def known_fields(path: Path) -> list[str]:
    """The names that a mapping at ``path`` of a Rollout may have; none where any name goes."""
    definitions = rollout_schema()["$defs"]
    schema: dict[str, Any] = rollout_schema()
    for step in path:
        schema = schema.get("items", {}) if isinstance(step, int) else schema.get("properties", {}).get(step, {})
        if "$ref" in schema:
            schema = definitions[schema["$ref"].rsplit("/", 1)[-1]]
    return list(schema.get("properties", {}))
