"""What this engine answers otherwise than OPA, found in its syntax tree, so that it is refused and never served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from extproc.errors import Fault

Node = Any

DIFFERING: Final[Mapping[str, str]] = {
    "json.match_schema": "check what the policy needs of the document itself",
    "json.verify_schema": "check what the policy needs of the document itself",
    "yaml.is_valid": "give it JSON, and ask json.is_valid",
}
"""Builtins that have another answer in OPA, each with the way out."""

_NEW_KEYWORDS: Final = frozenset({"and", "not", "or"})


def builtin_differs(name: str, file: str, line: int) -> Fault:
    """The fault of a call of one of ``DIFFERING``."""
    return _fault("policy_builtin_differs", f"{name} is answered otherwise by OPA", DIFFERING[name], file, line)


def differing(tree: Iterable[Mapping[str, Any]]) -> Iterator[Fault]:
    """What else has another answer in OPA, in the engine's syntax tree. Codes as ``check_sources`` says."""
    for entry in tree:
        file, module = entry["source"]["file"], entry["ast"]
        yield from _keywords(module, file)
        yield from _heads(module["rules"], file)
        known = {"input", "data", *(str(_head(rule)[0]) for rule in module["rules"])}
        known |= {_fields(imported["refr"])[-1] for imported in module["imports"]}
        for rule in module["rules"]:
            yield from _within(rule, file, known | set(_names(_arguments(rule))))


def _keywords(module: Mapping[str, Any], file: str) -> Iterator[Fault]:
    for imported in module["imports"]:
        fields = _fields(imported["refr"])
        if fields[:2] == ["future", "keywords"] and _NEW_KEYWORDS & set(fields[2:]):
            message = f"the engine does not know the keyword {fields[2]} that {'.'.join(fields)} brings"
            yield _fault("policy_construct_differs", message, "do without it", file, _line(imported))
        if fields[:2] == ["rego", "v2"]:
            message = "the engine does not know the keywords that rego.v2 brings"
            yield _fault("policy_construct_differs", message, "import rego.v1, or nothing", file, _line(imported))


def _heads(rules: Iterable[Node], file: str) -> Iterator[Fault]:
    """Rules below what another rule gives by a variable (``p[x].r`` and ``p.b.r``): the engine sees but one of them."""
    heads = [(_head(rule), rule) for rule in rules]
    open_roots = {fields[: fields.index(None)][0] for fields, _ in heads if None in fields[:-1]}
    for fields, rule in heads:
        if len(fields) > 1 and None not in fields and fields[0] in open_roots:
            message = f"{'.'.join(map(str, fields))} adds to what another rule gives by a variable"
            yield _fault("policy_construct_differs", message, "give all parts by one rule", file, _line(rule))
    defaults = [(tuple(map(str, fields)), rule) for fields, rule in heads if "Default" in rule and len(fields) > 1]
    known = Counter(tuple(map(str, fields)) for fields, _ in heads)
    for name, rule in defaults:
        if rule["Default"].get("args") and known[name] == 1:
            message = f"{'.'.join(name)} is a default and nothing else"
            yield _fault("policy_construct_differs", message, "write it as a function", file, _line(rule))


def _within(node: Node, file: str, bound: set[str]) -> Iterator[Fault]:
    """What differs in a rule's expressions; ``bound`` names have a value there."""
    if isinstance(node, list):
        for child in node:
            yield from _within(child, file, bound)
    if not isinstance(node, dict):
        return
    match node:
        case {"Call": {"fcn": {"Var": {"value": "walk"}}, "params": [_]}}:
            way_out = "write walk(x, [path, value])"
            yield _fault("policy_construct_differs", "walk(x) has another value in OPA", way_out, file, _line(node))
        case {"Membership": {"key": {}}}:
            message = "a membership with a key is answered otherwise by OPA where it is one of a set"
            yield _fault("policy_construct_differs", message, "write x[key] == value", file, _line(node))
        case {"stmts": list(statements)}:
            yield from _negations(statements, file, bound)
    for child in node.values():
        yield from _within(child, file, bound)


def _negations(statements: list[Node], file: str, bound: set[str]) -> Iterator[Fault]:
    """Statements ``not x = ...`` that stand before what gives x its value: OPA puts them behind it."""
    before = set(bound)
    for number, statement in enumerate(statements):
        negated = statement["literal"].get("NotExpr")
        if negated is not None:
            early = set(_names(negated)) & set(_assigned(statements[number + 1 :])) - before
            for name in sorted(early):
                message = f"{name} is negated before it has a value"
                way_out = "write what gives it one first"
                yield _fault("policy_construct_differs", message, way_out, file, _line(statement))
        before |= set(_names(statement))


def _assigned(statements: list[Node]) -> Iterator[str]:
    """The names that a unification may give a value."""
    for statement in statements:
        match statement["literal"]:
            case {"Expr": {"expr": {"AssignExpr": {"op": "Eq", "lhs": left, "rhs": right}}}}:
                yield from _names([side for side in (left, right) if "Var" in side or "Array" in side])


def _names(node: Node) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("Var"), dict):
            yield node["Var"]["value"]
        for child in node.values():
            yield from _names(child)
    elif isinstance(node, list):
        for child in node:
            yield from _names(child)


def _arguments(rule: Node) -> Node:
    return rule["Spec"]["head"].get("Func", {}).get("args", []) if "Spec" in rule else []


def _head(rule: Node) -> list[str | None]:
    head = rule["Default"] if "Default" in rule else next(iter(rule["Spec"]["head"].values()))
    return _fields(head["refr"])


def _fields(node: Node) -> list[Any]:
    """The parts of a reference; None for one that is not written out."""
    found: list[Any] = []
    while "Var" not in node:
        kind, content = next((kind, node[kind]) for kind in ("RefDot", "RefBrack") if kind in node)
        index = content.get("index", {})
        found.append(content["field"][1] if kind == "RefDot" else index.get("String", {}).get("value"))
        node = content["refr"]
    return [node["Var"]["value"], *reversed(found)]


def _line(node: Node) -> int | None:
    """The line of the first span in a node."""
    if isinstance(node, dict):
        if isinstance(node.get("line"), int):
            return int(node["line"])
        children: Iterable[Node] = node.values()
    else:
        children = node if isinstance(node, list) else ()
    return next((line for child in children if (line := _line(child)) is not None), None)


def _fault(code: str, message: str, way_out: str, file: str, line: int | None) -> Fault:
    return Fault(code, f"{message}: {way_out}", file, line)
