"""YAML (and JSON, which is YAML) read into plain values that remember their lines, and bounded against hostile text.

It reads libyaml's events rather than its node tree, because that is where depth, aliases and duplicate keys can be
refused before they cost anything. What YAML leaves open is a ``Dialect``: that of documents, and that of policies'
data, which is OPA's. In both ``no``, ``22:00`` and ``2026-11-01`` are strings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import yaml

from extproc.errors import Fault
from extproc.resources.plain_scalars import NotJson, core_schema, opa_schema

MAX_VALUES: Final = 20_000
"""Values in one document, aliases expanded: what it takes to check them is what others may have to wait for."""
MAX_STREAM_VALUES: Final = 100_000
"""Values in all documents of one file."""
MAX_REPEATED: Final = 4 * 1_048_576
"""Characters that aliases repeat in one file."""

FieldPath = tuple[str | int, ...]

_INTEGER_KEY = re.compile(r"[-+]?(?:0[xXoObB]?[0-9a-fA-F_]*|[1-9][0-9_]*)")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
_TAG = "tag:yaml.org,2002:"
_STRING_TAGS = frozenset({"!", _TAG + "str"})
_CONTAINER_TAGS = frozenset({None, "!", _TAG + "map", _TAG + "seq"})
_SCALAR_TAGS: Final[Mapping[str, tuple[type, ...]]] = {
    _TAG + "null": (type(None),),
    _TAG + "bool": (bool,),
    _TAG + "int": (int,),
    _TAG + "float": (int, float),
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What YAML leaves open, and how much of it there may be.

    ``as_opa``: merge keys are read, keys may be whole numbers and booleans, and a tag may name a scalar's type.
    """

    plain: Callable[[str], Any]
    as_opa: bool
    max_depth: int
    max_values: int
    max_stream_values: int


DOCUMENTS: Final = Dialect(core_schema, False, 64, MAX_VALUES, MAX_STREAM_VALUES)
DATA: Final = Dialect(opa_schema, True, 100, 1_000_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class YamlNode:
    """A value, the line (from 1) where it or its key stands, and its parts by key or index.

    ``size`` counts the values in it, itself included, and ``length`` the characters. ``written`` is the text of a
    scalar without quotes.
    """

    value: Any
    line: int
    parts: Mapping[str | int, YamlNode] = field(default_factory=dict)
    size: int = 1
    length: int = 0
    written: str | None = None

    def at(self, path: FieldPath) -> YamlNode:
        """The value at ``path``, or the last of its parents that is there."""
        node = self
        for step in path:
            if step not in node.parts:
                break
            node = node.parts[step]
        return node

    def written_at(self, path: FieldPath) -> str | None:
        """The text of the scalar without quotes at ``path``, if there is one."""
        node: YamlNode | None = self
        for step in path:
            node = node.parts.get(step) if node is not None else None
        return node.written if node is not None else None


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a stream and what is wrong with it as YAML."""

    node: YamlNode
    faults: tuple[Fault, ...]


def dotted(path: FieldPath) -> str | None:
    """``spec.steps[2].setWeight``; names that are not plain are quoted, and the document itself is None."""
    return "".join(_step(step) for step in path).removeprefix(".") or None


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if _PLAIN_NAME.fullmatch(step) else f"[{shown(step)}]"


def shown(text: str) -> str:
    """Text from a document as a message may hold it: quoted, escaped, and not long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def read_documents(
    text: str, file: str | None = None, dialect: Dialect = DOCUMENTS
) -> tuple[list[Document], list[Fault]]:
    """The documents of ``text``, empty ones left out, and the fault that ended the reading early, if one did.

    Codes: ``yaml_syntax``, ``yaml_too_deep``, ``yaml_too_many_aliases`` and ``document_too_large`` end it;
    ``duplicate_key``, ``yaml_merge_key``, ``yaml_key``, ``yaml_number``, ``yaml_version`` and ``yaml_tag`` are faults
    of a document.
    """
    reader = _Reader(text, file, dialect)
    try:
        reader.read()
    except _Stopped as stopped:
        return reader.documents, [stopped.fault]
    except yaml.YAMLError as error:
        return reader.documents, [_syntax_fault(error, text, file)]
    return reader.documents, []


class _Stopped(Exception):
    """Reading cannot go on after ``fault``."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault


class _Reader:
    """Turns the events of one stream into documents; what it has so far survives an error."""

    def __init__(self, text: str, file: str | None, dialect: Dialect) -> None:
        self._dialect = dialect
        self.documents: list[Document] = []
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._file = file
        self._anchors: dict[str, YamlNode] = {}
        self._faults: list[Fault] = []
        self._values = self._all_values = self._repeated = 0
        self._aliased = False

    def read(self) -> None:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors, self._faults, self._values, self._aliased = {}, [], 0, False
                self._check_version(event)
                node = self._node(next(self._events), ())
                if node.value is not None or self._faults:
                    self.documents.append(Document(node, tuple(self._faults)))

    def _check_version(self, event: Any) -> None:
        if self._dialect.as_opa and event.version not in (None, (1, 1)):
            self._fault("yaml_version", "OPA reads no other YAML than 1.1", event.start_mark.line + 1, ())

    def _node(self, event: Any, path: FieldPath, line: int | None = None) -> YamlNode:
        """The node that starts with ``event``; ``line`` is its key's, where it has one."""
        line = event.start_mark.line + 1 if line is None else line
        if len(path) > self._dialect.max_depth:
            raise self._stop("yaml_too_deep", f"nested deeper than {self._dialect.max_depth} levels", line, ())
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path, line)
        self._count(1, line, path)
        if isinstance(event, yaml.ScalarEvent):
            written = None if _is_quoted(event) else event.value
            node = YamlNode(self._scalar(event, path, line), line, length=len(event.value), written=written)
        elif isinstance(event, yaml.MappingStartEvent):
            node = self._mapping(event, path, line)
        else:
            node = self._sequence(event, path, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _mapping(self, event: Any, path: FieldPath, line: int) -> YamlNode:
        self._check_tag(event, path, line)
        parts: dict[str | int, YamlNode] = {}
        merged: list[YamlNode] = []
        for key in self._until(yaml.MappingEndEvent):
            key_line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarEvent):
                raise self._stop("yaml_syntax", "a key is text, not a list, a mapping or an alias", key_line, path)
            name = self._key(key, key_line, path)
            inner = (*path, name)
            node = self._node(next(self._events), inner, key_line)
            if name == "<<" and key.implicit[0]:
                merged += self._merge(node, merged, key_line, inner)
            elif name in parts:
                first = parts[name].line
                self._fault("duplicate_key", f"{shown(name)} is already set on line {first}", key_line, inner)
            else:
                parts[name] = node
        for part in merged:
            parts = {**part.parts, **parts}
        value = {key: node.value for key, node in parts.items()}
        length = sum(len(str(key)) + node.length for key, node in parts.items())
        return YamlNode(value, line, parts, 1 + sum(node.size for node in parts.values()), length)

    def _key(self, key: Any, line: int, path: FieldPath) -> str:
        """The name that a key is: in data a whole number or a boolean may be one."""
        text: str = key.value
        if not self._dialect.as_opa or not key.implicit[0]:
            return text
        try:
            value = self._dialect.plain(text)
        except NotJson:
            value = None
        match value:
            case bool():
                return "true" if value else "false"
            case int() if _INTEGER_KEY.fullmatch(text):
                return str(value)
            case str():
                return value
        self._fault("yaml_key", f"a key is text: put {shown(text)} in quotes", line, path)
        return text

    def _merge(self, node: YamlNode, earlier: list[YamlNode], line: int, path: FieldPath) -> list[YamlNode]:
        """The mappings that a merge key names, the one that wins first."""
        if not self._dialect.as_opa:
            self._fault("yaml_merge_key", "merge keys (<<) are not read; write the fields out", line, path)
            return []
        if earlier:
            self._fault("duplicate_key", "there is a merge key (<<) here already; it may name a list", line, path)
            return []
        named = [node] if isinstance(node.value, dict) else [*node.parts.values()]
        if not named or not all(isinstance(part.value, dict) for part in named):
            self._fault("yaml_merge_key", "a merge key (<<) names a mapping, or a list of mappings", line, path)
            return []
        return named

    def _sequence(self, event: Any, path: FieldPath, line: int) -> YamlNode:
        self._check_tag(event, path, line)
        items = [self._node(item, (*path, i)) for i, item in enumerate(self._until(yaml.SequenceEndEvent))]
        value = [node.value for node in items]
        size, length = 1 + sum(node.size for node in items), sum(node.length for node in items)
        return YamlNode(value, line, dict(enumerate(items)), size, length)

    def _until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _alias(self, event: Any, path: FieldPath, line: int) -> YamlNode:
        target = self._anchors.get(event.anchor)
        if target is None:
            raise self._stop("yaml_syntax", f"the alias {shown(event.anchor)} has no anchor before it", line, path)
        self._aliased = True
        self._count(target.size, line, path)
        self._repeated += target.length
        if self._repeated > MAX_REPEATED:
            message = f"aliases repeat more than {MAX_REPEATED} characters"
            raise self._stop("yaml_too_many_aliases", message, line, path)
        return replace(target, line=line)

    def _scalar(self, event: Any, path: FieldPath, line: int) -> Any:
        text: str = event.value
        as_opa = self._dialect.as_opa
        if event.tag is None or (as_opa and event.tag == "!"):
            return text if _is_quoted(event) else self._plain(text, line, path)
        if event.tag in _STRING_TAGS:
            return text
        types = _SCALAR_TAGS.get(event.tag) if as_opa else None
        if types is None:
            self._fault("yaml_tag", f"the tag {shown(event.tag)} is not read", line, path)
            return text
        value = self._plain(text, line, path)
        if type(value) not in types:
            self._fault("yaml_tag", f"this is no {event.tag.rpartition(':')[2]}", line, path)
        return value

    def _plain(self, text: str, line: int, path: FieldPath) -> Any:
        try:
            return self._dialect.plain(text)
        except NotJson as error:
            self._fault("yaml_number", str(error), line, path)
            return None

    def _check_tag(self, event: Any, path: FieldPath, line: int) -> None:
        if event.tag not in _CONTAINER_TAGS:
            self._fault("yaml_tag", f"the tag {shown(event.tag)} is not read", line, path)

    def _count(self, values: int, line: int, path: FieldPath) -> None:
        self._values += values
        self._all_values += values
        most, most_in_all = self._dialect.max_values, self._dialect.max_stream_values
        if self._values > most:
            code = "yaml_too_many_aliases" if self._aliased else "document_too_large"
            raise self._stop(code, f"more than {most} values in a document, aliases written out", line, path)
        if self._all_values > most_in_all:
            message = f"more than {most_in_all} values in a file: put some of its documents into another"
            raise self._stop("document_too_large", message, line, path)

    def _fault(self, code: str, message: str, line: int, path: FieldPath) -> None:
        self._faults.append(Fault(code, message, self._file, line, dotted(path)))

    def _stop(self, code: str, message: str, line: int, path: FieldPath) -> _Stopped:
        return _Stopped(Fault(code, message, self._file, line, dotted(path)))


def _is_quoted(event: Any) -> bool:
    return event.style not in (None, "")


_ADVICE: Final = {
    "mapping values are not allowed": "a line is indented otherwise than it should be, or text with ': ' lacks quotes",
    "did not find expected key": "a line is indented otherwise than those beside it",
    "found unexpected end of stream": "a quote is not closed",
    "did not find expected ','": "a bracket is not closed",
}
"""What an author most likely did, by a part of what libyaml says."""


def _advised(said: str, lines: list[str], column: int) -> str:
    """What libyaml ``said`` of a place in a line, if it is one, with what the author most likely did."""
    line = lines[0] if lines else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or line[column : column + 1] == "\t":
        return "there is a tab, which YAML does not take for indentation: use spaces"
    if "cannot start any token" in said:
        return f"no value begins with {shown(line[column : column + 1])}: put it in quotes"
    advice = next((advice for part, advice in _ADVICE.items() if part in said), "")
    return f"{said}: {advice}" if advice else said


def _syntax_fault(error: yaml.YAMLError, text: str, file: str | None) -> Fault:
    """What libyaml says, in one sentence with a line."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        message = _advised(said, text.split("\n")[mark.line : mark.line + 1], mark.column) if mark else said
        return Fault("yaml_syntax", message, file, mark.line + 1 if mark else None)
    if isinstance(error, yaml.reader.ReaderError):
        character = chr(error.character) if isinstance(error.character, int) else ""
        line = text.count("\n", 0, max(text.find(character), 0)) + 1
        return Fault("yaml_syntax", f"{error.reason}: {character!r}", file, line)
    return Fault("yaml_syntax", str(error), file)
