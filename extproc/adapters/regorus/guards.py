"""Policies in a second form, which is asked where the first throws: what is undefined in OPA is undefined there.

The engine ends the evaluation where a builtin fails or an operator is given what it cannot take; OPA goes on with
undefined. In the second form each such call and operator is one of a function in Rego that asks first. That costs
most evaluations nothing, because they do not come to it.
"""

from __future__ import annotations

import re
from collections import ChainMap, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from extproc.adapters.regorus.builtins.builtin import Builtin
from extproc.adapters.regorus.builtins.guarded import GUARDED
from extproc.adapters.regorus.builtins.operators import OPERATORS
from extproc.adapters.regorus.builtins.table import BUILTINS
from extproc.adapters.regorus.hosting import Edit, Site, at_sites, builtins_of, calls_among, edits_of_calls, hosted
from extproc.adapters.regorus.rego_ast import Module

Node = Any

_QUOTES: Final = (b'"', b"`")
_BETWEEN: Final = rb"[\"`]?(?:[\s()]|#[^\n]*\n)*?"
_SIGN: Final = re.compile(_BETWEEN + rb"([-+*/%|&])")
_IN: Final = re.compile(_BETWEEN + rb"(in)\b")
_KNOWN: Final = ChainMap(dict(GUARDED), dict(BUILTINS))


class Form(NamedTuple):
    """Policies as an engine is given them, with the builtins that they use."""

    files: dict[str, str]
    builtins: list[Builtin]
    sites: dict[str, Site]


def first_form(files: Mapping[str, str], tree: Iterable[Mapping[str, Any]], modules: Sequence[Module]) -> Form:
    """With what is ours alone, and ``key, value in xs``, which OPA answers otherwise where it is one of a set."""
    return _form(files, tree, modules, BUILTINS, ("Membership",))


def second_form(files: Mapping[str, str], tree: Iterable[Mapping[str, Any]], modules: Sequence[Module]) -> Form:
    """With all that can throw in the place of what throws."""
    return _form(files, tree, modules, _KNOWN, ("ArithExpr", "BinExpr", "Membership"))


def can_throw(second: Form) -> bool:
    """Whether anything in policies throws that does not in their second form."""
    return any(builtin.name in GUARDED or builtin.package == ("operators",) for builtin in second.builtins)


def _form(
    files: Mapping[str, str],
    tree: Iterable[Mapping[str, Any]],
    modules: Sequence[Module],
    builtins: Mapping[str, Builtin],
    kinds: Sequence[str],
) -> Form:
    calls, sites = at_sites(calls_among(modules, builtins), modules, BUILTINS)
    edits: dict[str, list[Edit]] = defaultdict(list)
    used = builtins_of(calls)
    for file, name, found in _operations_of(tree, kinds):
        used.add(OPERATORS[name])
        edits[file] += found
    for file, of_file in calls.items():
        edits[file] += edits_of_calls(of_file)
    return Form(*hosted(files, edits, used), sites)


def _operations_of(tree: Iterable[Mapping[str, Any]], kinds: Sequence[str]) -> Iterator[tuple[str, str, list[Edit]]]:
    """The file and the name of each operator, and what makes its operation a call."""
    for entry in tree:
        text = entry["source"]["contents"].encode()
        for kind, node in _nodes(entry["ast"]["rules"], kinds):
            found = _membership(node, text) if kind == "Membership" else _operation(node, text)
            if found:
                yield entry["source"]["file"], *found


def _nodes(node: Node, kinds: Sequence[str]) -> Iterator[tuple[str, Node]]:
    if isinstance(node, list):
        for child in node:
            yield from _nodes(child, kinds)
    if not isinstance(node, dict):
        return
    for kind, child in node.items():
        if kind == "Default":
            continue  # which is a value that is written out
        if kind in kinds:
            yield kind, child
        yield from _nodes(child, kinds)


def _membership(node: Mapping[str, Any], text: bytes) -> tuple[str, list[Edit]] | None:
    word = _IN.match(text, _end(node["value"]))
    return None if word is None or not node.get("key") else ("member", _call("member", node, word, text))


def _operation(node: Mapping[str, Any], text: bytes) -> tuple[str, list[Edit]] | None:
    name, sign = node["op"].lower(), _SIGN.match(text, _end(node["lhs"]))
    return None if sign is None else (name, _call(name, node, sign, text))


def _call(name: str, node: Mapping[str, Any], sign: re.Match[bytes], text: bytes) -> list[Edit]:
    start, end = node["span"]["start"], node["span"]["end"]
    # A text's place in the tree is without its quotes.
    start -= text[start - 1 : start] in _QUOTES
    end += text[end : end + 1] in _QUOTES
    call = Edit(start, start, OPERATORS[name].called + "(", order=-end)
    return [call, Edit(sign.start(1), sign.end(1), ","), Edit(end, end, ")", order=-len(text) - 1)]


def _end(node: Node) -> int:
    (content,) = node.values()
    return int(content["span"]["end"])
