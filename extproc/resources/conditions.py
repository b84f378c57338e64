"""The conditions of an analysis: an expression in CEL over ``result`` and ``args`` that is true or false.

Conditions are compared, computed and combined values, and no more of CEL than that: no comprehensions, of which a few
nested ones run for years, and no functions but conversions and ``size``. So an evaluation takes microseconds, and what
a condition refers to can be read from its text. See https://github.com/google/cel-spec for the language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from math import isnan
from typing import Any, Final, NamedTuple, TypeVar

from extproc.errors import InvalidInput
from extproc.resources.condition_types import mixed_types
from extproc.resources.marked_yaml import shown
from extproc.suggestions import close_to, listed

_WORDS: Final = {"and": "&&", "or": "||", "not": "!"}
"""What other languages write for an operator."""

INVALID_CODE: Final = "condition_invalid"

NOT_A_NUMBER: Final = (
    "result is NaN, which is not compared with any number; ask first whether it is: result != result is true of it"
)

FUNCTIONS: Final = ("double", "has", "int", "size", "string", "uint")
"""What a condition may call."""

_KEPT: Final = 4096
"""Compiled conditions that are kept; a tick of a thousand rollouts compiles none of them again."""

_ROOTS: Final = ("result", "args")
_UNREADABLE: Final = ("\\", '"""', "'''")
_LITERALS: Final = frozenset({"true", "false", "null", "in"})
_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*)
      | (?P<text>"[^"]*"|'[^']*')
      | (?P<number>[0-9]\w*(?:\.[0-9]\w*)?|\.[0-9]\w*)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>\S)""",
    re.VERBOSE,
)
_PARSE_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?(.*)")

Result = TypeVar("Result")


class ConditionError(Exception):
    """A condition has no answer for the values at hand; the text says why."""


class Condition:
    """A compiled condition. Make it with ``compile_condition``."""

    __slots__ = ("_program", "source")

    def __init__(self, source: str, program: Any) -> None:
        self.source = source
        self._program = program

    def holds(self, result: Any, args: Mapping[str, str]) -> bool:
        """Whether it is true of ``result`` and ``args``.

        Raises:
            ConditionError: when it cannot be evaluated, or gives something else than true or false.
        """
        context = {"result": result, "args": dict(args)}
        try:
            answer = _called(self._program.execute, context)
        except KeyError as error:
            raise ConditionError(f"there is no field {shown(str(error.args[0]))}") from error
        except IndexError as error:
            raise ConditionError(f"result has no such element: {error}") from error
        except TypeError as error:
            raise ConditionError(self._mistyped(result, args)) from error
        except Exception as error:
            raise ConditionError(str(error)) from error
        if not isinstance(answer, bool):
            gives = f"the condition gives {shown(str(answer))}, which is neither true nor false"
            compared = f"; compare it with something, as {shown(f'{self.source} > 0')}"
            raise ConditionError(gives + (compared if isinstance(answer, int | float) else ""))
        return answer

    def _mistyped(self, result: Any, args: Mapping[str, str]) -> str:
        return NOT_A_NUMBER if _has_nan(result) else mixed_types(self.source, result, args)


@lru_cache(maxsize=_KEPT)
def compile_condition(source: str) -> Condition:
    """The condition that ``source`` says.

    Raises:
        InvalidInput: ``condition_invalid``, when it is no CEL, calls what may not be called, or names anything else
            than ``result`` and ``args``.
    """
    import cel  # here, because it brings a command line along: 30 MB that no worker needs

    if any(sign in source for sign in _UNREADABLE):
        raise InvalidInput.of(INVALID_CODE, "text in a condition is quoted simply, without a backslash")
    try:
        program = _called(cel.compile, source)
    except ValueError as error:
        raise InvalidInput.of(INVALID_CODE, _parse_error(str(error))) from error
    named = [*_references(source), *(_Reference((name,), called=False) for name in program.variables())]
    for reference in named:
        if (fault := _fault(reference, {})) is not None:
            raise InvalidInput.of(INVALID_CODE, fault)
    return Condition(source, program)


def _has_nan(result: Any) -> bool:
    values = result.values() if isinstance(result, Mapping) else result if isinstance(result, list) else [result]
    return any(isinstance(value, float) and isnan(value) for value in values)


def faults_in(source: str, result: Any, args: Mapping[str, str | None]) -> list[str]:
    """What is wrong with a condition, in sentences, if results look like ``result`` and these arguments exist.

    An argument that is None has no value yet.
    """
    known = {"result": result, "args": args}
    faults = [fault for reference in _references(source) if (fault := _fault(reference, known)) is not None]
    try:
        condition = compile_condition(source)
    except InvalidInput as error:
        faults = faults or [error.faults[0].message]
    else:
        faults = faults or _trial(condition, result, {name: value or "1" for name, value in args.items()})
    return list(dict.fromkeys(faults))


def _trial(condition: Condition, result: Any, args: Mapping[str, str]) -> list[str]:
    """What types alone make impossible. Values of an example may be to blame for anything else."""
    try:
        condition.holds(result, args)
    except ConditionError as error:
        if error.__cause__ is None or isinstance(error.__cause__, TypeError):
            return [str(error)]
    return []


class _Reference(NamedTuple):
    """A name with the fields that follow it: ``result.canary['rate']``; ``called`` if it is a function or a method."""

    path: tuple[str, ...]
    called: bool


def _references(source: str) -> Iterator[_Reference]:
    """Everything that a condition names."""
    tokens = [(found.lastgroup or "", found[0]) for found in _TOKEN.finditer(source) if found.lastgroup != "comment"]
    index = 0
    while index < len(tokens):
        kind, text = tokens[index]
        index += 1
        if kind != "name" or text in _LITERALS:
            continue
        after_dot = index > 1 and tokens[index - 2][1] == "."
        path = [text]
        while (field := _field(tokens, index)) is not None:
            path.append(field[0])
            index += field[1]
        called = index < len(tokens) and tokens[index][1] == "("
        if called or not after_dot:
            yield _Reference(tuple(path), called)


def _field(tokens: Sequence[tuple[str, str]], index: int) -> tuple[str, int] | None:
    """The field that is selected at ``index``, and in how many tokens: ``.name`` or ``["name"]``."""
    match tokens[index : index + 3]:
        case [(_, "."), ("name", name), *_]:
            return name, 2
        case [(_, "["), ("text", text), (_, "]")]:
            return text[1:-1], 3
    return None


def _fault(reference: _Reference, known: Mapping[str, Any]) -> str | None:
    """What is wrong with a reference; ``known`` are the fields of ``result`` and ``args``, as far as they are known."""
    path = reference.path
    if len(path) == 1 and path[0] in _WORDS:
        return f"{shown(path[0])} is no operator of CEL; write {_WORDS[path[0]]}"
    if reference.called:
        if len(path) == 1 and path[0] in FUNCTIONS:
            return None
        return f"{shown(path[-1])} cannot be called here; {listed(FUNCTIONS)} can"
    if path[0] not in _ROOTS:
        return _unknown(path[:1], _ROOTS)
    fields = known.get(path[0])
    for depth, name in enumerate(path[1:], start=1):
        if fields is None:
            return None
        if not isinstance(fields, Mapping):
            return f"{'.'.join(path[:depth])} has no fields"
        if name not in fields:
            return _unknown(path[: depth + 1], list(fields))
        fields = fields[name]
    return None


def _unknown(path: Sequence[str], known: Sequence[str]) -> str:
    """That there is no such field, and which one may have been meant."""
    if (close := close_to(path[-1], known)) is not None:
        return f"{shown('.'.join(path))} is unknown; did you mean {'.'.join((*path[:-1], close))!r}?"
    if not known:
        return f"{shown('.'.join(path))} is unknown; there are no arguments"
    return f"{shown('.'.join(path))} is unknown; {listed(known)} {'is' if len(known) == 1 else 'are'} known"


def _parse_error(text: str) -> str:
    """Where the text stops to be CEL, and why, without the list of all that could stand there."""
    found = _PARSE_ERROR.search(text)
    if found is None:
        return "is not CEL"
    line, column, problem = found.groups()
    place = f"character {column}" if line == "1" else f"line {line}, character {column}"
    return f"is not CEL: {problem.partition(' expecting ')[0]} at {place}"


def _called(function: Callable[..., Result], *arguments: Any) -> Result:
    """What ``function``, which is written in Rust, gives; a panic there is an error like others."""
    try:
        return function(*arguments)
    except Exception:
        raise
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # deliberately no Exception
            raise RuntimeError("the expression cannot be evaluated") from error
        raise
