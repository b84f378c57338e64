"""Policies with our builtins in them: the calls are sent to functions in Rego, and these ask Python.

A call is found in the syntax tree and written anew where it stands, ``io.jwt.decode(x)`` as
``data.dropout_builtins.io.jwt.decode(x)``, on the same line. An import on the package line would do for most, but a
call with the result as its last argument, ``io.jwt.decode(x, [_, claims, _])``, is then no longer one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from extproc.adapters.regorus.builtins.builtin import Builtin
from extproc.adapters.regorus.builtins.table import BUILTINS
from extproc.adapters.regorus.rego_ast import Call, Module, is_builtin
from extproc.errors import Fault

PACKAGE: Final = "dropout_builtins"


def calls_of_ours(modules: Sequence[Module]) -> dict[str, list[tuple[Call, Builtin]]]:
    """The calls and replacements (by ``with``) of our builtins in each file that has any.

    A module that calls one that reads the clock gets that among its reads: it reads ``input.time``.
    """
    functions = {path for module in modules for path, _ in module.functions}
    found = defaultdict(list)
    for module in modules:
        for call in (*module.calls, *module.replaced):
            builtin = BUILTINS.get(".".join(call.name))
            if builtin is not None and is_builtin(module, call.name, functions):
                found[module.file].append((call, builtin))
                if builtin.clock:
                    module.reads.setdefault(("time",), call.line)
    return dict(found)


def not_installed(calls: Mapping[str, Iterable[tuple[Call, Builtin]]]) -> Iterator[Fault]:
    """The calls of builtins whose library is not there."""
    for file, of_file in calls.items():
        for call, builtin in of_file:
            if not is_installed(builtin):
                message = f"{builtin.name} needs more to be installed: pip install 'dropout-router[rego]'"
                yield Fault("policy_builtin_missing", message, file, call.line)


def is_installed(builtin: Builtin) -> bool:
    """Whether what ``builtin`` needs is there."""
    return not builtin.needs or _there(builtin.needs)


def hosted(
    files: Mapping[str, str], calls: Mapping[str, Sequence[tuple[Call, Builtin]]]
) -> tuple[dict[str, str], list[Builtin]]:
    """The files with their calls written anew and those of our functions; and the builtins that they use."""
    texts = {name: _rewritten(text, [call for call, _ in calls.get(name, ())]) for name, text in files.items()}
    used = sorted({builtin for of_file in calls.values() for _, builtin in of_file}, key=lambda builtin: builtin.name)
    packages: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for builtin in used:
        packages[builtin.package].append(builtin.text())
    for package, rules in packages.items():
        name = ".".join((PACKAGE, *package))
        texts[f"{name}.rego"] = "\n\n".join((f"package {name}", *rules))
    return texts, used


def register(engine: Any, builtins: Iterable[Builtin]) -> None:
    """Have ``engine`` ask Python for ``builtins``."""
    for builtin in builtins:
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


def _rewritten(text: str, calls: Iterable[Call]) -> str:
    """The text with our names in the place of the builtins'. The tree counts in bytes."""
    given, at = text.encode(), 0
    written: list[bytes] = []
    for start, call in sorted({call.start: call for call in calls}.items()):
        written += (given[at:start], f"data.{PACKAGE}.{'.'.join(call.name)}".encode())
        at = call.end
    return b"".join((*written, given[at:])).decode()
