"""Parts that are written as a mapping with exactly one field, whose name says which part it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from pydantic import Field, GetCoreSchemaHandler, create_model
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from extproc.resources.document import EXACTLY_ONE, Part
from extproc.resources.fields import invalid


def field_names(union: Any) -> tuple[str, ...]:
    """The names that tell the parts of ``union`` apart, as documents write them."""
    return tuple(field.alias or name for part in get_args(union) for name, field in part.model_fields.items())


@dataclass(frozen=True, slots=True)
class OneField:
    """Annotates a union of parts that have one field each, no two the same.

    They are read through a part with all of their fields, ``name`` and ``description`` in the schema: so a field that
    is unknown is told beside all that are known, and what is wrong in one that was written. That no two are written is
    for the document's rules.
    """

    name: str
    description: str

    def __get_pydantic_core_schema__(self, union: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        parts: dict[str, tuple[type[Part], FieldInfo]] = {
            name: (part, field) for part in get_args(union) for name, field in part.model_fields.items()
        }
        fields: dict[str, Any] = {
            name: (field.rebuild_annotation() | None, Field(None, description=field.description))
            for name, (_, field) in parts.items()
        }
        read = create_model(
            self.name,
            __base__=Part,
            __doc__=self.description,
            __cls_kwargs__={"json_schema_extra": EXACTLY_ONE},
            **fields,
        )

        def part_of(found: Part) -> Part:
            for name, (part, _) in parts.items():
                if (value := getattr(found, name)) is not None:
                    return part.model_construct({name}, **{name: value})
            raise invalid(f"needs {' or '.join(field_names(union))}", "missing_field")

        as_it_is = core_schema.wrap_serializer_function_ser_schema(lambda part, dump: dump(part), schema=handler(union))
        return core_schema.no_info_after_validator_function(
            part_of, handler.generate_schema(read), serialization=as_it_is
        )
