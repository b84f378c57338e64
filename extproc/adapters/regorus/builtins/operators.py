"""The operators that throw in the engine where OPA is undefined: ``+ - * / %`` of numbers, ``- | &`` of sets.

And ``key, value in xs``, which differs.

A function of a name here stands for an operator as the engine's syntax tree calls it, in small letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from extproc.adapters.regorus.builtins.builtin import Builtin

_NUMBERS: Final = "is_number(a); is_number(b)"
_SETS: Final = "is_set(a); is_set(b)"
_RULES: Final[Mapping[str, str]] = {
    "add": f"add(a, b) := a + b if {{ {_NUMBERS} }}",
    "sub": f"sub(a, b) := a - b if {{ {_NUMBERS} }}\n\nsub(a, b) := a - b if {{ {_SETS} }}",
    "mul": f"mul(a, b) := a * b if {{ {_NUMBERS} }}",
    "div": f"div(a, b) := a / b if {{ {_NUMBERS}; b != 0 }}",
    "mod": f"mod(a, b) := a % b if {{ {_NUMBERS}; b != 0; floor(a) == a; floor(b) == b }}",
    "union": f"union(a, b) := a | b if {{ {_SETS} }}",
    "intersection": f"intersection(a, b) := a & b if {{ {_SETS} }}",
    "member": "default member(_, _, _) := false\n\nmember(key, value, xs) if xs[key] == value",
}

OPERATORS: Final[Mapping[str, Builtin]] = {
    name: Builtin(f"operators.{name}", ("any", "any"), None, rego) for name, rego in _RULES.items()
}
"""By their names in the tree."""
