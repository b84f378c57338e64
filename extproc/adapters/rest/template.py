"""The template of a REST feature store: how it is asked, and where in its answer what stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError
from pydantic.functional_validators import AfterValidator

from extproc.adapters.access import PARAMETERS
from extproc.adapters.rest.pointers import COLUMN, ROW, parse_pointer, pointer_problems
from extproc.adapters.rest.texts import (
    JOIN_KEY,
    TOKEN,
    VALUES,
    WHOLE,
    TemplateText,
    compiled,
    is_of_a_key,
    parse,
    problems_in,
    unbound,
)
from extproc.errors import Fault, InvalidInput
from extproc.files import read_regular, why_not
from extproc.resources.document import Part, such_as
from extproc.resources.faults import Problem, problems_of
from extproc.resources.fields import invalid
from extproc.resources.marked_yaml import FieldPath, YamlNode, dotted, read_documents, shown

MAX_FILE_BYTES: Final = 1 << 20
MAX_BATCH: Final = 64
TEMPLATE: Final = "template"
"""The URL's parameter that names the template."""

_FOLDER: Final = Path(__file__).parent / "templates"
_MAX_PROBLEMS: Final = 100
_PATH: Final = re.compile(r"/[!\"$->@-~]*")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VISIBLE: Final = re.compile(r"[ -~]*")
_PARAMETER: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_OURS: Final = ("host", "content-length", "transfer-encoding", "connection", "accept-encoding")
_IN_URLS: Final = (*VALUES, JOIN_KEY)

FeatureType = Literal["any", "string", "integer", "number", "boolean", "strings", "integers", "numbers", "booleans"]
"""What a feature is; the plural is a list of such."""


def _parameter(name: str) -> str:
    if name in (TEMPLATE, *PARAMETERS):
        raise invalid(f"every URL has a parameter {shown(name)}")
    if not _PARAMETER.fullmatch(name):
        raise invalid(f"{shown(name)} is no name of a parameter: lower-case letters, digits and '-'")
    return name


class RequestSpec(Part):
    """How the store is asked."""

    method: Literal["GET", "POST"] = "POST"
    """The method of the request."""
    path: Annotated[str, such_as("/get-online-features")]
    """The path below that of the URL, in which placeholders are percent-encoded."""
    query: Mapping[str, str | list[str]] = {}
    """Parameters behind the path; of a list, each element is one."""
    headers: Mapping[str, str] = {}
    """Headers beside those of HTTP; {{token}} is what token-file holds."""
    body: Any = None
    """The body of a POST, as JSON."""
    integers: Literal["number", "string"] = "number"
    """What a join key that is a whole number is in the body."""
    batch: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 1
    """Entities of a view that one request may ask about."""


class StatusSpec(Part):
    """Where the answer says whether there is a value."""

    at: Annotated[str, such_as("/results/{{column}}/statuses/{{row}}")]
    """Where a feature's status is."""
    present: Annotated[list[str], Field(min_length=1, examples=[["PRESENT"]])]
    """The statuses of features that have a value."""


class TimeSpec(Part):
    """Where the answer says how old a value is."""

    at: Annotated[str, such_as("/results/{{column}}/event_timestamps/{{row}}")]
    """Where the event time is: of each feature, or of all of an entity."""
    format: Literal["rfc3339", "unix_seconds", "unix_milliseconds"] = "rfc3339"
    """How the time is written."""


class TypeSpec(Part):
    """Where the answer says what a feature is."""

    at: Annotated[str, such_as("/metadata/features/{{column}}/dataType/type")]
    """Where a feature's type is."""
    names: Mapping[str, FeatureType]
    """What the store's names of types mean; of another, a value stays as it came."""


class ResponseSpec(Part):
    """Where in the answer, which is JSON, what stands: JSON pointers with placeholders for steps."""

    name: Annotated[str | None, such_as("/metadata/feature_names/{{column}}")] = None
    """Where the name of a column is, in an answer that tells values by their place."""
    feature: Annotated[str, such_as("{{view}}__{{feature}}")] = "{{feature}}"
    """What the answer calls a feature."""
    value: Annotated[str, such_as("/outputs/{{row}}/{{feature}}")]
    """Where a value is."""
    nulls: Literal["missing", "value"] = "missing"
    """What null is, and NaN: no value, or one."""
    status: StatusSpec | None = None
    """Where the answer says whether there is a value."""
    time: TimeSpec | None = None
    """Where the answer says how old a value is; left out, no age is known."""
    type: TypeSpec | None = None
    """Where the answer says what a feature is."""
    join_key: Annotated[str | None, such_as("/results/{{column}}/values/{{row}}")] = None
    """Where the answer repeats a join key: an answer about another entity is refused."""
    absent: list[Annotated[int, Field(ge=400, le=499)]] = []
    """Status codes that say that there is no such entity, such as 404."""


class ViewSpec(Part):
    """A view that the store has."""

    join_keys: Annotated[Mapping[str, Literal["string", "integer"]], Field(min_length=1)]
    """Its join keys, and what they are."""
    features: Annotated[Mapping[str, FeatureType], Field(min_length=1)]
    """Its features, and what they are; a value of another type is refused."""


class Template(Part):
    """How a feature store is asked over HTTP."""

    parameters: list[Annotated[str, AfterValidator(_parameter)]] = []
    """Names that the URL has to give a value, for {{parameters.NAME}}."""
    request: RequestSpec
    """How the store is asked."""
    response: ResponseSpec
    """Where in its answer what stands."""
    views: Mapping[str, ViewSpec] | None = None
    """The views that the store has; left out, nothing is known of them."""


def bundled() -> list[str]:
    """The names of the templates that come with Dropout."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def read_template(name: str, flag: str) -> Template:
    """The template that ``name`` is: one that comes with Dropout, else a file.

    Raises:
        InvalidInput: with every fault of the file.
    """
    path = _FOLDER / f"{name}.yaml" if name in bundled() else Path(name)
    try:
        text = read_regular(path, MAX_FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = why_not(error, path) if isinstance(error, OSError) else "it is no text"
        message = f"the template cannot be read: {why}; one that comes with Dropout is {' or '.join(bundled())}"
        raise InvalidInput.of("file_unreadable", message, file=name, field=flag) from None
    documents, faults = read_documents(text, name)
    for document in documents:
        faults += document.faults
    if faults or len(documents) != 1:
        wrong = Fault("template_invalid", "a template is one document, a mapping with request and response", name)
        raise InvalidInput(faults or [wrong])
    return _checked(documents[0].node, name)


def _checked(node: YamlNode, file: str) -> Template:
    if not isinstance(node.value, Mapping):
        raise InvalidInput.of("mistyped_value", "a template is a mapping with request and response", file=file)
    problems: list[Problem] = []
    template: Template | None = None
    try:
        template = Template.model_validate(node.value)
        problems += _problems(template)
    except ValidationError as error:
        problems = problems_of(error, Template, _MAX_PROBLEMS)
    if problems or template is None:
        faults = [
            Fault(p.code, p.advice(node.written_at(p.path)), file, node.at(p.path).line, dotted(p.path))
            for p in problems[:_MAX_PROBLEMS]
        ]
        raise InvalidInput(sorted(faults, key=lambda fault: fault.line or 0))
    return template


def _problems(template: Template) -> Iterator[Problem]:
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


def all_names(value: Any) -> Iterator[str]:
    """Every placeholder of a compiled value."""
    if isinstance(value, TemplateText):
        yield from value.names
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from all_names(part)
    elif isinstance(value, list):
        for element in value:
            yield from all_names(element.element)


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
    if batch > 1 and ROW not in steps and "{{entity}}" not in steps:
        message = "with a batch, {{row}} or {{entity}} says which entity's value is meant"
        yield Problem("invalid_value", message, (*at, "value"))
