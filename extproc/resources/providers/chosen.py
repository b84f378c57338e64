"""A metric's ``provider``: exactly one of the providers that there are, with its part of the document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from extproc.errors import InvalidInput
from extproc.resources.as_written import exactly_one, mapping
from extproc.resources.document import EXACTLY_ONE, Part
from extproc.resources.faults import Problem
from extproc.resources.marked_yaml import FieldPath
from extproc.resources.providers.kind import Arguments, ProviderKind
from extproc.resources.providers.table import OURS, all_names, provider


@dataclass(frozen=True, slots=True)
class ChosenProvider:
    """Where a metric comes from: the provider's name, and what the document says to it."""

    name: str
    spec: Part

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(_chosen)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(_any_of(tuple(all_names())).__pydantic_core_schema__)


def _chosen(value: Any) -> ChosenProvider:
    """The provider that is there. That it is only one is a rule, which is kept whatever else is wrong."""
    names = _names_in(value)
    parts = _any_of(names).model_validate(value)
    return next(
        (ChosenProvider(name, part) for name in names if (part := getattr(parts, name)) is not None),
        ChosenProvider("", Part()),
    )


def _names_in(value: Any) -> tuple[str, ...]:
    """Those of ours, and those of somebody else's that are in ``value``."""
    return OURS + tuple(name for name in mapping(value) if name not in OURS and _known(name) is not None)


@cache
def _any_of(names: tuple[str, ...]) -> type[Part]:
    """The model of a part that may have each of these providers."""
    known = {name: kind for name in names if (kind := _known(name)) is not None}
    fields: dict[str, Any] = {name: (kind.spec | None, None) for name, kind in known.items()}
    return create_model("ProviderSpec", __base__=_Provider, __doc__=_Provider.__doc__, **fields)


class _Provider(Part):
    """Where a metric comes from: exactly one of its fields."""

    model_config = ConfigDict(alias_generator=str, json_schema_extra=EXACTLY_ONE)


def _known(name: Any) -> ProviderKind | None:
    try:
        return provider(name) if isinstance(name, str) else None
    except InvalidInput:
        return None  # which is said by the rules


def problems_of_provider(written: Any, arguments: Arguments, path: FieldPath) -> Iterator[Problem]:
    """One provider, and what is wrong with its part of the document."""
    yield from exactly_one(written, _names_in(written), path)
    for name, part in mapping(written).items():
        if (broken := _broken(name)) is not None:
            yield Problem(broken.code, broken.faults[0].message, (*path, name))
        elif (kind := _known(name)) is not None:
            yield from kind.problems(mapping(part), arguments, (*path, name))


def _broken(name: Any) -> InvalidInput | None:
    """Why the plug-in that brings the provider cannot be used."""
    try:
        provider(name)
    except InvalidInput as error:
        return error
    return None


def example_results(written: Any) -> list[Any]:
    """What results of a metric with this provider may look like; none if it is not clear."""
    parts = ((_known(name), mapping(part)) for name, part in mapping(written).items())
    return [example for kind, part in parts if kind is not None for example in kind.examples(part)]
