"""Policies with our builtins in them: the calls are sent to functions in Rego, and these ask Python.

A call is found in the syntax tree and written anew where it stands, ``io.jwt.decode(x)`` as
``data.dropout_builtins.io.jwt.decode(x)``, on the same line. An import on the package line would do for most, but a
call with the result as its last argument, ``io.jwt.decode(x, [_, claims, _])``, is then no longer one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple

from extproc.adapters.regorus.builtins.builtin import Builtin
from extproc.adapters.regorus.builtins.table import BUILTINS
from extproc.adapters.regorus.rego_ast import Call, Module, is_builtin
from extproc.errors import Fault


class Edit(NamedTuple):
    """Bytes ``start`` to before ``end`` of a file become ``text``. Of several at one place the least ``order`` is
    first.

    What is put in ends, or begins, an operation before what stands there is changed: its ``order`` is negative.
    """

    start: int
    end: int
    text: str
    order: int = 0


class Site(NamedTuple):
    """Where a policy calls a builtin."""

    file: str
    line: int


MAX_SITES: Final = 200
"""Calls that have a copy each; those beyond have one together, and an error in it names no line."""

Calls = Mapping[str, Sequence[tuple[Call, Builtin]]]
"""The calls in each file that has any."""


def calls_of_ours(modules: Sequence[Module]) -> Calls:
    """The calls and replacements (by ``with``) of our builtins.

    A module that calls one that reads the clock gets that among its reads: it reads ``input.time``.
    """
    found = calls_among(modules, BUILTINS)
    for module in modules:
        for call, builtin in found.get(module.file, ()):
            if builtin.clock:
                module.reads.setdefault(("time",), call.line)
    return found


def calls_among(modules: Sequence[Module], builtins: Mapping[str, Builtin]) -> Calls:
    """The calls and replacements of ``builtins``, which are given by their names."""
    functions = {path for module in modules for path, _ in module.functions}
    found = defaultdict(list)
    for module in modules:
        for call in (*module.calls, *module.replaced):
            builtin = builtins.get(".".join(call.name))
            if builtin is not None and is_builtin(module, call.name, functions):
                found[module.file].append((call, builtin))
    return dict(found)


def at_sites(calls: Calls, modules: Sequence[Module], names: Container[str]) -> tuple[Calls, dict[str, Site]]:
    """The calls, those of the builtins ``names`` each with a copy of its own; and where each copy's file is called.

    What a ``with`` replaces is replaced wherever it is called, and stays one.
    """
    replaced = {".".join(call.name) for module in modules for call in module.replaced}
    found: dict[str, list[tuple[Call, Builtin]]] = {}
    sites: dict[str, Site] = {}
    for file, of_file in sorted(calls.items()):
        found[file] = []
        for call, builtin in of_file:
            known = builtin
            if builtin.name in names and builtin.name not in replaced and len(sites) < MAX_SITES:
                known = builtin._replace(site=len(sites))
                sites[known.file] = Site(file, call.line)
            found[file].append((call, known))
    return found, sites


def not_installed(calls: Calls) -> Iterator[Fault]:
    """The calls of builtins whose library is not there."""
    for file, of_file in calls.items():
        for call, builtin in of_file:
            if not is_installed(builtin):
                message = f"{builtin.name} needs more to be installed: pip install 'dropout-router[rego]'"
                yield Fault("policy_builtin_missing", message, file, call.line)


def is_installed(builtin: Builtin) -> bool:
    """Whether what ``builtin`` needs is there."""
    return not builtin.needs or _there(builtin.needs)


def builtins_of(calls: Calls) -> set[Builtin]:
    """Those that are called."""
    return {builtin for of_file in calls.values() for _, builtin in of_file}


def edits_of_calls(calls: Iterable[tuple[Call, Builtin]]) -> list[Edit]:
    """What sends calls to our functions in Rego."""
    return [Edit(*place, called) for place, called in {(c.start, c.end): b.called for c, b in calls}.items()]


def hosted(
    files: Mapping[str, str], edits: Mapping[str, Iterable[Edit]], builtins: Iterable[Builtin]
) -> tuple[dict[str, str], list[Builtin]]:
    """The files as ``edits`` change them, with those of the functions of ``builtins``; and these, sorted."""
    texts = {name: _rewritten(text, edits.get(name, ())) for name, text in files.items()}
    used = sorted(set(builtins), key=lambda builtin: builtin.file)
    texts |= {builtin.file: f"package {builtin.module}\n\n{builtin.text()}" for builtin in used}
    return texts, used


def register(engine: Any, builtins: Iterable[Builtin]) -> None:
    """Have ``engine`` ask Python for ``builtins``."""
    for builtin in {builtin.name: builtin for builtin in builtins}.values():
        if builtin.function is not None:
            engine.add_extension(f"host.{builtin.name}", builtin.host_arity, builtin.answer)


def _there(module: str) -> bool:
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("extproc"):
            raise
        return False
    return True


def _rewritten(text: str, edits: Iterable[Edit]) -> str:
    """The text after ``edits``. The tree counts in bytes."""
    given, at = text.encode(), 0
    written: list[bytes] = []
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.order)):
        written += (given[at : edit.start], edit.text.encode())
        at = edit.end
    return b"".join((*written, given[at:])).decode()
