"""The engine's own builtins that throw where OPA is undefined, each with what has to hold for OPA to have a value.

Where it is not sure that OPA is undefined, the engine is asked and may throw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from extproc.adapters.regorus.builtins import documents, printing, regexes, times
from extproc.adapters.regorus.builtins.builtin import PARAMETERS, Builtin

_KINDS: Final[Mapping[str, str]] = {
    "any": "",
    "array": "is_array({0})",
    "boolean": "is_boolean({0})",
    "number": "is_number({0})",
    "object": "is_object({0})",
    "set": "is_set({0})",
    "string": "is_string({0})",
    "whole": "is_number({0}); floor({0}) == {0}",
    "list": 'type_name({0}) in {{"array", "set"}}',
    "collection": 'type_name({0}) in {{"array", "object", "set"}}',
    "strings": 'type_name({0}) in {{"array", "set"}}; every each in {0} {{ is_string(each) }}',
    "numbers": 'type_name({0}) in {{"array", "set"}}; every each in {0} {{ is_number(each) }}',
    "objects": "is_array({0}); every each in {0} {{ is_object(each) }}",
    "sets": "is_set({0}); every each in {0} {{ is_set(each) }}",
}
"""What a value of a kind is, in Rego."""

_TYPES: Final[Mapping[str, str]] = {
    "abs": "number",
    "array.concat": "array array",
    "array.reverse": "array",
    "array.slice": "array whole whole",
    "base64.decode": "string",
    "base64.encode": "string",
    "base64url.encode": "string",
    "base64url.encode_no_pad": "string",
    "bits.and": "whole whole",
    "bits.lsh": "whole whole",
    "bits.negate": "whole",
    "bits.or": "whole whole",
    "bits.xor": "whole whole",
    "ceil": "number",
    "concat": "string strings",
    "contains": "string string",
    "endswith": "string string",
    "floor": "number",
    "format_int": "number whole",
    "graph.reachable": "object list",
    "graph.reachable_paths": "object list",
    "hex.decode": "string",
    "hex.encode": "string",
    "intersection": "sets",
    "json.patch": "any array",
    "lower": "string",
    "max": "list",
    "min": "list",
    "numbers.range": "whole whole",
    "object.filter": "object collection",
    "object.get": "object any any",
    "object.keys": "object",
    "object.remove": "object collection",
    "object.union": "object object",
    "object.union_n": "objects",
    "product": "numbers",
    "replace": "string string string",
    "round": "number",
    "sort": "list",
    "split": "string string",
    "startswith": "string string",
    "strings.reverse": "string",
    "substring": "string whole whole",
    "sum": "numbers",
    "trim": "string string",
    "trim_left": "string string",
    "trim_prefix": "string string",
    "trim_right": "string string",
    "trim_space": "string",
    "trim_suffix": "string string",
    "union": "sets",
    "upper": "string",
    "uuid.parse": "string",
}
"""The kinds of what a builtin is given, by its name."""

_VALUES: Final[Mapping[str, str]] = {
    "base64.decode": "base64.is_valid(a)",
    "bits.lsh": "b >= 0",
    "format_int": "b in {2, 8, 10, 16}",
    "hex.decode": "regex.match(`^([0-9a-fA-F]{2})*$`, a)",
    "substring": "b >= 0",
}
"""What else has to hold, by the name of the builtin."""


def _condition(name: str, kinds: Sequence[str]) -> Iterator[str]:
    for parameter, kind in zip(PARAMETERS, kinds, strict=False):
        if _KINDS[kind]:
            yield _KINDS[kind].format(parameter)
    if name in _VALUES:
        yield _VALUES[name]


def _guarded(name: str, kinds: Sequence[str]) -> Builtin:
    given = ", ".join(PARAMETERS[: len(kinds)])
    body = "; ".join(_condition(name, kinds))
    condition = f" if {{ {body} }}" if body else ""
    rule = name.rpartition(".")[2] if "." in name else f"guarded_{name}"
    return Builtin(name, kinds, None, f"{rule}({given}) := {name}({given}){condition}", rule=rule)


_BASE64_IS_VALID: Final = """is_valid(a) := base64.is_valid(a) if is_string(a)

is_valid(a) := false if not is_string(a)"""

_RANGE_STEP: Final = """range_step(a, b, c) := numbers.range_step(a, b, c) if {
	range_step_is_whole(a, b, c)
	c <= abs(b - a)
}

range_step(a, b, c) := [a] if {
	range_step_is_whole(a, b, c)
	c > abs(b - a)
}

range_step_is_whole(a, b, c) if {
	every x in [a, b, c] { is_number(x); floor(x) == x }
	c > 0
}"""

_AFFIX_MATCH: Final = """any_{0}_match(a, b) := count(found) > 0 if {{
	left := any_{0}_match_texts(a)
	right := any_{0}_match_texts(b)
	found := [1 | some x in left; some y in right; {1}(x, y)]
}}

any_{0}_match_texts(x) := [x] if is_string(x)

any_{0}_match_texts(x) := x if {{
	type_name(x) in {{"array", "set"}}
	every each in x {{ is_string(each) }}
}}"""

# The engine counts a character beyond U+FFFF twice.
_COUNT: Final = """counted(a) := count(a) if type_name(a) in {"array", "object", "set"}

counted(a) := found if {
	is_string(a)
	some found in host.count(a)
}"""


def _guards() -> Iterator[Builtin]:
    for name, kinds in _TYPES.items():
        yield _guarded(name, tuple(kinds.split()))
    yield from (*documents.GUARDS, *printing.GUARDS, *regexes.GUARDS, *times.GUARDS)
    yield Builtin("base64.is_valid", ("any",), None, _BASE64_IS_VALID)
    yield Builtin("count", ("any",), len, _COUNT, rule="counted")
    yield Builtin("numbers.range_step", ("any",) * 3, None, _RANGE_STEP)
    for affix, name in (("prefix", "startswith"), ("suffix", "endswith")):
        yield Builtin(f"strings.any_{affix}_match", ("any",) * 2, None, _AFFIX_MATCH.format(affix, name))


GUARDED: Final[Mapping[str, Builtin]] = {builtin.name: builtin for builtin in _guards()}
"""By name."""
