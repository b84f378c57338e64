"""What modules of the package define, as pages name it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

from tests.support.pages import code
from tests.support.paths import ROOT

_NAMED = re.compile(r"`(extproc/[\w/]+\.py)`((?:,? `\w+(?:\(\))?`)+)")


def named(text: str) -> list[tuple[str, str]]:
    """Each module of ours that a text names, with each name that stands right behind it."""
    return [(path, name) for path, names in _NAMED.findall(text) for name in code(names)]


@cache
def defined_in(path: str) -> frozenset[str]:
    """What the module at ``path`` (from the root of the repository) defines: functions and classes at any depth, and
    the names that are given a value outside of functions; a function's followed by ``()``."""
    return frozenset(_defined(ast.parse((ROOT / path).read_text())))


@cache
def defined_anywhere() -> frozenset[str]:
    """What any module of the package defines."""
    modules = (ROOT / "extproc").rglob("*.py")
    return frozenset().union(*(defined_in(str(file.relative_to(ROOT))) for file in modules))


def _defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield f"{name}()"
            case ast.ClassDef(name=name):
                yield name
                yield from _assigned(node)
            case ast.Module():
                yield from _assigned(node)


def _assigned(node: ast.ClassDef | ast.Module) -> Iterator[str]:
    for statement in node.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name))
