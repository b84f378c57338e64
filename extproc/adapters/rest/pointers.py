"""JSON pointers (RFC 6901) of which steps may be placeholders: ``/results/{{column}}/values/{{row}}``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from extproc.resources.marked_yaml import shown
from extproc.suggestions import close_to, listed

ROW: Final = "{{row}}"
COLUMN: Final = "{{column}}"
FEATURE: Final = "{{feature}}"
VIEW: Final = "{{view}}"
ENTITY: Final = "{{entity}}"
KEY: Final = "{{join_key}}"

PLACEHOLDERS: Final = (ROW, COLUMN, FEATURE, VIEW, ENTITY, KEY)
_HOLE: Final = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_ESCAPE: Final = re.compile(r"~(?![01])")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")

ABSENT: Final = object()
"""That there is nothing at a pointer."""


class WrongShapeError(Exception):
    """The answer is not built as the template says; in words."""


def parse_pointer(text: str) -> tuple[str, ...]:
    """The steps of a pointer; those that are placeholders as ``ROW`` and the others write them."""
    return tuple(_step(step) for step in text.split("/")[1:])


def _step(step: str) -> str:
    hole = _HOLE.fullmatch(step)
    return f"{{{{{hole[1]}}}}}" if hole is not None else step.replace("~1", "/").replace("~0", "~")


def pointer_problems(text: str, of: str) -> Iterator[str]:
    """What is wrong with the pointer of the response's field ``of``, in sentences."""
    if not text.startswith("/") or _ESCAPE.search(text):
        yield f"{shown(text)} is no JSON pointer, such as /outputs/0/score"
    allowed = {"name": (COLUMN, VIEW), "joinKey": (ROW, COLUMN, VIEW, ENTITY, KEY)}.get(of, PLACEHOLDERS[:-1])
    for step in text.split("/")[1:]:
        hole = _HOLE.fullmatch(step)
        if hole is not None and f"{{{{{hole[1]}}}}}" not in allowed:
            meant = close_to(f"{{{{{hole[1]}}}}}", allowed)
            advice = f"did you mean {meant}?" if meant else f"there are {listed(allowed)}"
            yield f"unknown placeholder {shown(hole[1])} here; {advice}"
        elif hole is None and ("{{" in step or "}}" in step):
            yield f"a placeholder is a whole step of a pointer, not a part of one: {shown(step)}"


def find(answer: Any, steps: Sequence[str], values: Mapping[str, str | int]) -> Any:
    """What stands at ``steps`` of an answer, where ``values`` stand for placeholders; ``ABSENT`` for nothing.

    Nothing is what lacks the last step, or what is null or lacks a field behind the first placeholder.

    Raises:
        WrongShapeError: something is not what a step needs, or a list is too short.
    """
    found = answer
    for number, step in enumerate(steps):
        at = values.get(step, step)
        if type(found) is dict and type(at) is str:
            found = found.get(at, ABSENT)
            if found is ABSENT and number < len(steps) - 1 and _is_fixed(steps[: number + 1]):
                raise WrongShapeError(f"there is no {_shown(steps[: number + 1])} in it")
        elif type(found) is list:
            found = _element(found, at, steps, number)
        elif (found is None or found is ABSENT) and not _is_fixed(steps[:number]):
            return ABSENT
        else:
            wanted = "list" if type(at) is int else "mapping"
            raise WrongShapeError(f"{_shown(steps[:number])} in it is no {wanted}")
    return found


def _is_fixed(steps: Sequence[str]) -> bool:
    return not any(step in PLACEHOLDERS for step in steps)


def _element(found: list[Any], at: str | int, steps: Sequence[str], number: int) -> Any:
    index = at if type(at) is int else int(at) if _INDEX.fullmatch(str(at)) else len(found)
    if index >= len(found):
        raise WrongShapeError(f"{_shown(steps[:number])} in it is a list without {shown(steps[number])}")
    return found[index]


def _shown(steps: Sequence[str]) -> str:
    return shown("/".join(("", *steps)) or "/")
