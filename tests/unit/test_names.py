"""A name of the package stands for one thing."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.support.paths import ROOT

PACKAGE = ROOT / "extproc"


def test_no_class_name_stands_for_two_things() -> None:
    """Who searches for a name finds what it means; those with an underscore are known in their module alone."""
    found = defaultdict(list)
    for file in sorted(PACKAGE.rglob("*.py")):
        if "_gen" in file.parts:
            continue
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in found.items() if len(files) > 1} == {}
