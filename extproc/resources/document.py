"""What every kind of document is made of: camelCase parts, nothing coerced, a name, a place in a namespace."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from extproc.resources.fields import Name

API_VERSION: Final = "dropout.dev/v1alpha1"

EXACTLY_ONE: Final[dict[str, Any]] = {"minProperties": 1, "maxProperties": 1}
"""For the schema of a part that has exactly one of its fields."""


def one_of(*names: str) -> dict[str, Any]:
    """For the schema of a part that has exactly one of these among its fields."""
    return {"oneOf": [{"required": [name]} for name in names]}


def written(default: str | int) -> Any:
    """The default as a document would write it, for the schema."""
    return Field(json_schema_extra={"default": default})


def such_as(*examples: Any) -> Any:
    """How a document may write the field, for the schema and for whoever wrote something else there."""
    return Field(examples=list(examples))


class Part(BaseModel):
    """A piece of a document: camelCase, nothing unknown, nothing coerced, never changed."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )


class Metadata(Part):
    """What the document is called."""

    namespace: Name = "default"
    """The tenant."""
    name: Name
    """The name, unique in its namespace among documents of its kind."""


class Resource(Part):
    """A document of any kind. Each kind adds ``kind`` and ``spec``."""

    api_version: Literal["dropout.dev/v1alpha1"]
    """The version of this format."""
    kind: str
    """What the document is."""
    metadata: Metadata
    """What it is called."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.metadata.namespace}/{self.metadata.name}"
