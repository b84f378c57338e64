"""What this engine answers otherwise than OPA, found in its syntax tree, so that it is refused and never served."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from extproc.adapters.regorus.builtins import x509
from extproc.adapters.regorus.builtins.added import PLAIN_TEMPLATE
from extproc.adapters.regorus.builtins.x509 import LARGE_FIELDS
from extproc.errors import Fault

Node = Any

DIFFERING: Final[Mapping[str, str]] = {
    "json.match_schema": "check what the policy needs of the document itself",
    "json.verify_schema": "check what the policy needs of the document itself",
    "yaml.marshal": "write JSON, with json.marshal",
    "yaml.is_valid": "give it JSON, and ask json.is_valid",
}
"""Builtins that have another answer in OPA, each with the way out."""

_LARGE: Final = re.compile(r"[0-9][eE]\+?[0-9]{3}")
_NEW_KEYWORDS: Final = frozenset({"and", "not", "or"})


def builtin_differs(name: str, file: str, line: int) -> Fault:
    """The fault of a call of one of ``DIFFERING``."""
    return _fault("policy_builtin_differs", f"{name} is answered otherwise by OPA", DIFFERING[name], file, line)


def differing(tree: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """What else has another answer in OPA, in the engine's syntax tree. Codes as ``check_sources`` says."""
    reads_certificates = _reads_certificates(tree)
    for entry in tree:
        file, module = entry["source"]["file"], entry["ast"]
        yield from _keywords(module, file)
        yield from _heads(module["rules"], file)
        yield from _templates(module["rules"], file)
        if reads_certificates:
            yield from _large_fields(module["rules"], file)
        yield from _numbers(module["rules"], file, entry["source"]["contents"].encode())
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


def _numbers(node: Node, file: str, text: bytes) -> Iterator[Fault]:
    """Numbers that the engine does not have as they are written: it takes 1e2 for 100, and has no 1e400."""
    match node:
        case list():
            for child in node:
                yield from _numbers(child, file, text)
        case {"Call": {"fcn": {"Var": {"value": "sprintf"}}, "params": [_, {"Array": {"items": items}}, *_]}}:
            spans = [item["Number"]["span"] for item in items if isinstance(item.get("Number", {}).get("value"), int)]
            for span in spans:
                if not text[span["start"] : span["end"]].lstrip(b"-").isdigit():
                    message = "OPA prints a whole number otherwise that is written as a fraction or with an exponent"
                    yield _fault("policy_construct_differs", message, "write it as it is printed", file, span["line"])
        case {
            "Call": {
                "fcn": {"RefDot": {"refr": {"Var": {"value": "json"}}, "field": [_, "unmarshal"]}},
                "params": [{"String": {"value": document}} | {"RawString": {"value": document}}, *_],
            }
        } if _LARGE.search(document):
            message = "the engine has no number with an exponent of three digits"
            yield _fault("policy_construct_differs", message, "write a smaller one", file, _line(node))
    if isinstance(node, dict):
        for child in node.values():
            yield from _numbers(child, file, text)


def _templates(rules: Node, file: str) -> Iterator[Fault]:
    """Texts in a file that calls ``strings.render_template`` with actions that it does not do here."""
    nodes = list(_nodes(rules))
    if any(node.get("field", [None, ""])[1] == "render_template" for node in nodes):
        for node in nodes:
            text = node.get("value")
            if "span" in node and isinstance(text, str) and "{{" in text and not PLAIN_TEMPLATE.fullmatch(text):
                message = "strings.render_template knows no actions but names here"
                yield _fault("policy_construct_differs", message, "write sprintf", file, _line(node))


def _large_fields(rules: Node, file: str) -> Iterator[Fault]:
    """Fields with numbers over 64 bits of what may be a certificate. ``SerialNumber`` of a name is a text."""
    for node in _nodes(rules):
        match node:
            case {"refr": owner, "field": [_, str(field)]} | {"refr": owner, "index": {"String": {"value": field}}}:
                names = _fields(owner)
                if field in LARGE_FIELDS and names[-1] not in ("Subject", "Issuer") and names[0] != "input":
                    message = f"{field} of a certificate or a key is a number that the engine does not have"
                    way_out = "compare crypto.sha256 of its field Raw"
                    yield _fault("policy_construct_differs", message, way_out, file, _line(node))


def _reads_certificates(tree: Sequence[Mapping[str, Any]]) -> bool:
    """Whether certificates or keys are taken apart anywhere."""
    nodes = (node for entry in tree for node in _nodes(entry["ast"]["rules"]))
    return any(node.get("field", [None, ""])[1] in _CERTIFICATES for node in nodes)


_CERTIFICATES: Final = frozenset(builtin.name.rpartition(".")[2] for builtin in x509.BUILTINS)


def _nodes(node: Node) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from _nodes(child)
    elif isinstance(node, list):
        for child in node:
            yield from _nodes(child)


def _within(node: Node, file: str, bound: set[str]) -> Iterator[Fault]:
    """What differs in a rule's expressions; ``bound`` names have a value there."""
    if isinstance(node, list):
        for child in node:
            yield from _within(child, file, bound)
    if not isinstance(node, dict):
        return
    match node:
        case {"Func": {"args": [*arguments]}} if "template_string" in str(arguments):
            message = "a text with expressions is a parameter of a function"
            way_out = "compare with it in the body"
            yield _fault("policy_construct_differs", message, way_out, file, _line(node))
        case {"Call": {"fcn": {"Var": {"value": "walk"}}, "params": [_]}}:
            way_out = "write walk(x, [path, value])"
            yield _fault("policy_construct_differs", "walk(x) has another value in OPA", way_out, file, _line(node))
        case {"AssignExpr": {"op": "ColEq", "lhs": left}} if not _is_pattern(left):
            message = "OPA assigns by := to names alone, and here stands a value"
            yield _fault("policy_construct_differs", message, "write =", file, _line(node))
        case {"stmts": list(statements)}:
            yield from _negations(statements, file, bound)
    for child in node.values():
        yield from _within(child, file, bound)


def _is_pattern(left: Node) -> bool:
    """Whether OPA assigns to it: a name, or arrays and values of objects that are such."""
    match left:
        case {"Array": {"items": items}}:
            return all(map(_is_pattern, items))
        case {"Object": {"fields": fields}}:
            return all(_is_pattern(value) for _, _, value in fields)
    return "Var" in left


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
    """The parts of a reference; None for one that is not written out, and for what a call and the like give."""
    found: list[Any] = []
    while "RefDot" in node or "RefBrack" in node:
        kind, content = next((kind, node[kind]) for kind in ("RefDot", "RefBrack") if kind in node)
        index = content.get("index", {})
        found.append(content["field"][1] if kind == "RefDot" else index.get("String", {}).get("value"))
        node = content["refr"]
    return [node.get("Var", {}).get("value"), *reversed(found)]


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
