"""What a policy refers to and is not there as it refers to it: calls with other arguments, data that nothing gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from extproc.adapters.regorus.builtins.guarded import GUARDED
from extproc.adapters.regorus.builtins.table import BUILTINS
from extproc.adapters.regorus.rego_ast import Call, Module, Path, is_builtin, resolve_call
from extproc.errors import Fault
from extproc.suggestions import did_you_mean

_PLAIN: Final = (
    *(f"is_{kind}" for kind in ("array", "boolean", "null", "number", "object", "set", "string")),
    "type_name",
    "walk",
)
"""The engine's own builtins that are none of ``GUARDED``."""

ARGUMENTS: Final[Mapping[str, int]] = {
    **{name: len(builtin.types) for table in (GUARDED, BUILTINS) for name, builtin in table.items()},
    **dict.fromkeys(_PLAIN, 1),
}
"""How many arguments each builtin takes."""


def wrong_arguments(modules: Sequence[Module]) -> Iterator[Fault]:
    """Calls with more or fewer arguments than the function has: ``policy_arguments``."""
    functions = {path: count for module in modules for path, count in module.parameters.items()}
    for module in modules:
        for call in module.calls:
            takes = _takes(module, call, functions)
            if takes is not None and call.given not in (takes, takes + call.alone):
                name = ".".join(call.name)
                arguments = "1 argument" if takes == 1 else f"{takes} arguments"
                message = f"{name} takes {arguments}, and here it is given {call.given}"
                yield Fault("policy_arguments", message, module.file, call.line)


def _takes(module: Module, call: Call, functions: Mapping[Path, int]) -> int | None:
    if is_builtin(module, call.name, functions):
        return ARGUMENTS.get(".".join(call.name))
    return functions.get(resolve_call(module, call.name))


def missing_data(modules: Sequence[Module], data: Mapping[str, Any]) -> Iterator[Fault]:
    """Notes on what is read below data and no rule, function or data file gives: ``policy_data_missing``."""
    rules = {path for module in modules for path, _ in (*module.rules, *module.functions)}
    paths = (*rules, *(module.package for module in modules))
    above = {path[:depth] for path in paths for depth in range(len(path) + 1)}
    for module in modules:
        for read, line in module.data.items():
            known = [depth for depth in range(len(read) + 1) if read[:depth] in above or _has(data, read[:depth])]
            depth = known[-1]
            if depth < len(read) and not any(read[:at] in rules for at in range(len(read))):
                there = {path[depth] for path in above if len(path) > depth and path[:depth] == read[:depth]}
                meant = did_you_mean(read[depth], {*there, *_names_below(data, read[:depth])})
                message = f"no rule and no data file gives data.{'.'.join(read[: depth + 1])}{meant}"
                yield Fault("policy_data_missing", message, module.file, line)


def _has(data: Any, path: Path) -> bool:
    """Whether data can have a value at a path: what is below a value that is no object is not looked into."""
    for part in path:
        if not isinstance(data, Mapping):
            return True
        if part not in data:
            return False
        data = data[part]
    return True


def _names_below(data: Any, path: Path) -> Iterator[str]:
    for part in path:
        data = data.get(part) if isinstance(data, Mapping) else None
    yield from data if isinstance(data, Mapping) else ()
