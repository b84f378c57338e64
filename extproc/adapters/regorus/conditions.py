"""The definitions of rules, each with its conditions as they are written: read from the engine's syntax tree.

A condition is a statement of a body. Which of its names have a value once the conditions before it hold, which parts
of it have a value to show, and which functions it calls, is found here; what holds is for ``why``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from extproc.adapters.regorus.rego_ast import OWN_NAMES, Module, Node, Path, resolve_call

_STRINGS: Final = ("String", "RawString")
_REFERENCES: Final = ("Var", "RefDot", "RefBrack")
_VALUES: Final = (*_REFERENCES, "Call")


class CallInCondition(NamedTuple):
    """A call of ``path``, were it a function of the policies, with its arguments as they are written."""

    path: Path
    arguments: tuple[str, ...]


class RuleCondition(NamedTuple):
    """One statement. ``text`` is all of it, ``changes`` its ``with``; ``shown`` are the parts that have a value of use.

    ``names`` are those that it refers to, ``gives`` those that it can give a value, ``uses`` the paths below data that
    it refers to. ``can_fail``: a declaration cannot.
    """

    text: str
    line: int
    changes: str
    shown: tuple[tuple[str, frozenset[str]], ...]
    calls: tuple[tuple[CallInCondition, frozenset[str]], ...]
    names: frozenset[str]
    gives: frozenset[str]
    uses: frozenset[Path]
    can_fail: bool


class Body(NamedTuple):
    """The conditions for one value; ``value`` is the last of them: that the value is there."""

    line: int
    is_else: bool
    conditions: tuple[RuleCondition, ...]
    value: RuleCondition | None


class Definition(NamedTuple):
    """One definition of the rule or function at ``path``; ``parameters`` as they are written, None for a rule.

    A default has no bodies.
    """

    path: Path
    file: str
    line: int
    parameters: tuple[str, ...] | None
    bound: frozenset[str]
    bodies: tuple[Body, ...]


def read_definitions(tree: Iterable[Mapping[str, Any]], modules: Sequence[Module]) -> list[tuple[Module, Definition]]:
    """The definitions in the engine's syntax tree, with the modules that they are in, in the order of the files."""
    found = []
    for entry, module in zip(tree, modules, strict=True):
        reader = _Reader(entry["source"]["contents"].encode(), module)
        found += [(module, reader.definition(rule)) for rule in entry["ast"]["rules"]]
    return found


def read_statements(entry: Mapping[str, Any], module: Module) -> list[RuleCondition]:
    """The conditions of the one rule of a file, as they are written."""
    (rule,) = entry["ast"]["rules"]
    reader = _Reader(entry["source"]["contents"].encode(), module)
    return [reader.condition(statement) for statement in rule["Spec"]["bodies"][0]["query"]["stmts"]]


class _Reader:
    """Reads the rules of one file."""

    def __init__(self, text: bytes, module: Module) -> None:
        self._text = text
        self._module = module

    def definition(self, rule: Node) -> Definition:
        (kind, content), *_ = rule.items()
        head = content if kind == "Default" else next(iter(content["head"].values()))
        name, line = self._path(head["refr"])
        parameters = head.get("args") if kind == "Default" or "Func" in content["head"] else None
        parameters = parameters or None
        return Definition(
            path=name,
            file=self._module.file,
            line=line,
            parameters=None if parameters is None else tuple(map(self._exact, parameters)),
            bound=frozenset(_names(parameters or ())),
            bodies=() if kind == "Default" else tuple(self._bodies(content, head)),
        )

    def _bodies(self, content: Node, head: Node) -> Iterator[Body]:
        if not content["bodies"]:
            yield Body(content["span"]["line"], False, (), self._value(head.get("assign"), head))
        for body in content["bodies"]:
            assigned = body["assign"] if body["is_else"] else head.get("assign")
            conditions = tuple(self.condition(statement) for statement in body["query"]["stmts"])
            yield Body(body["span"]["line"], body["is_else"], _in_order(conditions), self._value(assigned, head))

    def _value(self, assigned: Node | None, head: Node) -> RuleCondition | None:
        """That the value of a definition is there, as a condition; None where it is written out."""
        value = head.get("key") if assigned is None else assigned["value"]
        if value is None or (not any(_names([value])) and not any(_all_of("Call", value))):
            return None
        return RuleCondition(
            text=self._exact(value),
            line=_span(value)["line"],
            changes="",
            shown=tuple(self._shown(value)),
            calls=tuple(self._calls(value)),
            names=frozenset(_names([value])),
            gives=frozenset(),
            uses=frozenset(self._uses(value)),
            can_fail=True,
        )

    def condition(self, statement: Node) -> RuleCondition:
        """A statement of a body."""
        literal = statement["literal"]
        (kind, content), *_ = literal.items()
        text = self._text_at(*self._extent(statement))
        modifiers = statement.get("with_mods") or []
        changes = self._text_at(modifiers[0]["span"]["start"], self._extent(statement)[1]) if modifiers else ""
        whole = content.get("expr") if kind in ("Expr", "NotExpr") else None
        shown = self._shown(content if whole is None else whole, whole=True)
        return RuleCondition(
            text=text,
            line=statement["span"]["line"],
            changes=changes,
            shown=() if kind == "SomeVars" else tuple(dict(shown).items()),
            calls=() if modifiers else tuple(self._calls(content)),
            names=frozenset(_names([statement])),
            gives=frozenset(self._gives(literal)),
            uses=frozenset() if modifiers else frozenset(self._uses(content)),
            can_fail=kind != "SomeVars",
        )

    def _shown(self, node: Node, *, whole: bool = False) -> Iterator[tuple[str, frozenset[str]]]:
        """The parts of an expression whose values say why it fails, each with the names in it."""
        if isinstance(node, list):
            for child in node:
                yield from self._shown(child)
            return
        if not isinstance(node, dict):
            return
        kind = next((kind for kind in _VALUES if isinstance(node.get(kind), dict)), None)
        if kind is None:
            assigns = node.get("AssignExpr") if node.get("AssignExpr", {}).get("op") == "ColEq" else None
            for child in [assigns["rhs"]] if assigns else node.values():
                yield from self._shown(child)
            return
        content = node[kind]
        bare = kind == "Var" and content["value"] in ("input", "data", "_")
        if not bare and not (whole and kind == "Call"):
            yield self._exact(node), frozenset(_names([node]))
        if kind == "Call":
            yield from self._shown(content["params"])
        while kind in ("RefDot", "RefBrack"):
            if kind == "RefBrack" and not any(string in content["index"] for string in _STRINGS):
                yield from self._shown(content["index"])
                yield self._exact(content["refr"]), frozenset(_names([content["refr"]]))
            node = content["refr"]
            kind = next((kind for kind in _VALUES if isinstance(node.get(kind), dict)), "")
            content = node.get(kind, {})

    def _calls(self, node: Node) -> Iterator[tuple[CallInCondition, frozenset[str]]]:
        for call in _all_of("Call", node):
            path = _flat(call["fcn"])
            if path is not None:
                arguments = tuple(map(self._exact, call["params"]))
                called = CallInCondition(resolve_call(self._module, path), arguments)
                yield called, frozenset(_names(call["params"]))

    def _uses(self, node: Node) -> Iterator[Path]:
        for reference in _references(node):
            path = _flat(reference)
            if path is not None and path[0] != "input":
                yield resolve_call(self._module, path)

    def _gives(self, literal: Node) -> Iterator[str]:
        """The names that a statement can give a value, itself and not within a comprehension."""
        match literal:
            case {"SomeVars": {"vars": spans}}:
                yield from (self._text_at(span["start"], span["end"]) for span in spans)
            case {"SomeIn": {"key": key, "value": value}}:
                yield from _names([key, value])
            case {"Expr": {"expr": expression}}:
                yield from _given(expression)

    def _path(self, node: Node) -> tuple[Path, int]:
        flat = _flat(node)
        assert flat is not None
        return (*self._module.package, *flat), _span(node)["line"]

    def _exact(self, node: Node) -> str:
        return self._text_at(*self._extent(node))

    def _extent(self, node: Node) -> tuple[int, int]:
        """Where an expression begins and ends. The tree leaves out the quotes of strings, and most of an object."""
        span = _span(node)
        start, end = span["start"], span["end"]
        strings = [content["span"] for kind in _STRINGS for content in _all_of(kind, node)]
        end += any(each["end"] == end for each in strings)
        fields = node["Object"]["fields"] if "Object" in node else []
        if fields:
            return self._text.rfind(b"{", 0, self._extent(fields[0][1])[0]), end
        return start - any(each["start"] == start for each in strings), end

    def _text_at(self, start: int, end: int) -> str:
        return self._text[start:end].decode()


def _in_order(conditions: Sequence[RuleCondition]) -> tuple[RuleCondition, ...]:
    """As they are written, but what gives a name its value comes before what needs it."""
    given = frozenset[str]().union(*(condition.gives for condition in conditions))
    waiting, ordered, known = list(conditions), list[RuleCondition](), set[str]()
    while waiting:
        ready = next((each for each in waiting if (each.names & given) - each.gives <= known), waiting[0])
        waiting.remove(ready)
        ordered.append(ready)
        if ready.can_fail:  # a declaration gives no value
            known |= ready.gives
    return tuple(ordered)


def _span(node: Node) -> Mapping[str, int]:
    if "span" in node:
        return node["span"]  # type: ignore[no-any-return]
    return next(iter(node.values()))["span"]  # type: ignore[no-any-return]


def _all_of(kind: str, node: Node) -> Iterator[Node]:
    if isinstance(node, dict):
        if isinstance(node.get(kind), dict):
            yield node[kind]
        for child in node.values():
            yield from _all_of(kind, child)
    elif isinstance(node, list):
        for child in node:
            yield from _all_of(kind, child)


def _references(node: Node) -> Iterator[Node]:
    """Every reference in full, those in its brackets too; what is called is none."""
    if isinstance(node, list):
        for child in node:
            yield from _references(child)
    elif isinstance(node, dict):
        kind = next((kind for kind in _VALUES if isinstance(node.get(kind), dict)), None)
        if kind == "Call":
            yield from _references(node[kind]["params"])
        elif kind is not None:
            yield node
            while kind in _REFERENCES:
                yield from _references(node[kind].get("index"))
                node = node[kind].get("refr")
                kind = next((kind for kind in _VALUES if isinstance((node or {}).get(kind), dict)), None)
            yield from _references(node if kind == "Call" else None)
        else:
            for child in node.values():
                yield from _references(child)


def _names(node: Node) -> Iterator[str]:
    """Every name in an expression but those of what is called."""
    if isinstance(node, dict):
        if isinstance(node.get("Var"), dict):
            yield node["Var"]["value"]
        for name, child in node.items():
            if name != "fcn":
                yield from _names(child)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from _names(child)


def _given(expression: Node) -> Iterator[str]:
    """Names that an expression may give a value: the sides of a unification, unbound indexes, a result."""
    match _without_comprehensions(expression):
        case {"AssignExpr": {"op": "ColEq", "lhs": left, "rhs": right}}:
            yield from _names([left])
            yield from _indexes(right)
        case {"AssignExpr": {"lhs": left, "rhs": right}}:
            yield from (name for side in (left, right) if not _all_calls(side) for name in _names([side]))
            yield from _indexes([left, right])
        case {"Call": {"params": [*_, output]} as call} if any(kind in output for kind in ("Var", "Array")):
            yield from _names([output])
            yield from _indexes(call)
        case other:
            yield from _indexes(other)


def _without_comprehensions(node: Node) -> Node:
    """An expression without what has names of its own."""
    if isinstance(node, dict):
        return {name: _without_comprehensions(child) for name, child in node.items() if name not in OWN_NAMES}
    return [_without_comprehensions(child) for child in node] if isinstance(node, list) else node


def _indexes(node: Node) -> Iterator[str]:
    for content in _all_of("RefBrack", node):
        if "Var" in content["index"]:
            yield content["index"]["Var"]["value"]


def _all_calls(node: Node) -> bool:
    return isinstance(node, dict) and "Call" in node


def _flat(node: Node) -> Path | None:
    """The parts of a reference before the first that is not written out; None where it is none of a name."""
    parts: list[str | None] = []
    while isinstance(node, dict):
        if "Var" in node:
            found = [node["Var"]["value"], *reversed(parts)]
            known = found[: found.index(None)] if None in found else found
            return tuple(str(part) for part in known)
        kind = next((kind for kind in ("RefDot", "RefBrack") if kind in node), None)
        if kind is None:
            return None
        content = node[kind]
        index = content.get("index", {})
        constant = next((index[string]["value"] for string in _STRINGS if string in index), None)
        parts.append(content["field"][1] if kind == "RefDot" else constant)
        node = content["refr"]
    return None
