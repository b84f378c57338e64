"""What is wrong with a template beyond its fields: placeholders that mean nothing where they are, and pointers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from extproc.adapters.rest.pointers import COLUMN, ENTITY, ROW, parse_pointer, pointer_problems
from extproc.adapters.rest.template import RequestSpec, ResponseSpec, Template
from extproc.adapters.rest.texts import (
    JOIN_KEY,
    TOKEN,
    VALUES,
    WHOLE,
    all_names,
    compiled,
    is_of_a_key,
    parse,
    problems_in,
    unbound,
)
from extproc.resources.faults import Problem
from extproc.resources.marked_yaml import FieldPath, shown

_PATH: Final = re.compile(r"/[!\"$->@-~]*")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VISIBLE: Final = re.compile(r"[ -~]*")
_OURS: Final = ("host", "content-length", "transfer-encoding", "connection", "accept-encoding")
_IN_URLS: Final = (*VALUES, JOIN_KEY)


def template_problems(template: Template) -> Iterator[Problem]:
    """What is wrong between and in the fields of ``template``."""
    yield from _request_problems(template.request, template.parameters)
    yield from _response_problems(template.response, template.request.batch)


def _request_problems(spec: RequestSpec, parameters: list[str]) -> Iterator[Problem]:
    at: FieldPath = ("request",)
    path = parse(spec.path)
    if not _PATH.fullmatch("".join(path.parts[::2])) or {".", ".."} & {*spec.path.split("/")}:
        message = "a path starts with '/', is visible ASCII, and has no '?', no '#', no '.' and no '..' for a part"
        yield Problem("invalid_value", message, (*at, "path"))
    for segment in spec.path.split("/"):
        yield from problems_in(parse(segment), _IN_URLS, parameters, (*at, "path"))
    for name, value in spec.query.items():
        for each in [value] if isinstance(value, str) else value:
            yield from problems_in(parse(each), _IN_URLS, parameters, (*at, "query", name))
    for name, value in spec.headers.items():
        yield from _header_problems(name, value, parameters, (*at, "headers", name))
    if spec.body is not None and spec.method == "GET":
        yield Problem("invalid_value", "a GET has no body; use query, or method: POST", (*at, "body"))
    yield from _body_problems(spec.body, parameters, (*at, "body"))
    yield from _repetition_problems(spec)


def _header_problems(name: str, value: str, parameters: list[str], path: FieldPath) -> Iterator[Problem]:
    text = parse(value)
    if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
        yield Problem("invalid_value", f"{shown(name)} is no header that a template may set", path)
    if not _VISIBLE.fullmatch("".join(text.parts[::2])):
        yield Problem("invalid_value", "the value of a header is visible ASCII", path)
    yield from problems_in(text, (*_IN_URLS, TOKEN), parameters, path)


def _body_problems(value: Any, parameters: list[str], path: FieldPath) -> Iterator[Problem]:
    if isinstance(value, str):
        yield from problems_in(parse(value), (*_IN_URLS, *WHOLE), parameters, path)
    elif isinstance(value, Mapping):
        for name, part in value.items():
            if "{{" in name:
                yield Problem("template_placeholder", "the name of a field cannot be a placeholder", (*path, name))
            yield from _body_problems(part, parameters, (*path, name))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _body_problems(part, parameters, (*path, number))


def _repetition_problems(spec: RequestSpec) -> Iterator[Problem]:
    """Whether each placeholder that there are several of stands in a list, and the request says whom it asks about."""
    query = {name: compiled(value) for name, value in spec.query.items()}
    places: dict[str, Any] = {"path": parse(spec.path), "query": query, "body": compiled(spec.body)}
    places["headers"] = {name: parse(value) for name, value in spec.headers.items()}
    for place, value in places.items():
        names = set(unbound(value))
        if "feature" in names:
            message = "{{feature}} stands in an element of a list, which is there once for each feature"
            yield Problem("template_placeholder", message, ("request", place))
        if spec.batch > 1 and any(is_of_a_key(name) and name != "columns" for name in names):
            message = "with a batch, a join key stands in an element of a list, which is there once for each entity"
            yield Problem("template_placeholder", message, ("request", place))
    if not any(is_of_a_key(name) for value in places.values() for name in all_names(value)):
        message = "nothing in the request says whose features are asked for: there is no {{join_keys}} in it"
        yield Problem("template_placeholder", message, ("request",))


def _response_problems(spec: ResponseSpec, batch: int) -> Iterator[Problem]:
    at: FieldPath = ("response",)
    yield from problems_in(parse(spec.feature), ("view", "feature"), [], (*at, "feature"))
    pointers: list[tuple[tuple[str, ...], str | None]] = [
        (("name",), spec.name),
        (("value",), spec.value),
        (("joinKey",), spec.join_key),
        *((("status", "at"), each.at) for each in [spec.status] if each is not None),
        *((("time", "at"), each.at) for each in [spec.time] if each is not None),
        *((("type", "at"), each.at) for each in [spec.type] if each is not None),
    ]
    for path, text in pointers:
        if text is not None:
            yield from (Problem("invalid_value", fault, (*at, *path)) for fault in pointer_problems(text, path[0]))
    if batch > 1 and spec.absent:
        message = "with a batch, a status code says nothing of one entity; leave out absent or batch"
        yield Problem("invalid_value", message, (*at, "absent"))
    steps = parse_pointer(spec.value)
    if spec.name is not None and parse_pointer(spec.name).count(COLUMN) != 1:
        yield Problem("invalid_value", "a name's pointer has {{column}} in it, once", (*at, "name"))
    if spec.name is None and any(text is not None and COLUMN in parse_pointer(text) for _, text in pointers):
        message = "{{column}} is the place of a feature among the names: say where those are"
        yield Problem("invalid_value", message, (*at, "name"))
    if batch > 1 and ROW not in steps and ENTITY not in steps:
        message = "with a batch, {{row}} or {{entity}} says which entity's value is meant"
        yield Problem("invalid_value", message, (*at, "value"))
