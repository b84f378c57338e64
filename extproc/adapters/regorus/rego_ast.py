"""What a set of Rego modules refers to, read from the engine's own syntax tree: functions, data, and the input.

The engine loads a policy that calls what does not exist, reads the clock or never ends its recursion, and fails (or
dies) when it is evaluated. Here such a policy is found before. The input paths that a package can read let the
request path build only those. Everything errs to one side: a reference that cannot be followed counts as a read of
all that it could reach.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple

Path = tuple[str, ...]
Node = Any
OWN_NAMES = frozenset({"ArrayCompr", "SetCompr", "ObjectCompr"})
"""What has names of its own, which get their values within it."""


class Reference(NamedTuple):
    """``root.a["b"][x].c``: the constant parts before the first that is not, and whether there was one."""

    root: str
    parts: Path
    exact: bool
    line: int


class Call(NamedTuple):
    """A call of ``name`` by the function or rule ``caller`` (a path below ``data``).

    The name stands in the file from byte ``start`` to before byte ``end``. ``given`` counts the arguments, None where
    it is named and not called. ``alone``: the call is a condition by itself, whose last argument may be the result.
    """

    name: Path
    line: int
    caller: Path
    start: int
    end: int
    given: int | None = None
    alone: bool = False


class RuleValue(NamedTuple):
    """A value that the rule at ``path`` has where one of its definitions holds, as far as it is written out.

    ``allows``: it is an object in which ``allow`` is true. ``is_true``: it is true itself. ``always``: nothing has to
    hold for it. ``fields`` are those of an object whose names are written out, each with its line.
    """

    path: Path
    allows: bool
    is_true: bool
    always: bool
    fields: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True)
class Module:
    """One file's package, imports, rules and references; ``bound`` names can have a value from within the file.

    ``complete`` are the rules that give their whole value, with their first line; others add to an object or a set.
    ``reads`` are paths of the input, and ``data`` those below data, with a line of each; ``parameters`` how many each
    function has; ``open_defaults`` lines of defaults that are not constant.
    ``uses`` are what each rule or function may refer to, as (its path, a path below data), ``depends`` those of them
    that no name of its own stands for, as (its path, a path, whether that is the whole of the reference).
    ``defaults`` and ``certain`` have the lines of rules by their path: of their default, and of a definition that gives
    them a value in any case.
    """

    file: str
    package: Path
    imports: Mapping[str, Path]
    rules: list[tuple[Path, int]] = field(default_factory=list)
    complete: dict[Path, int] = field(default_factory=dict)
    answers: list[RuleValue] = field(default_factory=list)
    functions: list[tuple[Path, int]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    replaced: list[Call] = field(default_factory=list)
    reads: dict[Path, int] = field(default_factory=dict)
    open_defaults: list[int] = field(default_factory=list)
    data: dict[Path, int] = field(default_factory=dict)
    parameters: dict[Path, int] = field(default_factory=dict)
    uses: set[tuple[Path, Path]] = field(default_factory=set)
    depends: set[tuple[Path, Path, bool]] = field(default_factory=set)
    defaults: dict[Path, int] = field(default_factory=dict)
    certain: dict[Path, int] = field(default_factory=dict)
    names: list[tuple[str, int]] = field(default_factory=list)
    bound: set[str] = field(default_factory=set)


def read_modules(tree: Iterable[Mapping[str, Any]]) -> list[Module]:
    """The modules in the engine's syntax tree (``get_ast_as_json``, decoded)."""
    return [_Walker(entry["source"], entry["ast"]).module for entry in tree]


def reachable(modules: Sequence[Module], entry: Path) -> list[Module]:
    """The modules that the rule at ``entry`` may refer to, by way of any package."""
    packages = defaultdict(list)
    for module in modules:
        packages[module.package].append(module)
    waiting = [package for package in packages if _related(package, entry)]
    seen = set(waiting)
    found: list[Module] = []
    while waiting:
        for module in packages[waiting.pop()]:
            found.append(module)
            for package in packages:
                if package not in seen and any(_related(package, path) for path in module.data):
                    seen.add(package)
                    waiting.append(package)
    return found


def has_value(modules: Sequence[Module], data: Any, entry: Path) -> bool:
    """Whether ``data.<entry>`` can have a value: of a rule, of one above or below it, of a package, or of the data."""
    for module in modules:
        if module.package[: len(entry)] == entry or any(_related(path, entry) for path, _ in module.rules):
            return True
    for part in entry:
        if not isinstance(data, Mapping) or part not in data:
            return False
        data = data[part]
    return True


def decisions(modules: Sequence[Module]) -> set[Path]:
    """What is called ``decision``: a rule, or the object that rules or a package add up to."""
    found = set()
    for module in modules:
        for path in (module.package, *(path for path, _ in module.rules)):
            found |= {path[: depth + 1] for depth, part in enumerate(path) if depth and part == "decision"}
    return found


def parts(modules: Sequence[Module], entry: Path) -> Iterator[tuple[Module, str, int]]:
    """The fields of the object at ``entry``, written out in a value of it or as rules below it, each with its line."""
    depth = len(entry)
    for module in modules:
        for path, line in module.rules:
            if path[:depth] == entry and len(path) > depth:
                yield module, path[depth], line
        for answer in module.answers:
            if answer.path == entry:
                for name, line in answer.fields:
                    yield module, name, line


def can_deny(modules: Sequence[Module], entry: Path) -> bool:
    """Whether ``data.<entry>`` can have another value than an object in which ``allow`` is true."""
    answers = [answer for module in modules for answer in module.answers]
    whole = [answer for answer in answers if answer.path == entry[: len(answer.path)]]
    if whole:
        return not all(answer.path == entry and answer.allows for answer in whole)
    # An object of parts is there whatever holds, and without ``allow`` it is as good as a denial.
    depth = len(entry)
    allow = [answer for answer in answers if answer.path[: depth + 1] == (*entry, "allow")]
    parts = any(answer.path[:depth] == entry for answer in answers)
    allows = any(answer.always for answer in allow) and all(
        answer.is_true and len(answer.path) == depth + 1 for answer in allow
    )
    return parts and not allows


def conflicting_rules(modules: Sequence[Module]) -> Iterator[tuple[Module, Path, int]]:
    """Rules that give their whole value though another rule, or a package, gives a part of it; with their line."""
    above = {path[:depth] for module in modules for path in _defined(module) for depth in range(len(path))}
    packages = {module.package for module in modules}
    for module in modules:
        for path, line in module.complete.items():
            if path in above or path in packages:
                yield module, path, line


def _defined(module: Module) -> Iterator[Path]:
    yield module.package
    yield from (path for path, _ in (*module.rules, *module.functions))


def recursive_rules(modules: Sequence[Module]) -> Iterator[tuple[Module, Path, int]]:
    """Rules and functions that can come to depend on themselves, with the line of their first definition.

    What a reference may lead to beyond its constant part is passed over, so that none is named which OPA takes.
    """
    lines = [(module, path, line) for module in modules for path, line in (*module.rules, *module.functions)]
    defined = {path for _, path, _ in lines}
    below: dict[Path, set[Path]] = defaultdict(set)
    for path in defined:
        for depth in range(len(path)):
            below[path[:depth]].add(path)
    edges: dict[Path, set[Path]] = defaultdict(set)
    for module in modules:
        replaced = ((call.caller, resolve_call(module, call.name), True) for call in module.replaced)
        for caller, path, exact in (*module.depends, *replaced):
            edges[caller] |= {path[: depth + 1] for depth in range(len(path))} & defined
            edges[caller] |= below.get(path, set()) if exact else set()
    reported: set[tuple[str, Path]] = set()
    for module, path, line in lines:
        if (module.file, path) not in reported and _reaches(edges, path, path):
            reported.add((module.file, path))
            yield module, path, line


def unknown_names(modules: Sequence[Module]) -> Iterator[tuple[Module, str, int]]:
    """Names that nothing in their file could give a value, with the line of their first use."""
    of_package: dict[Path, set[str]] = defaultdict(set)
    for module in modules:
        depth = len(module.package)
        of_package[module.package] |= {path[depth] for path, _ in (*module.rules, *module.functions)}
    for module in modules:
        known = {"input", "data", "_", *module.bound, *module.imports, *of_package[module.package]}
        for name, line in module.names:
            if name not in known:
                known.add(name)
                yield module, name, line


def resolve_call(module: Module, name: Path) -> Path:
    """The path below ``data`` that a called name stands for, were it a function of the policies."""
    if name[0] == "data":
        return name[1:]
    imported = module.imports.get(name[0])
    if imported is not None and imported[0] == "data":
        return (*imported[1:], *name[1:])
    return (*module.package, *name)


def is_builtin(module: Module, name: Path, functions: Container[Path]) -> bool:
    """Whether a called name is a builtin's if it is anything: none of the policies, whose ``functions`` these are."""
    return name[0] != "data" and name[0] not in module.imports and resolve_call(module, name) not in functions


def _related(a: Path, b: Path) -> bool:
    """Whether one path is the other or leads to it."""
    return a[: len(b)] == b[: len(a)]


def _reaches(edges: Mapping[Path, set[Path]], start: Path, goal: Path) -> bool:
    waiting, seen = list(edges.get(start, ())), set[Path]()
    while waiting:
        at = waiting.pop()
        if at == goal:
            return True
        if at not in seen:
            seen.add(at)
            waiting.extend(edges.get(at, ()))
    return False


class _Walker:
    """Walks one module. Within a rule scopes are not modelled: a name stands for all that it stands for there."""

    def __init__(self, source: Mapping[str, str], tree: Mapping[str, Any]) -> None:
        package = _flatten(tree["package"]["refr"])
        assert package is not None
        self._aliases: dict[str, set[Path]] = defaultdict(set)
        self._used: set[str] = set()
        self._alone: set[int] = set()
        self._own: set[str] = set()
        self._head: Node = None
        self._caller: Path = ()
        self._text = source["contents"].encode()
        self._imports = dict(self._imported(tree["imports"]))
        self.module = Module(source["file"], (package[0].root, *package[0].parts), self._imports)
        self._collect_bound(tree["rules"])
        for rule in tree["rules"]:
            self._rule(rule)

    def _imported(self, imports: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Path]]:
        """The name and the path of each import."""
        for entry in imports:
            flat = _flatten(entry["refr"])
            if flat is not None:
                path = (flat[0].root, *flat[0].parts)
                yield (self._at(entry["as"]) if entry.get("as") else path[-1]), path

    def _at(self, span: Mapping[str, int]) -> str:
        """The text at a span: how the tree gives names that are only declared."""
        return self._text[span["start"] : span["end"]].decode()

    def _collect_bound(self, node: Node, *, negated: bool = False) -> None:
        """Notes every name that stands where a name can get a value; within a ``not`` it has to have one before."""
        for child in _children(node):
            within = negated
            if isinstance(child, dict):
                within = (negated or "NotExpr" in child) and not OWN_NAMES & child.keys()
                self.module.bound.update(() if within else self._binds(child))
            self._collect_bound(child, negated=within)

    def _binds(self, node: Mapping[str, Any]) -> Iterator[str]:
        match node:
            case {"Every": {"key": key, "value": value}}:
                yield from (self._at(span) for span in (key, value) if span)
            case {"SomeIn": {"key": key, "value": value}}:
                yield from _variables([key, value])
            case {"AssignExpr": {"op": operator, "lhs": left, "rhs": right}}:
                yield from _variables([left] if operator == "ColEq" else [left, right])
            case {"RefBrack": {"index": index}}:
                yield from _variables([index])
            case {"Call": {"params": [_, *_, output]}}:
                yield from _variables([output])
            case {"Func": {"args": arguments}} | {"Default": {"args": arguments}}:
                yield from _variables(arguments)

    def _declared(self, node: Node) -> Iterator[str]:
        """The names that a rule has of its own, whatever else has them."""
        for child in _children(node):
            match child:
                case {"SomeVars": {"vars": spans}}:
                    yield from map(self._at, spans)
                case {"AssignExpr": {"op": "ColEq"}} | {"Every": _} | {"SomeIn": _} | {"Func": _} | {"Default": _}:
                    yield from self._binds(child)
            yield from self._declared(child)

    def _depend(self, reference: Reference) -> None:
        if reference.root not in self._own:
            path = resolve_call(self.module, (reference.root, *reference.parts))
            self.module.depends.add((self._caller, path, reference.exact))

    def _collect_aliases(self, node: Node) -> None:
        """Notes every ``x := input.a.b``: what is read is then what is read of x."""
        for child in _children(node):
            alias = _alias(child)
            if alias is not None:
                name, reference = alias
                path = self._input_path(reference)
                if path is not None:
                    self._aliases[name].add(path)
            self._collect_aliases(child)

    def _input_path(self, reference: Reference) -> Path | None:
        """Where in the input a reference by ``input`` itself or by an import leads, local names left aside."""
        if reference.root == "input":
            return reference.parts
        imported = self._imports.get(reference.root)
        if imported is not None and imported[0] == "input":
            return (*imported[1:], *reference.parts)
        return None

    def _rule(self, rule: Node) -> None:
        (kind, content), *_ = rule.items()
        head = content if kind == "Default" else next(iter(content["head"].values()))
        flat = _flatten(head["refr"])
        assert flat is not None
        reference = flat[0]
        path = (*self.module.package, reference.root, *reference.parts)
        is_function = bool(content.get("args")) if kind == "Default" else "Func" in content["head"]
        (self.module.functions if is_function else self.module.rules).append((path, reference.line))
        if is_function:
            self.module.parameters[path] = len(head.get("args") or ())
        if kind == "Default" and not _is_constant(content["value"]):
            self.module.open_defaults.append(reference.line)
        if not is_function and reference.exact and "Set" not in content.get("head", {}):
            self.module.complete.setdefault(path, reference.line)
        values = list(_values(kind, content, head))
        self.module.answers += [_answer(path, *value) for value in values]
        if kind == "Default":
            self.module.defaults[path] = reference.line
        elif path in self.module.complete and _is_certain(values):
            self.module.certain.setdefault(path, reference.line)
        self._caller = path
        self._aliases.clear()
        self._used.clear()
        self._own, self._head = set(self._declared(rule)), head["refr"]
        self._collect_aliases(rule)
        self._walk(rule)
        for name in self._aliases.keys() - self._used:
            # Assigned and never used, it still asks whether the value is there.
            for path in self._aliases[name]:
                self.module.reads.setdefault(path, reference.line)

    def _walk(self, node: Node) -> None:
        for child in _children(node):
            if not isinstance(child, dict):
                self._walk(child)
                continue
            self._alone.update(_calls_alone(child))
            if (alias := _alias(child)) is not None and self._input_path(alias[1]) is not None:
                continue
            if "Call" in child and isinstance(child["Call"], dict):
                self._call(child["Call"])
            elif "with_mods" in child:
                self._with(child)
            elif "Func" in child:
                # The name of a parameter is not a use of what else has that name.
                function = child["Func"]
                self._walk({**function, "args": [arg for arg in function["args"] if "Var" not in arg]})
            elif (flat := _flatten(child)) is not None:
                self._refer(flat[0])
                if child is not self._head:
                    self._depend(flat[0])
                self._walk(flat[1])
            else:
                self._walk(child)

    def _call(self, call: Mapping[str, Any]) -> None:
        flat = _flatten(call["fcn"])
        if flat is not None:
            name = (flat[0].root, *flat[0].parts)
            found = self._call_of(flat[0], call["fcn"])
            self.module.calls.append(found._replace(given=len(call["params"]), alone=id(call) in self._alone))
            self.module.uses.add((self._caller, resolve_call(self.module, name)))
            self._depend(flat[0])
            self._note_data(flat[0])
            if name == ("object", "get") and self._object_get(call["params"]):
                return
        else:
            self._walk([call["fcn"]])
        self._walk(call["params"])

    def _call_of(self, reference: Reference, node: Mapping[str, Any]) -> Call:
        (content,) = node.values()
        span = content["span"]
        name = (reference.root, *reference.parts)
        return Call(name, reference.line, self._caller, span["start"], span["end"])

    def _object_get(self, params: Sequence[Node]) -> bool:
        """``object.get(input.features, "k", d)`` reads ``input.features.k`` alone."""
        flat = _flatten(params[0]) if len(params) == 3 else None
        keys = _constant_keys(params[1]) if flat is not None else None
        if flat is None or keys is None or not flat[0].exact:
            return False
        self._refer(flat[0]._replace(parts=(*flat[0].parts, *keys)))
        self._depend(flat[0])
        self._walk(params[2:])
        return True

    def _with(self, statement: Mapping[str, Any]) -> None:
        """``with TARGET as VALUE``: either may be a function without being a call."""
        self._walk({key: value for key, value in statement.items() if key != "with_mods"})
        for change in statement["with_mods"]:
            for side in (change["refr"], change["as"]):
                flat = _flatten(side)
                if flat is not None:
                    self.module.replaced.append(self._call_of(flat[0], side))
            names = len(self.module.names)
            self._walk([change["refr"], change["as"]])
            del self.module.names[names:]  # they may be builtins

    def _refer(self, reference: Reference) -> None:
        self._used.add(reference.root)
        self.module.names.append((reference.root, reference.line))
        self.module.uses.add((self._caller, resolve_call(self.module, (reference.root, *reference.parts))))
        path = self._input_path(reference)
        if path is not None:
            self.module.reads.setdefault(path, reference.line)
        for alias in self._aliases.get(reference.root, ()):
            self.module.reads.setdefault((*alias, *reference.parts), reference.line)
        self._note_data(reference)

    def _note_data(self, reference: Reference) -> None:
        if reference.root == "data":
            self.module.data.setdefault(reference.parts, reference.line)
        imported = self._imports.get(reference.root)
        if imported is not None and imported[0] == "data":
            self.module.data.setdefault((*imported[1:], *reference.parts), reference.line)


def _values(kind: str, rule: Mapping[str, Any], head: Mapping[str, Any]) -> Iterator[tuple[Node | None, bool]]:
    """Every value that a rule is given, and whether always; None is true, which is not written.

    The first body's value is the head's.
    """
    if kind == "Default":
        yield rule["value"], True
        return
    bodies = rule["bodies"] or [{"is_else": False, "query": {"stmts": []}}]
    for body in bodies:
        assigned = body["assign"] if body["is_else"] else head.get("assign")
        yield (assigned["value"] if assigned else None), not body["query"]["stmts"]


def _answer(path: Path, value: Node | None, always: bool) -> RuleValue:
    match value:
        case None | {"Bool": {"value": True}}:
            return RuleValue(path, allows=False, is_true=True, always=always)
        case {"Object": {"fields": fields}}:
            allow = [content for _, key, content in fields if _constant(key) == "allow"]
            written = all(_constant(key) is not None for _, key, _ in fields)
            allows = written and allow != [] and all(content.get("Bool", {}).get("value") is True for content in allow)
            named = tuple((name, span["line"]) for span, key, _ in fields if (name := _constant(key)) is not None)
            return RuleValue(path, allows=allows, is_true=False, always=always, fields=named)
    return RuleValue(path, allows=False, is_true=False, always=always)


def _is_certain(values: Sequence[tuple[Node | None, bool]]) -> bool:
    """Whether one of a chain of values is there whatever holds."""
    chain = list(takewhile(lambda value: value[0] is None or _is_constant(value[0]), values))
    return any(always for _, always in chain)


def _is_constant(node: Node) -> bool:
    """Whether a value refers to nothing outside of a comprehension."""
    if isinstance(node, dict):
        if any(name.endswith("Compr") for name in node):
            return True
        if any(name in node for name in ("Var", "RefDot", "RefBrack", "Call")):
            return False
    return all(_is_constant(child) for child in _children(node))


def _calls_alone(literal: Node) -> Iterator[int]:
    """The call that a condition is, if it is one, as its identity in the tree."""
    for kind in ("Expr", "NotExpr"):
        expression = literal[kind].get("expr") if isinstance(literal.get(kind), dict) else None
        if isinstance(expression, dict) and isinstance(expression.get("Call"), dict):
            yield id(expression["Call"])


def _children(node: Node) -> Iterable[Node]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _variables(node: Node) -> Iterator[str]:
    """Every name in an expression."""
    for child in _children(node):
        if isinstance(child, dict) and isinstance(child.get("Var"), dict):
            yield child["Var"]["value"]
        else:
            yield from _variables(child)


def _flatten(node: Node) -> tuple[Reference, list[Node]] | None:
    """A reference and the expressions in its brackets, or None for what is no reference to a name."""
    found: list[str | None] = []
    inner: list[Node] = []
    while isinstance(node, dict):
        if "RefDot" in node:
            content = node["RefDot"]
            found.append(content["field"][1])
        elif "RefBrack" in node:
            content = node["RefBrack"]
            index = content["index"]
            found.append(_constant(index))
            inner.append(index)
        elif "Var" in node and isinstance(node["Var"], dict):
            break
        else:
            return None
        node = content["refr"]
    else:
        return None
    found.reverse()
    exact = None not in found
    parts = found if exact else found[: found.index(None)]
    variable = node["Var"]
    constant = tuple(part for part in parts if part is not None)
    return Reference(variable["value"], constant, exact, variable["span"]["line"]), inner


def _constant(node: Node) -> str | None:
    """The text of a string that is written out."""
    for kind in ("String", "RawString"):
        if isinstance(node, dict) and kind in node:
            value: str = node[kind]["value"]
            return value
    return None


def _constant_keys(node: Node) -> Path | None:
    """The key, or the path of keys, that ``object.get`` looks up, if it is written out."""
    entries = node["Array"]["items"] if "Array" in node else [node]
    keys = [_constant(entry) for entry in entries]
    return tuple(key for key in keys if key is not None) if None not in keys else None


def _alias(node: Node) -> tuple[str, Reference] | None:
    """``x := a.b.c`` as (x, a.b.c), or None."""
    assign = node.get("AssignExpr") if isinstance(node, dict) else None
    if not isinstance(assign, dict) or assign["op"] != "ColEq" or "Var" not in assign["lhs"]:
        return None
    flat = _flatten(assign["rhs"])
    if flat is None or not flat[0].exact:
        return None
    return assign["lhs"]["Var"]["value"], flat[0]
