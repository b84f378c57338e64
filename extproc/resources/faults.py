"""What pydantic found, in Dropout's words: a stable code, a sentence, and the path of the field."""

from __future__ import annotations

import difflib
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from extproc.resources.document import Resource
from extproc.resources.fields import FIELD_CODES
from extproc.resources.marked_yaml import Path, shown
from extproc.resources.schema import known_fields

_MISTYPED: Final = {
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
}


class Problem(NamedTuple):
    """Something wrong at a path of a document."""

    code: str
    message: str
    path: Path


def problems_of(error: ValidationError, model: type[Resource], limit: int) -> list[Problem]:
    """What pydantic found in a document that was to be a ``model``, the first ``limit`` of it."""
    return [_problem(found, model) for found in error.errors(include_url=False)[:limit]]


def _problem(found: Any, model: type[Resource]) -> Problem:
    kind: str = found["type"]
    path: Path = found["loc"]
    if path and path[-1] == "[key]":
        path = path[:-1]
    if kind == "missing":
        return Problem("missing_field", f"{path[-1]} is required", path)
    if kind == "extra_forbidden":
        return Problem("unknown_field", _unknown(path, model), path)
    if kind in _MISTYPED:
        return Problem("mistyped_value", _mistyped(kind, found["input"]), path)
    if kind == "literal_error":
        code = "invalid_value" if isinstance(found["input"], str) else "mistyped_value"
        return Problem(code, f"must be {found['ctx']['expected']}", path)
    if kind == "too_short":
        return Problem("empty_match" if path == ("spec", "match") else "invalid_value", "must not be empty", path)
    if kind == "too_long":
        return Problem("invalid_value", f"must have at most {found['ctx']['max_length']} entries", path)
    message = found["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    return Problem(kind if kind in FIELD_CODES else "invalid_value", message, path)


def _mistyped(kind: str, value: object) -> str:
    """The type that is wanted; for a string that YAML took for something else, how to write it."""
    wanted = _MISTYPED[kind]
    if kind != "string_type" or not isinstance(value, bool | int | float):
        return wanted
    written = str(value).lower() if isinstance(value, bool) else str(value)
    return f'{wanted}; write it in quotes: "{written}"'


def _unknown(path: Path, model: type[Resource]) -> str:
    """That the field is unknown, and which one may have been meant."""
    close = difflib.get_close_matches(str(path[-1]), known_fields(model, path[:-1]), n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown field {shown(str(path[-1]))}{meant}"
