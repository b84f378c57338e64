"""Documents as they were written, before they are models: for rules that hold however wrong the rest may be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from extproc.resources.faults import Problem
from extproc.resources.marked_yaml import FieldPath, shown


def given(value: Mapping[str, Any], name: str) -> bool:
    """Whether the field is there and not null."""
    return value.get(name) is not None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def duplicates(what: str, names: Iterable[Any], path: FieldPath, *inner: str) -> Iterator[Problem]:
    """Every name but the first of its kind; ``inner`` leads from an item to its name."""
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        if not isinstance(name, str):
            continue
        if seen[name]:
            yield Problem("duplicate_name", f"there is already {_a(what)} called {shown(name)}", (*path, index, *inner))
        seen[name] += 1


def _apart(path: FieldPath) -> str:
    """How two entries of a list are written that were run together."""
    return "; if these are two entries, begin each with '- '" if isinstance(path[-1], int) else ""


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def exactly_one(value: Any, names: tuple[str, ...], path: FieldPath, *beside: str) -> Iterator[Problem]:
    """Exactly one of ``names`` is there, and maybe what is ``beside`` it; a misspelt one is an unknown field alone."""
    if not isinstance(value, dict):
        return
    there = [name for name in names if given(value, name)]
    if len(there) > 1:
        yield Problem("conflicting_fields", f"only one of {' and '.join(there)}{_apart(path)}", (*path, there[1]))
    elif not there and not value.keys() - {*names, *beside, "missing", "percent"}:
        empty = next((name for name in names if name in value), None)
        if empty is not None:
            yield Problem("missing_field", f"{empty} has no value; it takes one", path, wanted=(*path, empty))
        else:
            yield Problem("missing_field", f"needs {' or '.join(names)}", path, wanted=path)
