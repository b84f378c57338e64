"""``json.*``, ``yaml.*`` and ``base64url.decode``: documents in texts, and parts of documents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

import yaml
from yaml.events import CollectionEndEvent, CollectionStartEvent
from yaml.scanner import ScannerError

from extproc.adapters.regorus.builtins.builtin import Builtin
from extproc.adapters.regorus.builtins.tokens import text_of

_LARGEST_EXPONENT: Final = 30_103
"""Ten to this is two to OPA's bound."""

_EXPONENT: Final = re.compile(r"[0-9.]+[eE][+-]?([0-9]+)")


def _may_be_json(text: str) -> bool:
    """Whether OPA may read it; raises where it does not for sure."""
    try:
        json.loads(text, parse_constant=_refuse, parse_float=_small, parse_int=len)
    except RecursionError:
        return True
    return True


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _small(text: str) -> float:
    exponent = _EXPONENT.fullmatch(text.lstrip("-"))
    if exponent is not None and int(exponent[1]) > _LARGEST_EXPONENT:
        raise ValueError("a number that OPA does not have")
    return 0.0


def _may_be_yaml(text: str) -> bool:
    """Whether OPA may read it; raises where it does not for sure."""
    depth = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > _DEEPEST_YAML:
                return True
    except ScannerError:
        return True
    return True


_DEEPEST_YAML: Final = 128
"""The engine reads no more, and the time of this goes by the square."""


Paths = Mapping[Any, Any]
"""What is meant below each key, None for all of it."""


def _paths(given: Iterable[Any]) -> Paths:
    """The paths as one tree; one that goes on below another's end is left out."""
    root: dict[Any, Any] = {}
    for path in map(_path, given):
        node: Any = root
        for key in path[:-1]:
            node = node.setdefault(key, {})
            if node is None:
                break
        if node is not None and path:
            node[path[-1]] = None
    return root


def _path(given: Any) -> list[Any]:
    if isinstance(given, str):
        parts = given.lstrip("/").split("/") if given else []
        return [part.replace("~1", "/").replace("~0", "~") for part in parts]
    if not isinstance(given, list | tuple):
        raise TypeError("a path is a text or an array")
    return list(given)


def _filter(value: Any, paths: Any) -> Any:
    if paths is None:
        return value
    match value:
        case dict():
            return {key: _filter(each, paths[key]) for key, each in value.items() if key in paths}
        case list():
            return [_filter(each, paths[str(at)]) for at, each in enumerate(value) if str(at) in paths]
    return value


def _remove(value: Any, paths: Paths) -> Any:
    match value:
        case dict():
            return {key: _without(each, paths, key) for key, each in value.items() if paths.get(key, ...) is not None}
        case list():
            kept = [(str(at), each) for at, each in enumerate(value) if paths.get(str(at), ...) is not None]
            return [_without(each, paths, at) for at, each in kept]
    return value


def _without(value: Any, paths: Paths, key: Any) -> Any:
    return _remove(value, paths[key]) if key in paths else value


def _filtered(value: Any, paths: Any) -> Any:
    return _filter(value, _paths(paths))


def _removed(value: Any, paths: Any) -> Any:
    return _remove(value, _paths(paths))


# With a set in it the value cannot be given to Python, or not be had back as it was.
_PARTS: Final = """{0}(a, b) := found if {{
	is_object(a)
	type_name(b) in {{"array", "set"}}
	json.unmarshal(json.marshal(a)) == a
	some found in host.json.{0}(a, [x | some x in b])
}}

{0}(a, b) := json.{0}(a, b) if {{
	is_object(a)
	type_name(b) in {{"array", "set"}}
	json.unmarshal(json.marshal(a)) != a
}}"""

# As Go writes JSON that may stand in HTML.
_ESCAPED: Final = r"""strings.replace_n({{
	"<": `\u003c`,
	">": `\u003e`,
	"&": `\u0026`,
	"\u2028": `\u2028`,
	"\u2029": `\u2029`,
}}, {0})"""

# What is put before the lines stays as it is.
_MARSHAL_WITH_OPTIONS: Final = f"""marshal_with_options(a, b) := {_ESCAPED.format("text")} if {{
	marshal_with_options_are_known(b)
	not regex.match(`[<>&]`, json.marshal(b))
	text := json.marshal_with_options(a, b)
}}

marshal_with_options(a, b) := json.marshal_with_options(a, b) if {{
	marshal_with_options_are_known(b)
	regex.match(`[<>&]`, json.marshal(b))
	0 / count([1 | not regex.match(`[<>&]`, json.marshal(a))]) == 0
}}

marshal_with_options_are_known(b) if {{
	is_object(b)
	every key, value in b {{
		[key, type_name(value)] in [["pretty", "boolean"], ["indent", "string"], ["prefix", "string"]]
	}}
}}"""

BUILTINS: Final = (
    Builtin("json.filter", ("object", "any"), _filtered, _PARTS.format("filter")),
    Builtin("json.marshal", ("any",), None, f"marshal(a) := {_ESCAPED.format('json.marshal(a)')}"),
    Builtin("json.marshal_with_options", ("any", "object"), None, _MARSHAL_WITH_OPTIONS),
    Builtin("json.remove", ("object", "any"), _removed, _PARTS.format("remove")),
)


def _asking(name: str) -> str:
    return f"{name.rpartition('.')[2]}(a) := {name}(a) if {{ is_string(a); host.{name}(a)[0] }}"


GUARDS: Final = (
    Builtin("base64url.decode", ("string",), text_of),
    Builtin("json.unmarshal", ("string",), _may_be_json, _asking("json.unmarshal")),
    Builtin("yaml.unmarshal", ("string",), _may_be_yaml, _asking("yaml.unmarshal")),
)
