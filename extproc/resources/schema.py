"""The JSON Schemas of documents, for editors and for checks outside of Dropout."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from extproc.resources.document import API_VERSION, Part
from extproc.resources.marked_yaml import FieldPath


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
def schema_of(model: type[Part]) -> dict[str, Any]:
    """The schema (draft 2020-12) of a kind of document; shared, so not to be changed."""
    generated = model.model_json_schema(schema_generator=_EditorSchema)
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"https://{API_VERSION}/{model.__name__.lower()}.schema.json",
        **generated,
    }


def schema_at(model: type[Part], path: FieldPath) -> dict[str, Any]:
    """The schema of what stands at ``path`` of a document; empty where anything goes."""
    schema: dict[str, Any] = schema_of(model)
    for step in path:
        schema = schema.get("items", {}) if isinstance(step, int) else schema.get("properties", {}).get(step, {})
        schema = resolved(model, schema)
    return schema


def resolved(model: type[Part], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema that a reference in the schema of ``model`` refers to, with what stands beside the reference."""
    if "$ref" not in schema:
        return schema
    definition = schema_of(model)["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    return {**definition, **{key: value for key, value in schema.items() if key != "$ref"}}


def known_fields(model: type[Part], path: FieldPath) -> list[str]:
    """The names that a mapping at ``path`` of a document may have; none where any name goes."""
    return list(schema_at(model, path).get("properties", {}))
