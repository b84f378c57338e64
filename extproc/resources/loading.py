"""From files to documents: every fault of every file in one go, each with its code, file, line and field."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from math import inf
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import ValidationError

from extproc.errors import Fault, InvalidInput
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.checks import find_conflicts
from extproc.resources.deadline import beyond_deadline
from extproc.resources.document import API_VERSION, Resource
from extproc.resources.faults import Problem, problems_of, with_example
from extproc.resources.file_names import is_unicode
from extproc.resources.folders import FolderListing, list_folder
from extproc.resources.kinds import KINDS, DocumentKind
from extproc.resources.loaded import LoadedDocument, R
from extproc.resources.marked_yaml import Document, Path, dotted, read_documents, shown
from extproc.resources.remainder import beside, remainder
from extproc.resources.rollout import KIND, Rollout
from extproc.suggestions import close_to, did_you_mean, listed

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_FAULTS: Final = 1000
"""Faults that are listed of one file; a hostile one has a hundred thousand."""
_ENOUGH: Final = MAX_FAULTS + 1
SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
UNREAD_CODES: Final = frozenset({"file_not_found", "file_unreadable"})
"""Faults that say nothing of what a file holds: it may be another one at the next try."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a set of paths holds: the documents that are valid by themselves, and every fault of the others.

    ``partly`` is what those are without the fields that have faults, where that is a document (``remainder``).
    """

    documents: list[LoadedDocument[Any]]
    faults: list[Fault]
    partly: list[LoadedDocument[Any]] = field(default_factory=list)


def load_paths(paths: Iterable[str | os.PathLike[str]]) -> Loaded:
    """Read files, and the ``.yaml``, ``.yml`` and ``.json`` files of folders and their sub-folders.

    Links are followed, hidden files and folders left out; a file that two paths lead to is read once. Documents are
    checked one by one: what they say together is for ``checks``. Nothing is raised; a path without documents is a
    fault.
    """
    loaded = Loaded([], [])
    seen: set[str] = set()
    for path in paths:
        for file in _files(FilePath(path), loaded.faults):
            real = os.path.realpath(file)
            if real not in seen:
                seen.add(real)
                _load_file(file, loaded)
    return loaded


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """What one file holds; ``digest`` is that of its content, None if it could not be read."""

    loaded: Loaded
    digest: bytes | None


def load_file(file: str, known: LoadedFile | None = None) -> LoadedFile:
    """Read one file. It is parsed unless its content is that of ``known``, what was read of this file before.

    Checked as by ``load_paths``; nothing is raised.
    """
    data = _read(FilePath(file))
    if isinstance(data, Fault):
        return LoadedFile(Loaded([], [data]), None)
    digest = blake2b(data).digest()
    if known is not None and known.digest == digest:
        return known
    loaded = Loaded([], [])
    _load(data, file, loaded)
    return LoadedFile(loaded, digest)


def load_valid(paths: Iterable[str | os.PathLike[str]], *, deadline: float = inf) -> list[LoadedDocument[Any]]:
    """The documents of ``paths``, checked one by one and together; ``deadline`` as in ``beyond_deadline``.

    Raises:
        InvalidInput: with every fault of every file.
    """
    loaded = load_paths(paths)
    judged = [*loaded.documents, *loaded.partly]
    faults = list(loaded.faults)
    for conflict in find_conflicts([document.placed for document in judged]):
        faults.append(conflict.fault(judged[conflict.second].line_at(conflict.path)))
    faults.extend(beyond_deadline(judged, deadline))
    if faults:
        raise InvalidInput(faults)
    return loaded.documents


def of_kind(documents: Iterable[LoadedDocument[Any]], model: type[R]) -> list[LoadedDocument[R]]:
    """Those of ``documents`` that are a ``model``."""
    return [document for document in documents if isinstance(document.resource, model)]


def parse_rollout(body: Mapping[str, Any], file: str | None = None) -> Rollout:
    """The Rollout that ``body`` is, as read from a store.

    Raises:
        InvalidInput: with every fault of the document.
    """
    return _parsed(body, Rollout, file)


def rollout_body(namespace: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a Rollout with this ``spec``."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }


def parse_known(body: Mapping[str, Any]) -> Rollout:
    """What of a Rollout in a store this version knows: fields that a newer version has beside are left out.

    It is enough to take something away by, and to serve stable; whatever is given needs ``parse_rollout``.

    Raises:
        InvalidInput: with every fault, where another is among them than unknown fields.
    """
    known = deepcopy(dict(body))
    while isinstance(problems := _check(known, [KINDS[KIND]]), list):
        removed = [problem.code == "unknown_field" and _removed(known, problem.path) for problem in problems]
        if not all(removed):
            return parse_rollout(body)
    assert isinstance(problems, Rollout)
    return problems


def _removed(value: Any, path: Path) -> bool:
    """Whether there was a field at ``path`` of a document to be taken out."""
    try:
        for part in path[:-1]:
            value = value[part]
        del value[path[-1]]
    except (LookupError, TypeError):
        return False
    return True


def parse_template(body: Mapping[str, Any], file: str | None = None) -> AnalysisTemplate:
    """The AnalysisTemplate that ``body`` is, as read from a store.

    Raises:
        InvalidInput: with every fault of the document.
    """
    return _parsed(body, AnalysisTemplate, file)


def _parsed(body: object, model: type[R], file: str | None) -> R:
    outcome = _check(body, [kind for kind in KINDS.values() if kind.model is model])
    if isinstance(outcome, model):
        return outcome
    assert isinstance(outcome, list)
    raise InvalidInput(Fault(p.code, p.advice(None), file=file, field=dotted(p.path)) for p in outcome)


def _check(body: object, kinds: Sequence[DocumentKind] = tuple(KINDS.values())) -> Resource | list[Problem]:
    """The model of a document that is one of ``kinds``, or everything that is wrong with it."""
    if not isinstance(body, Mapping):
        return [Problem("mistyped_value", "a document is a mapping with apiVersion, kind, metadata and spec", ())]
    if foreign := list(_foreign(body, kinds)):
        return [*foreign, *_as_meant(body, kinds)]
    # One that does not say what it is is judged as the first.
    kind = next((kind for kind in kinds if kind.name == body.get("kind")), kinds[0])
    problems = [with_example(problem, kind.model) for problem in islice(kind.between(body), _ENOUGH)]
    try:
        resource = kind.model.model_validate(dict(body))
    except ValidationError as error:
        found = [*problems_of(error, kind.model, _ENOUGH), *problems]
        return list({(problem.code, problem.path): problem for problem in found}.values())
    return problems or list(kind.beyond(resource)) or resource


def _foreign(body: Mapping[str, Any], kinds: Sequence[DocumentKind]) -> Iterator[Problem]:
    """What makes the document somebody else's: then its fields are not ours to judge."""
    kind, version = body.get("kind"), body.get("apiVersion")
    names = [kind.name for kind in kinds]
    if isinstance(kind, str) and kind not in names:
        known = did_you_mean(kind, names) or f"; {listed(names)} {'is' if len(names) == 1 else 'are'}"
        yield Problem("unsupported_kind", f"kind {shown(kind)} is not known here{known}", ("kind",))
    if isinstance(version, str) and version != API_VERSION:
        yield Problem(
            "unsupported_api_version", f"{shown(version)} is not known here; {API_VERSION} is", ("apiVersion",)
        )


def _as_meant(body: Mapping[str, Any], kinds: Sequence[DocumentKind]) -> Iterable[Problem]:
    """What else is wrong with a document whose kind is only misspelt."""
    names = [kind.name for kind in kinds]
    meant = close_to(str(body.get("kind")), names)
    if meant is None or body.get("kind") in names or body.get("apiVersion", API_VERSION) != API_VERSION:
        return ()
    found = _check({**body, "kind": meant}, kinds)
    return found if isinstance(found, list) else ()


def list_documents(folder: str | os.PathLike[str]) -> FolderListing:
    """The files of ``folder`` and its sub-folders that may hold documents."""
    return list_folder(FilePath(folder), lambda name: os.path.splitext(name)[1] in SUFFIXES)  # noqa: PTH122 - a text


def _files(path: FilePath, faults: list[Fault]) -> Iterator[FilePath]:
    """The files that ``path`` stands for, in order; a folder without any is a fault."""
    if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where it may not be asked
        yield path
        return
    listing = list_documents(path)
    faults.extend(_file_fault(why.number, place) for place, why in listing.unreadable.items())
    if not listing.files and not listing.unreadable:
        suffixes = ", ".join(sorted(SUFFIXES))
        faults.append(Fault("no_documents", f"the folder holds no file that ends in {suffixes}", str(path)))
    yield from map(FilePath, listing.files)


def _load_file(file: FilePath, loaded: Loaded) -> None:
    """Add what ``file`` holds to ``loaded``."""
    data = _read(file)
    if isinstance(data, Fault):
        loaded.faults.append(data)
    else:
        _load(data, str(file), loaded)


def _load(data: bytes, name: str, loaded: Loaded) -> None:
    """Add what ``data``, the content of the file ``name``, holds to ``loaded``."""
    text = _text(data, name)
    if isinstance(text, Fault):
        loaded.faults.append(text)
        return
    documents, ending = read_documents(text, name)
    if not documents and not ending:
        ending = [Fault("no_documents", "the file holds no document", name)]
    faults: list[Fault] = []
    for document in documents:
        outcome = _load_document(document, name)
        if isinstance(outcome, LoadedDocument):
            loaded.documents.append(outcome)
            continue
        faults.extend(outcome.faults)
        loaded.partly.extend(outcome.partly)
        if len(faults) > MAX_FAULTS:
            message = f"only the first {MAX_FAULTS} faults of this file are listed"
            faults[MAX_FAULTS:] = [Fault("too_many_faults", message, name)]
            break
    loaded.faults.extend(faults + ending)


def _load_document(document: Document, file: str) -> LoadedDocument[Any] | Loaded:
    """The document, or what is wrong with it by line, and what it is without that."""
    node = document.node
    outcome: Resource | list[Problem] = _check(node.value)
    problems, rest = _judged(node.value, outcome)
    faults = list(document.faults)
    for p in problems:
        message, line = p.advice(node.written_at(p.path)), node.at(p.path).line
        faults.append(Fault(p.code, message, file=file, line=line, field=dotted(p.path)))
    if rest is not None and not faults:
        return LoadedDocument(rest, node, file)
    partly = [LoadedDocument(rest, node, file)] if rest is not None else []
    return Loaded([], sorted(faults, key=lambda fault: fault.line or 0), partly)


def _judged(body: Any, outcome: Resource | list[Problem]) -> tuple[list[Problem], Resource | None]:
    """All that is wrong with a document of which ``_check`` says ``outcome``, and what it is without that."""
    if not isinstance(outcome, list):
        return list(KINDS[outcome.kind].in_vain(outcome)), outcome
    if not isinstance(body, Mapping):
        return outcome, None
    return list(dict.fromkeys([*outcome, *beside(body, outcome)])), remainder(body, outcome)


def _read(file: FilePath) -> bytes | Fault:
    """The file's content; never much more of it than a file may have."""
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return _file_fault(error.errno or errno.EIO, str(file))


def _text(data: bytes, name: str) -> str | Fault:
    """The text that a file's content is."""
    if not is_unicode(name):
        return Fault("file_name", "the name of the file is not UTF-8", name)
    if len(data) > MAX_FILE_BYTES:
        return Fault("document_too_large", f"the file is larger than {MAX_FILE_BYTES} bytes", name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Fault("not_utf8", f"byte {data[error.start]:#04x} is not UTF-8", name, line)


def _file_fault(number: int, name: str) -> Fault:
    """What keeps a file from being read, by the number of the system's error."""
    if number == errno.ENOENT and not os.path.islink(name):  # noqa: PTH114 - a text
        return Fault("file_not_found", "no such file or folder", name)
    return Fault("file_unreadable", f"cannot be read: {os.strerror(number)}", name)
