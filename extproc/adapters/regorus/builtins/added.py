"""Builtins of texts and arrays that the engine lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from extproc.adapters.regorus.builtins import printing
from extproc.adapters.regorus.builtins.builtin import TEMPLATE_STRING, Builtin


def _split_n(text: str, separator: str, count: int) -> Sequence[str]:
    """The first ``count`` parts, or the last for a negative one. Without a separator a part is a character."""
    if count == 0:
        return []
    if count > 0:
        parts = text.split(separator, count) if separator else list(text)
        return parts[:count]
    return (text.split(separator) if separator else list(text))[count:]


def _render(template: str, values: Mapping[str, Any]) -> str:
    """A template whose actions are each a name, ``{{ .a.b }}``; empty braces for one with others."""
    if not PLAIN_TEMPLATE.fullmatch(template):
        return "{{}}"
    return _ACTION.sub(lambda action: _value(action["path"], values), template)


def _value(path: str, value: Any) -> str:
    for name in path.split(".")[1:]:
        if not isinstance(value, Mapping):
            raise TypeError("what is no object has no parts")
        value = value.get(name)
    if isinstance(value, int | str) and not isinstance(value, bool):
        return str(value)
    return "<undefined>" if value is None else str(value).lower() if isinstance(value, bool) else _unsure(value)


def _unsure(value: Any) -> str:
    raise TypeError(f"a {type(value).__name__} is printed as Go does")


_ACTION: Final = re.compile(r"\{\{\s*(?P<path>(?:\.[A-Za-z_][A-Za-z0-9_]*)+)\s*\}\}")
PLAIN_TEMPLATE: Final = re.compile(rf"(?:(?!\{{\{{).|{_ACTION.pattern.replace('?P<path>', '?:')})*", re.DOTALL)
"""A template that is rendered; one with other actions ends the evaluation."""

_RENDER: Final = """render_template(a, b) := text if {
	is_string(a)
	is_object(b)
	found := host.strings.render_template(a, b)
	text := found[0 / count(found)]
	0 / count([1 | text != "{{}}"]) == 0
}"""

_SPLIT_N: Final = """split_n(a, b, c) := found if {
	is_string(a)
	is_string(b)
	is_number(c)
	floor(c) == c
	some found in host.strings.split_n(a, b, c)
}"""

_FLATTEN: Final = """flatten(a) := [y | some x in a; some y in flatten_parts(x)] if is_array(a)

flatten_parts(x) := x if is_array(x)

flatten_parts(x) := [x] if not is_array(x)"""


# An expression of a text is a set of its value; OPA ends the evaluation where it has several.
_TEMPLATE: Final = """template_string(a) := concat("", [template_part(x) | some x in a])

template_part(x) := x if is_string(x)

template_part(x) := text if {
	is_set(x)
	0 / count([1 | count(x) < 2]) == 0
	text := concat("", [template_value(value) | some value in template_values(x)])
}

template_values(x) := x if count(x) > 0

template_values(x) := ["<undefined>"] if count(x) == 0

template_value(x) := x if is_string(x)

template_value(x) := found[0 / count(found)] if {
	not is_string(x)
	found := host.internal.template_string(x)
}"""

BUILTINS: Final = (
    Builtin("array.flatten", ("array",), None, _FLATTEN),
    Builtin(TEMPLATE_STRING, ("array",), printing.term, _TEMPLATE),
    Builtin("strings.render_template", ("string", "object"), _render, _RENDER),
    Builtin("strings.split_n", ("string", "string", "number"), _split_n, _SPLIT_N),
)
