"""What of the policies decides nothing: right, and easily overlooked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter

from extproc.adapters.regorus.rego_ast import Module, Path, decisions
from extproc.datapath.sinks.masking import LOG_RULES
from extproc.errors import Fault


def unused(modules: Sequence[Module]) -> Iterator[Fault]:
    """Notes on rules that no decision leads to, and on defaults that never apply.

    Codes: ``policy_rule_unused``, ``policy_default_unused``.
    """
    for module, path, line in _rules(modules):
        message = f"nothing that is called decision leads to data.{'.'.join(path)}: is it asked by a policy.path?"
        yield Fault("policy_rule_unused", message, module.file, line)
    certain = {path: (module.file, line) for module in modules for path, line in module.certain.items()}
    for module in modules:
        for path, line in module.defaults.items():
            if path in certain:
                file, by = certain[path]
                message = f"the default of data.{'.'.join(path)} never applies: {file}:{by} gives a value in any case"
                yield Fault("policy_default_unused", message, module.file, line)


def _rules(modules: Sequence[Module]) -> Iterator[tuple[Module, Path, int]]:
    """Rules and functions that no decision leads to. Where nothing is called so, any may be the one that is asked."""
    asked = [*decisions(modules), *(tuple(path.split("/")) for path in LOG_RULES)] if decisions(modules) else ()
    told = led_to(asked, modules) if asked else {path for module in modules for path, _ in _all(module)}
    for module in modules:
        for path, line in sorted(_all(module), key=itemgetter(1)):
            if path not in told:
                told.add(path)
                yield module, path, line


def led_to(start: Iterable[Path], modules: Sequence[Module]) -> set[Path]:
    """The rules and functions that the paths lead to, by way of any other."""
    below, uses = _below(modules), _uses(modules)
    waiting, found = list(start), set[Path]()
    while waiting:
        at = waiting.pop()
        for reached in (*below.get(at, ()), *(at[:depth] for depth in range(len(at)))):
            if reached not in found:
                found.add(reached)
                waiting += uses.get(reached, ())
    return found


def _below(modules: Sequence[Module]) -> Mapping[Path, Sequence[Path]]:
    """The rules and functions at each path and below it."""
    found = defaultdict(list)
    for path in {path for module in modules for path, _ in _all(module)}:
        for depth in range(len(path) + 1):
            found[path[:depth]].append(path)
    return found


def _uses(modules: Sequence[Module]) -> Mapping[Path, Iterable[Path]]:
    found = defaultdict(set)
    for module in modules:
        for caller, used in module.uses:
            found[caller].add(used)
    return found


def _all(module: Module) -> Sequence[tuple[Path, int]]:
    return (*module.rules, *module.functions)
