"""Every stable code of an error, with what it says and where it arises: read from the source, without running it.

An error is made by a call of something that has a parameter or a field ``code``: ``Fault``, ``InvalidInput.of``,
``Refusal`` and the helpers that modules have around them. What is given for ``code`` is followed to its literals,
what is given for ``message`` to its templates. A code that cannot be followed raises ``LookupError``: nothing is left
out in silence.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

LEFT_OUT: Final = ("_gen", "testing")
"""Generated code, and contracts for the tests of adapters."""

EXIT_CODES: Final = {"Refused": 1, "InvalidInput": 2, "Unreachable": 3}

READ: Final = frozenset({"code", "type"})
"""Keys of a code that another process or library gave, and that is on the page where that has it from."""

Expression = ast.expr | None
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Said(NamedTuple):
    """That a code is given: in which module, with which sentence (empty: nobody's own), in which class of error."""

    code: str
    module: str
    message: str
    error: str


@dataclass(frozen=True)
class Scope:
    """Where something stands: the function and what is called to run it, with its own names and what they are given."""

    function: Function | None = None
    called: str = ""
    names: Mapping[str, Sequence[ast.expr]] = field(default_factory=dict)

    def before(self, name: str, line: int) -> Sequence[ast.expr]:
        """What its own ``name`` may have been given last when ``line`` is reached: since it was read before."""
        assert self.function is not None
        given = sorted((value for value in self.names[name] if value.lineno <= line), key=lambda value: value.lineno)
        read = [
            each.lineno
            for each in ast.walk(self.function)
            if isinstance(each, ast.Name) and each.id == name and isinstance(each.ctx, ast.Load)
        ]
        since = max((at for at in read if given and at < given[-1].lineno), default=0)
        return [value for value in given if value.lineno > since] or given[-1:]

    @property
    def parameters(self) -> Sequence[str]:
        """The names of its parameters, as a caller counts them."""
        return _parameters(self.function) if self.function else ()


class Site(NamedTuple):
    """A call, and where it stands."""

    module: Module
    scope: Scope
    call: ast.Call


@dataclass(frozen=True)
class Maker:
    """Something that is called with a code: its parameters, their defaults, and its function if it is one."""

    parameters: Sequence[str]
    defaults: Mapping[str, ast.expr] = field(default_factory=dict)
    scope: Scope | None = None

    @property
    def method(self) -> bool:
        """Whether it is called on something."""
        return bool(self.scope and self.scope.function and _is_method(self.scope.function))


class Module:
    """A module of the package, ``name`` below it."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name = name
        self.constants = {name: value for statement in tree.body for name, value in _assigned(statement)}
        self.functions: dict[str, Scope] = {}
        self.makers: dict[str, Maker] = {}
        self.imports: set[str] = set()
        self.sites: list[Site] = []
        self.attributes: dict[str, tuple[Scope, ast.expr]] = {}
        self._walk(tree, Scope(), "")

    def _walk(self, tree: ast.AST, scope: Scope, owner: str) -> None:
        for node in ast.iter_child_nodes(tree):
            inner, within = scope, owner
            if isinstance(node, Function):
                inner = _scope_of(node, owner)
                self.functions[node.name] = inner
                if _takes_code(node):
                    self.makers[inner.called] = Maker(inner.parameters, _defaults(node), inner)
            elif isinstance(node, ast.ClassDef):
                within = node.name
                fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
                if any(ast.unparse(each) in ("code: str", "code: str = ''") for each in fields):
                    self.makers[node.name] = Maker([ast.unparse(each.target) for each in fields])
            elif isinstance(node, ast.ImportFrom) and node.module:
                self.imports.update(f"{node.module.removeprefix('extproc.')}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Call):
                self.sites.append(Site(self, scope, node))
            elif isinstance(node, ast.Assign):
                self.attributes.update({name: (scope, value) for name, value in _assigned(node)})
            self._walk(node, inner, within)


class Package:
    """All modules of the package whose folder is ``folder``."""

    def __init__(self, folder: Path) -> None:
        files = [file.relative_to(folder) for file in sorted(folder.rglob("*.py"))]
        self.modules = [
            Module(".".join(file.with_suffix("").parts), ast.parse((folder / file).read_text()))
            for file in files
            if not set(file.parts) & set(LEFT_OUT)
        ]
        self._ahead: list[Expression] = []
        self._calls: dict[str, list[Site]] = defaultdict(list)
        for module in self.modules:
            for site in module.sites:
                self._calls[_last(site.call.func)].append(site)

    def said(self) -> list[Said]:
        """Every code, once for each module, sentence and class of error, in order."""
        return sorted({said for module in self.modules for site in module.sites for said in self._said(site)})

    @cached_property
    def _makers(self) -> dict[str, Maker]:
        """What other modules may call, by its dotted name, and methods by their own."""
        found = {f"{module.name}.{name}": each for module in self.modules for name, each in module.makers.items()}
        return found | {name: each for module in self.modules for name, each in module.makers.items() if each.method}

    @cached_property
    def _constants(self) -> dict[str, ast.expr]:
        """Names that modules have from one another."""
        return {name: value for module in self.modules for name, value in module.constants.items() if name[0] != "_"}

    def _said(self, site: Site) -> Iterator[Said]:
        maker = self._maker(site)
        if maker is None:
            return
        given = _given(site.call, maker)
        if _passed_on(site, given.get("code")) == {"code"} and _passed_on(site, given.get("message")):
            yield from self._composed(site, maker, given)
            return
        messages = list(self._sentences(site, maker, given))
        for code in self._codes(site, given.get("code"), at_maker=True):
            for message in messages or [""]:
                yield Said(code, site.module.name, message, self._error(site, maker))

    def _composed(self, site: Site, maker: Maker, given: Mapping[str, ast.expr]) -> Iterator[Said]:
        """Codes that end with what a function is given, each with what is given beside it."""
        scope, error = site.scope, self._error(site, maker)
        (name,) = _passed_on(site, given["message"])
        for caller in self._calls[scope.called]:
            passed = _given(caller.call, Maker(scope.parameters))
            if not {"code", name} <= passed.keys():
                continue
            for end in sorted(set(self._codes(caller, passed["code"]))):
                codes = sorted(set(self._codes(site, _filled(given["code"], "code", end))))
                for message in self._templates(caller, passed[name]):
                    said = _template(given["message"]).replace(
                        f"{{{name}}}", _looked_up(caller, passed[name], message, end)
                    )
                    yield from (Said(code, caller.module.name, said, error) for code in codes)

    def _maker(self, site: Site) -> Maker | None:
        """What a call gives a code to; None if it is another call, or composes its code of what it is given."""
        name = _last(site.call.func)
        if name == "of":
            return self._makers["of"] if self._error(site, None) else None
        own = name in site.module.functions or name in site.module.makers
        maker = site.module.makers.get(name) if own else self._imported(site, name)
        return None if maker is None or (maker.scope is not None and _composes(maker.scope)) else maker

    def _imported(self, site: Site, name: str) -> Maker | None:
        if isinstance(site.call.func, ast.Attribute):
            return None if name.startswith("_") else self._makers.get(name)
        dotted = (each for each in site.module.imports if each.endswith(f".{name}"))
        return next((self._makers[each] for each in dotted if each in self._makers), None)

    def _error(self, site: Site, maker: Maker | None) -> str:
        """The class of the error that is made; empty where that is said elsewhere."""
        function = site.call.func
        if isinstance(function, ast.Attribute) and function.attr == "of" and _last(function.value) in EXIT_CODES:
            return _last(function.value)
        if maker is None or maker.scope is None or maker.scope.function is None:
            return ""
        inner = [each for each in site.module.sites if each.scope is maker.scope and each.call is not site.call]
        made = {self._error(each, None) for each in inner} - {""}
        return made.pop() if len(made) == 1 else ""

    def _codes(self, site: Site, given: Expression, *, at_maker: bool = False) -> Iterator[str]:
        """The literals of a code; none where it is passed on, from what is read itself, or stands for itself."""
        if given not in self._ahead:
            self._ahead.append(given)
            yield from self._literals(site, given, at_maker)
            self._ahead.remove(given)

    def _literals(self, site: Site, given: Expression, at_maker: bool) -> Iterator[str]:
        scope, module = site.scope, site.module
        match given:
            case ast.Constant(value=str(text)):
                yield from [text] if text else []
            case ast.IfExp():
                yield from self._codes(site, given.body)
                yield from self._codes(site, given.orelse)
            case ast.JoinedStr():
                parts = [list(self._codes(site, part)) for part in given.values]
                yield from map("".join, product(*parts))
            case ast.FormattedValue():
                yield from self._codes(site, given.value)
            case ast.Name(id=name) if name in scope.names:
                for value in scope.before(name, site.call.lineno):
                    yield from self._codes(site, value)
            case ast.Name(id=name) if name in scope.parameters:
                if name != "code" or not at_maker:
                    yield from self._passed(scope, name)
            case ast.Name(id=name) if name in module.constants or name in self._constants:
                yield from self._codes(site, module.constants.get(name) or self._constants[name])
            case ast.Attribute(value=ast.Name(id="self")) if ast.unparse(given) in module.attributes:
                where, value = module.attributes[ast.unparse(given)]
                yield from self._codes(site._replace(scope=where), value)
            case ast.Attribute(value=ast.Name(id="Reason")):
                yield given.attr.lower()
            case ast.Attribute(value=ast.Attribute(), attr="value"):
                yield from self._codes(site, given.value)
            case ast.Call(func=ast.Attribute(attr="get", value=table), args=[_, default]):
                yield from self._in_table(site, table)
                yield from self._codes(site, default)
            case ast.Subscript(value=ast.Name(id=name)) if name in module.constants:
                yield from self._in_table(site, given.value)
            case ast.Call(func=ast.Name(id=name)) if name in module.functions:
                inner = module.functions[name]
                for value in _returned(inner):
                    yield from self._codes(site._replace(scope=inner), value)
            case None:
                return
            case _ if not _is_read(given):
                raise LookupError(f"{module.name}:{given.lineno}: no literal for {ast.unparse(given)}")

    def _in_table(self, site: Site, table: ast.expr) -> Iterator[str]:
        """The codes that a table of the module has."""
        found = site.module.constants.get(_last(table))
        for value in found.values if isinstance(found, ast.Dict) else ():
            yield from self._codes(site, value)

    def _passed(self, scope: Scope, name: str) -> Iterator[str]:
        """The codes that a function is called with for its parameter ``name``."""
        assert scope.function is not None
        for site in self._calls[scope.called]:
            given = _given(site.call, Maker(scope.parameters, _defaults(scope.function)))
            if name in given and site.scope is not scope:
                yield from self._codes(site, given[name])

    def _sentences(self, site: Site, maker: Maker, given: Mapping[str, ast.expr]) -> Iterator[str]:
        """The sentences that a call gives with its code, or those that what it calls has for every code."""
        if "message" in maker.parameters:
            yield from self._templates(site, given.get("message"))
            return
        for inner in site.module.sites:
            further = self._maker(inner)
            if further is None or "message" not in further.parameters:
                continue
            said = _given(inner.call, further)
            # A helper has its sentence within; what only holds a code has it where that is taken out again.
            if inner.scope is maker.scope or (maker.scope is None and isinstance(said["code"], ast.Attribute)):
                yield from self._templates(inner, said.get("message"))

    def _templates(self, site: Site, given: Expression) -> Iterator[str]:
        """The sentences that an expression may be, with what is filled in between braces."""
        match given:
            case ast.IfExp():
                yield from self._templates(site, given.body)
                yield from self._templates(site, given.orelse)
            case ast.Name(id=name) if name in site.scope.names:
                for value in site.scope.before(name, site.call.lineno):
                    if not any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(value)):
                        yield from self._templates(site, value)
            case ast.Name(id=name) if name in site.module.constants and name not in site.scope.parameters:
                yield from self._templates(site, site.module.constants[name])
            case ast.BinOp(op=ast.Add()):
                for left in self._templates(site, given.left):
                    yield from (left + right for right in self._templates(site, given.right))
            case ast.Call(func=ast.Name(id=name)) if name in site.module.functions:
                inner = site.module.functions[name]
                for value in _returned(inner):
                    yield from self._templates(site._replace(scope=inner), value)
            case ast.expr():
                yield _template(given)


def _assigned(statement: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """The names that a statement gives a value."""
    if isinstance(statement, ast.AnnAssign | ast.NamedExpr) and statement.value is not None:
        yield ast.unparse(statement.target), statement.value
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
                yield from zip(map(ast.unparse, target.elts), statement.value.elts, strict=False)
            else:
                yield ast.unparse(target), statement.value


def _scope_of(function: Function, owner: str) -> Scope:
    names: dict[str, list[ast.expr]] = defaultdict(list)
    for node in ast.walk(function):
        for name, value in _assigned(node):
            names[name].append(value)
    return Scope(function, owner if function.name == "__init__" else function.name, names)


def _is_method(function: Function) -> bool:
    return bool(function.args.args) and function.args.args[0].arg in ("self", "cls")


def _arguments(function: Function) -> list[ast.arg]:
    found = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return found[1:] if _is_method(function) else found


def _parameters(function: Function) -> list[str]:
    return [each.arg for each in _arguments(function)]


def _takes_code(function: Function) -> bool:
    return any(each.arg == "code" and _last(each.annotation) == "str" for each in _arguments(function))


def _defaults(function: Function) -> dict[str, ast.expr]:
    names = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    return dict(zip(reversed(names), reversed(function.args.defaults), strict=False))


def _composes(scope: Scope) -> bool:
    """Whether a function makes its code of more than what it is given for it."""
    assert scope.function is not None
    texts = (node for node in ast.walk(scope.function) if isinstance(node, ast.FormattedValue))
    return any(_last(text.value) == "code" for text in texts)


def _passed_on(site: Site, given: Expression) -> set[str]:
    """The parameters of the function that are a part of a text, where that function composes its code."""
    if not isinstance(given, ast.JoinedStr) or site.scope.function is None or not _composes(site.scope):
        return set()
    parts = (_last(part.value) for part in given.values if isinstance(part, ast.FormattedValue))
    return {name for name in parts if name in site.scope.parameters}


def _filled(given: ast.expr, name: str, text: str) -> ast.JoinedStr:
    """A text with ``text`` where ``name`` is filled in."""
    assert isinstance(given, ast.JoinedStr)
    parts = [
        ast.Constant(text) if isinstance(part, ast.FormattedValue) and _last(part.value) == name else part
        for part in given.values
    ]
    return ast.JoinedStr(parts)


def _looked_up(site: Site, given: ast.expr, message: str, key: str) -> str:
    """``message`` with what tables of the module have for ``key`` where ``given`` looks it up."""
    for node in ast.walk(given):
        if isinstance(node, ast.Subscript) and isinstance(
            table := site.module.constants.get(_last(node.value)), ast.Dict
        ):
            found = {
                ast.literal_eval(one): ast.literal_eval(other)
                for one, other in zip(table.keys, table.values, strict=True)
                if one is not None
            }
            message = message.replace(_template(node), found[key])
    return message


def _returned(scope: Scope) -> Iterator[ast.expr]:
    assert scope.function is not None
    for node in ast.walk(scope.function):
        if isinstance(node, ast.Return) and node.value is not None:
            yield node.value


def _given(call: ast.Call, maker: Maker) -> dict[str, ast.expr]:
    """What a call gives for each parameter, defaults included."""
    by_place = dict(zip(maker.parameters, call.args, strict=False))
    return {**maker.defaults, **by_place, **{each.arg: each.value for each in call.keywords if each.arg}}


def _last(name: Expression) -> str:
    """The last part of a dotted name."""
    return name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""


def _is_read(given: ast.expr) -> bool:
    """Whether it is the code of something that has one already."""
    if isinstance(given, ast.Subscript) and isinstance(given.slice, ast.Constant):
        return given.slice.value in READ
    return _last(given).endswith("code")


def _template(given: ast.expr) -> str:
    """The text of an expression, with braces around the name of what is filled in."""
    match given:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr():
            return "".join(map(_template, given.values))
        case ast.FormattedValue():
            return _template(given.value)
    names = [_last(node).strip("_") for node in ast.walk(given) if isinstance(node, ast.Name | ast.Attribute)]
    return f"{{{next((name for name in names if name not in COMMON), '…')}}}"


COMMON: Final = ("", "self", "str", "shown", "join", "repr", "len", "sorted")
"""Names that say nothing about what is filled in."""
