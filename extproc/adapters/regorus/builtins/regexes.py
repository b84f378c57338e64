"""``regex.*``: the engine's own, with patterns that Go reads otherwise written as the engine reads them."""

from __future__ import annotations

import re
import warnings
from typing import Final

from extproc.adapters.regorus.builtins.builtin import Builtin

_LITERAL_BRACE: Final = re.compile(r"\\.|\{(?![0-9]+(?:,[0-9]*)?\})", re.DOTALL)
_QUOTED: Final = re.compile(r"\\Q(.*?)(?:\\E|\Z)", re.DOTALL)
_SURE: Final = (
    "bad escape (end of pattern)",
    "missing ), unterminated subpattern",
    "nothing to repeat",
    "unbalanced parenthesis",
    "unterminated character set",
)
"""What Python calls that which no dialect reads."""


def _written(pattern: str) -> str:
    """The pattern as the engine reads it; raises where Go does not read it either."""
    pattern = _QUOTED.sub(lambda quoted: re.escape(quoted[1]), pattern)
    pattern = _LITERAL_BRACE.sub(lambda found: r"\{" if found[0] == "{" else found[0], pattern)
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(pattern)
    except re.error as error:
        if error.msg.startswith(_SURE):
            raise
    return pattern


def _calling(name: str, parameters: str, pattern: str, conditions: str) -> str:
    """The Rego of a builtin that is given the pattern as it is, or else as it has to be written."""
    last, own = name.rpartition(".")[2], parameters.replace(pattern, "written")
    return (
        f"{last}({parameters}) := {name}({parameters}) if {{ {conditions}; regex.is_valid({pattern}) }}\n\n"
        f"{last}({parameters}) := {name}({own}) if {{\n"
        f"\t{conditions}\n\tnot regex.is_valid({pattern})\n\tsome written in host.{name}({pattern})\n}}"
    )


_TWO: Final = "is_string(a); is_string(b)"
_COUNTED: Final = f"{_TWO}; is_number(c); floor(c) == c"

_IS_VALID: Final = """is_valid(a) if {
	is_string(a)
	regex.is_valid(a)
}

is_valid(a) := valid if {
	is_string(a)
	not regex.is_valid(a)
	valid := count([1 | some written in host.regex.is_valid(a); regex.is_valid(written)]) == 1
}

is_valid(a) := false if not is_string(a)"""

# Go leaves out what an empty match at the one or the other end of the text would cut off.
_SPLIT: Final = """split(a, b) := array.slice(parts, first, last) if {
	is_string(a)
	is_string(b)
	b != ""
	some pattern in split_pattern(a)
	parts := regex.split(pattern, b)
	found := regex.find_n(pattern, b, -1)
	first := count([1 | found[0] == ""; parts[0] == ""])
	last := count(parts) - count([1 | found[count(found) - 1] == ""; parts[count(parts) - 1] == ""])
}

split(a, "") := [x | some x in [""]; a != ""] if {
	is_string(a)
	count(split_pattern(a)) == 1
}

split_pattern(a) := [a] if regex.is_valid(a)

split_pattern(a) := host.regex.split(a) if not regex.is_valid(a)"""

_TEMPLATE_MATCH: Final = """template_match(a, b, c, d) := regex.template_match(a, b, c, d) if {
	is_string(a)
	is_string(b)
	is_string(c)
	is_string(d)
	count(c) == 1
	count(d) == 1
}"""

_REPLACE: Final = _calling("regex.replace", "a, b, c", "b", f"{_TWO}; is_string(c)")

BUILTINS: Final = (
    Builtin("regex.is_valid", ("any",), _written, _IS_VALID),
    Builtin("regex.replace", ("string",) * 3, _written, _REPLACE, arity=1),
    Builtin("regex.split", ("string",) * 2, _written, _SPLIT, arity=1),
    Builtin("regex.template_match", ("string",) * 4, None, _TEMPLATE_MATCH),
)

GUARDS: Final = (
    Builtin("regex.match", ("string",) * 2, _written, _calling("regex.match", "a, b", "a", _TWO), arity=1),
    Builtin("regex.find_n", ("any",) * 3, _written, _calling("regex.find_n", "a, b, c", "a", _COUNTED), arity=1),
    Builtin(
        "regex.find_all_string_submatch_n",
        ("any",) * 3,
        _written,
        _calling("regex.find_all_string_submatch_n", "a, b, c", "a", _COUNTED),
        arity=1,
    ),
)
