"""The template of a REST feature store: how it is asked, and where in its answer what stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field
from pydantic.functional_validators import AfterValidator

from extproc.adapters.access import PARAMETERS
from extproc.resources.document import Part, such_as
from extproc.resources.fields import invalid
from extproc.resources.marked_yaml import shown

MAX_BATCH: Final = 64
TEMPLATE: Final = "template"
"""The URL's parameter that names the template."""

_PARAMETER: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")

FeatureType = Literal["any", "string", "integer", "number", "boolean", "strings", "integers", "numbers", "booleans"]
"""What a feature is; the plural is a list of such."""


def _parameter(name: str) -> str:
    if name in (TEMPLATE, *PARAMETERS):
        raise invalid(f"every URL has a parameter {shown(name)}")
    if not _PARAMETER.fullmatch(name):
        raise invalid(f"{shown(name)} is no name of a parameter: lower-case letters, digits and '-'")
    return name


class RequestSpec(Part):
    """How the store is asked."""

    method: Literal["GET", "POST"] = "POST"
    """The method of the request."""
    path: Annotated[str, such_as("/get-online-features")]
    """The path below that of the URL, in which placeholders are percent-encoded."""
    query: Mapping[str, str | list[str]] = {}
    """Parameters behind the path; of a list, each element is one."""
    headers: Mapping[str, str] = {}
    """Headers beside those of HTTP; {{token}} is what token-file holds."""
    body: Any = None
    """The body of a POST, as JSON."""
    integers: Literal["number", "string"] = "number"
    """What a join key that is a whole number is in the body."""
    batch: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 1
    """Entities of a view that one request may ask about."""


class StatusSpec(Part):
    """Where the answer says whether there is a value."""

    at: Annotated[str, such_as("/results/{{column}}/statuses/{{row}}")]
    """Where a feature's status is."""
    present: Annotated[list[str], Field(min_length=1, examples=[["PRESENT"]])]
    """The statuses of features that have a value."""


class TimeSpec(Part):
    """Where the answer says how old a value is."""

    at: Annotated[str, such_as("/results/{{column}}/event_timestamps/{{row}}")]
    """Where the event time is: of each feature, or of all of an entity."""
    format: Literal["rfc3339", "unix_seconds", "unix_milliseconds"] = "rfc3339"
    """How the time is written."""


class TypeSpec(Part):
    """Where the answer says what a feature is."""

    at: Annotated[str, such_as("/metadata/features/{{column}}/dataType/type")]
    """Where a feature's type is."""
    names: Mapping[str, FeatureType]
    """What the store's names of types mean; of another, a value stays as it came."""


class ResponseSpec(Part):
    """Where in the answer, which is JSON, what stands: JSON pointers with placeholders for steps."""

    name: Annotated[str | None, such_as("/metadata/feature_names/{{column}}")] = None
    """Where the name of a column is, in an answer that tells values by their place."""
    feature: Annotated[str, such_as("{{view}}__{{feature}}")] = "{{feature}}"
    """What the answer calls a feature."""
    value: Annotated[str, such_as("/outputs/{{row}}/{{feature}}")]
    """Where a value is."""
    nulls: Literal["missing", "value"] = "missing"
    """What null is, and NaN: no value, or one."""
    status: StatusSpec | None = None
    """Where the answer says whether there is a value."""
    time: TimeSpec | None = None
    """Where the answer says how old a value is; left out, no age is known."""
    type: TypeSpec | None = None
    """Where the answer says what a feature is."""
    join_key: Annotated[str | None, such_as("/results/{{column}}/values/{{row}}")] = None
    """Where the answer repeats a join key: an answer about another entity is refused."""
    absent: list[Annotated[int, Field(ge=400, le=499)]] = []
    """Status codes that say that there is no such entity, such as 404."""


class ViewSpec(Part):
    """A view that the store has."""

    join_keys: Annotated[Mapping[str, Literal["string", "integer"]], Field(min_length=1)]
    """Its join keys, and what they are."""
    features: Annotated[Mapping[str, FeatureType], Field(min_length=1)]
    """Its features, and what they are; a value of another type is refused."""


class Template(Part):
    """How a feature store is asked over HTTP."""

    parameters: list[Annotated[str, AfterValidator(_parameter)]] = []
    """Names that the URL has to give a value, for {{parameters.NAME}}."""
    request: RequestSpec
    """How the store is asked."""
    response: ResponseSpec
    """Where in its answer what stands."""
    views: Mapping[str, ViewSpec] | None = None
    """The views that the store has; left out, nothing is known of them."""
