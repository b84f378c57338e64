"""YAML (and JSON, which is YAML) read into plain values that remember their lines, and bounded against hostile text.

It reads libyaml's events rather than its node tree, because that is where depth, aliases and duplicate keys can be
refused before they cost anything. Plain scalars follow YAML 1.2's core schema: ``no`` and ``2026-11-01`` are strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from extproc.errors import Fault

MAX_DEPTH: Final = 64
MAX_VALUES: Final = 20_000
"""Values in one document, aliases expanded: what it takes to check them is what others may have to wait for."""
MAX_STREAM_VALUES: Final = 100_000
"""Values in all documents of one file."""

Path = tuple[str | int, ...]

_NUMBER_STARTS = frozenset("+-.0123456789")
_MAX_NUMBER_LENGTH: Final = 64
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_RADIX = re.compile(r"0(?:x[0-9a-fA-F]+|o[0-7]+)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
_TAG = "tag:yaml.org,2002:"
_STRING_TAGS = frozenset({"!", _TAG + "str"})
_CONTAINER_TAGS = frozenset({None, "!", _TAG + "map", _TAG + "seq"})


@dataclass(frozen=True, slots=True)
class Node:
    """A value, the line (from 1) where it or its key stands, and its parts by key or index.

    ``size`` counts the values in it, itself included.
    """

    value: Any
    line: int
    parts: Mapping[str | int, Node] = field(default_factory=dict)
    size: int = 1

    def line_of(self, path: Path) -> int:
        """The line of the value at ``path``, or of the last of its parents that is there."""
        node = self
        for step in path:
            if step not in node.parts:
                break
            node = node.parts[step]
        return node.line


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a stream and what is wrong with it as YAML."""

    node: Node
    faults: tuple[Fault, ...]


def dotted(path: Path) -> str | None:
    """``spec.steps[2].setWeight``; names that are not plain are quoted, and the document itself is None."""
    return "".join(_step(step) for step in path).removeprefix(".") or None


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if _PLAIN_NAME.fullmatch(step) else f"[{shown(step)}]"


def shown(text: str) -> str:
    """Text from a document as a message may hold it: quoted, escaped, and not long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def read_documents(text: str, file: str | None = None) -> tuple[list[Document], list[Fault]]:
    """The documents of ``text``, empty ones left out, and the fault that ended the reading early, if one did.

    Codes: ``yaml_syntax``, ``yaml_too_deep``, ``yaml_too_many_aliases`` and ``document_too_large`` end it;
    ``duplicate_key``, ``yaml_merge_key`` and ``yaml_tag`` are faults of a document.
    """
    reader = _Reader(text, file)
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

    def __init__(self, text: str, file: str | None) -> None:
        self.documents: list[Document] = []
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._file = file
        self._anchors: dict[str, Node] = {}
        self._faults: list[Fault] = []
        self._values = self._all_values = 0
        self._aliased = False

    def read(self) -> None:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors, self._faults, self._values, self._aliased = {}, [], 0, False
                node = self._node(next(self._events), ())
                if node.value is not None or self._faults:
                    self.documents.append(Document(node, tuple(self._faults)))

    def _node(self, event: Any, path: Path, line: int | None = None) -> Node:
        """The node that starts with ``event``; ``line`` is its key's, where it has one."""
        line = event.start_mark.line + 1 if line is None else line
        if len(path) > MAX_DEPTH:
            raise self._stop("yaml_too_deep", f"nested deeper than {MAX_DEPTH} levels", line, ())
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path, line)
        self._count(1, line, path)
        if isinstance(event, yaml.ScalarEvent):
            node = Node(self._scalar(event, path, line), line)
        elif isinstance(event, yaml.MappingStartEvent):
            node = self._mapping(event, path, line)
        else:
            node = self._sequence(event, path, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _mapping(self, event: Any, path: Path, line: int) -> Node:
        self._check_tag(event, path, line)
        parts: dict[str | int, Node] = {}
        for key in self._until(yaml.MappingEndEvent):
            key_line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarEvent):
                raise self._stop("yaml_syntax", "a key is text, not a list, a mapping or an alias", key_line, path)
            inner = (*path, key.value)
            node = self._node(next(self._events), inner, key_line)
            if key.value == "<<" and key.implicit[0]:
                self._fault("yaml_merge_key", "merge keys (<<) are not read; write the fields out", key_line, inner)
            elif key.value in parts:
                first = parts[key.value].line
                self._fault("duplicate_key", f"{shown(key.value)} is already set on line {first}", key_line, inner)
            else:
                parts[key.value] = node
        value = {key: node.value for key, node in parts.items()}
        return Node(value, line, parts, 1 + sum(node.size for node in parts.values()))

    def _sequence(self, event: Any, path: Path, line: int) -> Node:
        self._check_tag(event, path, line)
        items = [self._node(item, (*path, i)) for i, item in enumerate(self._until(yaml.SequenceEndEvent))]
        value = [node.value for node in items]
        return Node(value, line, dict(enumerate(items)), 1 + sum(node.size for node in items))

    def _until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _alias(self, event: Any, path: Path, line: int) -> Node:
        target = self._anchors.get(event.anchor)
        if target is None:
            raise self._stop("yaml_syntax", f"the alias {shown(event.anchor)} has no anchor before it", line, path)
        self._aliased = True
        self._count(target.size, line, path)
        return Node(target.value, line, target.parts, target.size)

    def _scalar(self, event: Any, path: Path, line: int) -> Any:
        text: str = event.value
        if event.tag is None:
            return _plain(text) if event.implicit[0] else text
        if event.tag not in _STRING_TAGS:
            self._fault("yaml_tag", f"the tag {shown(event.tag)} is not read", line, path)
        return text

    def _check_tag(self, event: Any, path: Path, line: int) -> None:
        if event.tag not in _CONTAINER_TAGS:
            self._fault("yaml_tag", f"the tag {shown(event.tag)} is not read", line, path)

    def _count(self, values: int, line: int, path: Path) -> None:
        self._values += values
        self._all_values += values
        if self._values > MAX_VALUES:
            code = "yaml_too_many_aliases" if self._aliased else "document_too_large"
            raise self._stop(code, f"more than {MAX_VALUES} values in a document, aliases written out", line, path)
        if self._all_values > MAX_STREAM_VALUES:
            message = f"more than {MAX_STREAM_VALUES} values in a file: put some of its documents into another"
            raise self._stop("document_too_large", message, line, path)

    def _fault(self, code: str, message: str, line: int, path: Path) -> None:
        self._faults.append(Fault(code, message, self._file, line, dotted(path)))

    def _stop(self, code: str, message: str, line: int, path: Path) -> _Stopped:
        return _Stopped(Fault(code, message, self._file, line, dotted(path)))


def _plain(text: str) -> Any:
    """An unquoted scalar by the core schema; infinities and endless numbers, which no document needs, stay text."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in _NUMBER_STARTS or len(text) > _MAX_NUMBER_LENGTH:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _RADIX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _syntax_fault(error: yaml.YAMLError, text: str, file: str | None) -> Fault:
    """What libyaml says, in one sentence with a line."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        return Fault("yaml_syntax", message, file, mark.line + 1 if mark else None)
    if isinstance(error, yaml.reader.ReaderError):
        character = chr(error.character) if isinstance(error.character, int) else ""
        line = text.count("\n", 0, max(text.find(character), 0)) + 1
        return Fault("yaml_syntax", f"{error.reason}: {character!r}", file, line)
    return Fault("yaml_syntax", str(error), file)
