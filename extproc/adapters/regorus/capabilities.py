"""What of OPA this engine offers, in OPA's own words: the file that ``opa check --capabilities`` takes.

Asked of the engine, so that no list here grows old. How a builtin is declared is OPA's to say, in the version that
will read the file. One thing the file has no word for: operators are builtins there, and OPA takes ``plus(1, 2)`` for
``1 + 2``; the engine knows but the operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from extproc.adapters.regorus.builtins.table import BUILTINS
from extproc.adapters.regorus.differences import DIFFERING
from extproc.adapters.regorus.hosting import is_installed
from extproc.adapters.regorus.policy import check_here, engine_has, is_forbidden
from extproc.resources.policies import PolicySources

_WRITTEN: Final = {
    "assign": "x := 1",
    "internal.member_2": "1 in [1]",
    "internal.member_3": "0, 1 in [1]",
    "internal.print": "print(1)",
    "internal.template_string": '$"{1}" == "1"',
}
"""Builtins that stand for what is written otherwise, each with a condition that has it."""

_FEATURES: Final = {
    "keywords_in_refs": "a.if := input.not.x",
    "rego_v1": "import rego.v1",
    "rego_v2_import": "import rego.v2",
    "template_strings": 'a := $"{1}"',
}
"""Features of the language, each with a rule or an import that needs it; the engine offers no other."""


def offered(capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``capabilities``, as ``opa capabilities`` prints them, the engine offers and answers as OPA does.

    Raises:
        KeyError, TypeError: they are not what OPA prints.
    """
    return {
        "builtins": [builtin for builtin in capabilities["builtins"] if _offers(builtin)],
        "future_keywords": [
            word for word in capabilities["future_keywords"] if _loads(f"import future.keywords.{word}")
        ],
        "features": [name for name in capabilities["features"] if name in _FEATURES and _loads(_FEATURES[name])],
        "allow_net": [],
    }


def _offers(builtin: Mapping[str, Any]) -> bool:
    name, infix = builtin["name"], builtin.get("infix")
    if name in _WRITTEN:
        return _loads(f"a if {{ {_WRITTEN[name]} }}")
    if infix is not None:
        return _loads(f"a if 1 {infix} 1")
    if name in DIFFERING or is_forbidden(name):
        return False
    ours = BUILTINS.get(name)
    return engine_has(name) if ours is None else is_installed(ours)


def _loads(text: str) -> bool:
    return not check_here(PolicySources({"a.rego": f"package a\n\n{text}\n"}, {}, ""))
