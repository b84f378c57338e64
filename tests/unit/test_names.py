"""A name of the package stands for one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

from tests.support.paths import ROOT

PACKAGE = ROOT / "extproc"


def named(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """The types that a statement of a module names, and what each is; the same alias in two modules is one thing."""
    match statement:
        case ast.ClassDef(name=name):
            yield name, f"class {id(statement)}"
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if not name.isupper():
            yield name, ast.unparse(value)


def test_no_name_of_a_type_stands_for_two_things() -> None:
    """Who searches for a name finds what it means; those with an underscore are known in their module alone."""
    meant = defaultdict(set)
    for file in sorted(PACKAGE.rglob("*.py")):
        if "_gen" in file.parts:
            continue
        for statement in ast.parse(file.read_text()).body:
            for name, meaning in named(statement):
                if name[0].isupper():
                    meant[name].add((meaning, "" if "class" not in meaning else str(file.relative_to(ROOT))))
    assert {name: found for name, found in meant.items() if len(found) > 1} == {}
