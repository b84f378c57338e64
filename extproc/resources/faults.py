"""What pydantic found, in Dropout's words: a stable code, a sentence, and the path of the field."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from extproc.resources.document import Part
from extproc.resources.examples import example_at, may_be_empty, one_of_fields
from extproc.resources.fields import FIELD_CODES
from extproc.resources.marked_yaml import FieldPath, shown
from extproc.resources.schema import known_fields, schema_at
from extproc.suggestions import close_to, did_you_mean, listed

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
_FIELD: Final = re.compile(r"(\w+)[\s:]+(.*)", re.DOTALL)


class Problem(NamedTuple):
    """Something wrong at a path of a document.

    ``unquoted``: text is wanted, and YAML took what is there for something else because it has no quotes.
    ``wanted``: the path of something that has to be there, and is not.
    ``meant``: the name of the field, or the value, that was most likely meant.
    """

    code: str
    message: str
    path: FieldPath
    unquoted: bool = False
    wanted: FieldPath | None = None
    meant: str | None = None

    def advice(self, written: str | None) -> str:
        """The message, and how to write the value that stands there as ``written``."""
        if not self.unquoted:
            return self.message
        return f"{self.message}; write it in quotes" + (f': "{written}"' if written is not None else "")


def with_example(problem: Problem, model: type[Part]) -> Problem:
    """The problem, with how to write what is not there in a document that was to be a ``model``."""
    if problem.wanted is None:
        return problem
    before = f"{problem.wanted[-1]}: " if problem.wanted != problem.path else ""
    return problem._replace(message=problem.message + _such_as(model, problem.wanted, before))


def problems_of(error: ValidationError, model: type[Part], limit: int) -> list[Problem]:
    """What pydantic found in a document that was to be a ``model``, the first ``limit`` of it."""
    return [_problem(found, model) for found in error.errors(include_url=False)[:limit]]


def _problem(found: Any, model: type[Part]) -> Problem:
    kind: str = found["type"]
    path: FieldPath = found["loc"]
    if path and path[-1] == "[key]":
        path = path[:-1]
    if kind == "missing":
        return Problem("missing_field", f"{path[-1]} is required{_such_as(model, path, f'{path[-1]}: ')}", path)
    if kind == "extra_forbidden":
        known = known_fields(model, path[:-1])
        return Problem("unknown_field", _unknown(str(path[-1]), known), path, meant=close_to(str(path[-1]), known))
    if kind in _MISTYPED:
        unquoted = kind == "string_type" and isinstance(found["input"], bool | int | float)
        message = _MISTYPED[kind] if unquoted else _mistyped(_MISTYPED[kind], found["input"], path, model)
        return Problem("mistyped_value", message, path, unquoted)
    if kind == "literal_error":
        return _choice(found["input"], found["ctx"]["expected"], schema_at(model, path).get("enum", ()), path)
    if kind == "too_short":
        return Problem("empty_match" if path == ("spec", "match") else "invalid_value", "must not be empty", path)
    if kind == "too_long":
        return Problem("invalid_value", f"must have at most {found['ctx']['max_length']} entries", path)
    message = found["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    return Problem(kind if kind in FIELD_CODES else "invalid_value", message, path)


def _mistyped(sentence: str, found: object, path: FieldPath, model: type[Part]) -> str:
    """What the field must be, with an example; of a mapping that lacks its colon, where the colon goes."""
    if names := one_of_fields(model, path):
        sentence += f" with one of {listed(names)}"
    sentence += _such_as(model, path)
    field = _FIELD.fullmatch(found) if isinstance(found, str) else None
    if field is not None and (name := close_to(field[1], known_fields(model, path))) is not None:
        sentence += f"; did you mean {shown(f'{name}: {field[2]}')}, with a colon and a space?"
    return sentence


def _such_as(model: type[Part], path: FieldPath, before: str = "") -> str:
    example = example_at(model, path)
    if example is None:
        return ""
    return f", such as {before}{example}" + (" or {}" if may_be_empty(model, path) else "")


def _choice(given: object, expected: str, choices: Sequence[str], path: FieldPath) -> Problem:
    """That it is none of the values that there are, and which one may have been meant."""
    if not isinstance(given, str):
        return Problem("mistyped_value", f"must be {expected}", path)
    message = f"must be {expected}{did_you_mean(given, choices)}"
    return Problem("invalid_value", message, path, meant=close_to(given, choices))


def _unknown(name: str, known: Sequence[str]) -> str:
    """That the field is unknown, and which one may have been meant."""
    meant = did_you_mean(name, known) or (f"; known are {listed(known)}" if known else "")
    return f"unknown field {shown(name)}{meant}"
