"""Builtins that the engine has and answers otherwise than OPA, answered as OPA does.

Where ours cannot be sure of OPA's answer, the evaluation ends: ``0 / 0`` throws in this engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from extproc.adapters.regorus.builtins.builtin import Builtin

_NUMBER: Final = r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,6})?"


def _count(text: str, part: str) -> int:
    return text.count(part)


def _replace_n(patterns: Mapping[str, str], text: str) -> str:
    """Go's Replacer: at each place the first key in order, and none twice at a place where it is empty."""
    keys = sorted(patterns)
    if not all(isinstance(value, str) for value in patterns.values()):
        raise ValueError
    out, at, was_empty = [], 0, False
    while at <= len(text):
        key = next((key for key in keys if text.startswith(key, at) and (key or not was_empty)), None)
        was_empty = key == ""
        if key is None and "" in patterns and not text[at : at + 1].isascii():
            raise ValueError  # Go would put something between the bytes of a character
        out.append(text[at : at + 1] if key is None else patterns[key])
        at += 1 if key is None else len(key)
    return "".join(out)


def _parse_bytes(text: str) -> int:
    """Bytes, cut towards zero. The engine has no numbers of its own that are as large as what ends here."""
    parts = _BYTES.fullmatch(text.replace('"', ""))
    if parts is None:
        raise ValueError("no number with a unit")
    unit = parts["unit"].lower().removesuffix("b")
    power = "kmgtpe".index(unit[0]) + 1 if unit else 0
    found = Decimal(parts["number"]) * (1024 if unit.endswith("i") else 1000) ** power
    return int(found) if abs(found) < _TOO_LARGE else _TOO_LARGE


_BYTES: Final = re.compile(rf"(?P<number>{_NUMBER})(?P<unit>(?:[kKmMgGtTpPeE][iI]?)?[bB]?)")
_TOO_LARGE: Final = 2**64
"""The engine does not take it: the evaluation ends."""


def _quote_meta(text: str) -> str:
    return re.sub(r"[*?\\\[\]{}]", r"\\\g<0>", text)


def _alternatives(pattern: str) -> list[str]:
    """The patterns that one with alternatives in braces stands for. Raises for what is not sure."""
    if re.search(r"[\\\[]", pattern):
        raise ValueError("what is quoted, or one of several characters")
    waiting, found = [pattern], []
    while waiting:
        at = waiting.pop()
        braces = re.search(r"\{([^{}]*)\}", at)
        if braces is None:
            found.append(at)
        else:
            waiting += [at[: braces.start()] + each + at[braces.end() :] for each in braces[1].split(",")]
        if len(waiting) + len(found) > _MAX_ALTERNATIVES:
            raise ValueError("too many alternatives")
    return found


_MAX_ALTERNATIVES: Final = 1_000

_GLOB: Final = r"""match(a, b, c) := found if {
	match_can_be_asked(a, b, c)
	not match_has_empty_alternative(a)
	found := glob.match(a, b, c)
}

match(a, b, c) := count(found) > 0 if {
	match_can_be_asked(a, b, c)
	match_has_empty_alternative(a)
	patterns := host.glob.match(a)
	found := [1 | some pattern in patterns[0 / count(patterns)]; glob.match(pattern, b, c)]
}

match_has_empty_alternative(a) if regex.match(`[{,],|[{,]\}`, a)

match_can_be_asked(a, b, c) if {
	is_string(a)
	is_string(c)
	match_delimiters(b)
}

match_delimiters(b) if is_null(b)

match_delimiters(b) if {
	is_array(b)
	every x in b { is_string(x); regex.match("^(?s:.)$", x) }
}"""

_JSON_IS_VALID: Final = """is_valid(a) := json.is_valid(a) if is_string(a)

is_valid(a) := false if not is_string(a)"""

_SEMVER_IS_VALID: Final = """is_valid(a) := semver.is_valid(trim_prefix(a, "v")) if is_string(a)

is_valid(a) := false if not is_string(a)"""

_SEMVER_COMPARE: Final = """compare(a, b) := semver.compare(x, y) if {
	is_string(a)
	is_string(b)
	x := trim_prefix(a, "v")
	y := trim_prefix(b, "v")
	semver.is_valid(x)
	semver.is_valid(y)
}"""

# The engine panics at an array that is empty.
_SUBSET: Final = """subset(a, b) := object.subset(a, b) if {
	concat(" ", [type_name(a), type_name(b)]) in {"array array", "array set", "object object", "set set"}
	b != []
}

subset(a, []) if is_array(a)"""

_TO_NUMBER: Final = r"""number_of(a) := to_number(a) if type_name(a) in {"boolean", "null", "number"}

number_of(a) := to_number(a) if {
	is_string(a)
	regex.match(`^[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+|0[xX].*[pP].*)([eE][-+]?[0-9]+)?$`, a)
}"""


# The engine throws at other texts, or takes minutes.
_PARSE: Final = rf"""parse(a) := units.parse(a) if {{
	is_string(a)
	regex.match(`^{_NUMBER}(m|[kKMgGtTpPeE]|[kKmMgGtTpPeE][iI])?$`, replace(a, "\"", ""))
}}"""


# The engine does not shift by as much as this.
_SHIFT: Final = """rsh(a, b) := bits.rsh(a, min([b, 1024])) if {
	every x in [a, b] { is_number(x); floor(x) == x }
	b >= 0
}"""


def _index(name: str, rule: str) -> Builtin:
    rego = f'{rule}(a, b) := {name}(a, b) if {{ is_string(a); is_string(b); b != "" }}'
    return Builtin(name, ("string", "string"), None, rego, rule=rule)


BUILTINS: Final = (
    Builtin("bits.rsh", ("number", "number"), None, _SHIFT),
    Builtin("glob.match", ("string", "any", "string"), _alternatives, _GLOB, arity=1),
    Builtin("glob.quote_meta", ("string",), _quote_meta),
    _index("indexof", "index_of"),
    _index("indexof_n", "indexes_of"),
    Builtin("json.is_valid", ("any",), None, _JSON_IS_VALID),
    Builtin("object.subset", ("any", "any"), None, _SUBSET),
    Builtin("semver.compare", ("string", "string"), None, _SEMVER_COMPARE),
    Builtin("semver.is_valid", ("any",), None, _SEMVER_IS_VALID),
    Builtin("strings.count", ("string", "string"), _count),
    Builtin("strings.replace_n", ("object", "string"), _replace_n),
    Builtin("to_number", ("any",), None, _TO_NUMBER, rule="number_of"),
    Builtin("units.parse", ("string",), None, _PARSE),
    Builtin("units.parse_bytes", ("string",), _parse_bytes),
)
