"""From files to documents: every fault of every file in one go, each with its code, file, line and field."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from hashlib import blake2b
from math import inf
from pathlib import Path
from typing import Any, Final

from extproc.errors import Fault, InvalidInput
from extproc.files import why_not
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.checks import find_conflicts
from extproc.resources.deadline import beyond_deadline
from extproc.resources.document import API_VERSION
from extproc.resources.drafts import Draft, study
from extproc.resources.file_names import is_unicode
from extproc.resources.folders import FolderListing, list_folder
from extproc.resources.kinds import KINDS
from extproc.resources.loaded import LoadedDocument, R
from extproc.resources.marked_yaml import Document, FieldPath, dotted, read_documents
from extproc.resources.one_document import MAX_FAULTS, check
from extproc.resources.rollout import KIND, Rollout

MAX_FILE_BYTES: Final = 1024 * 1024
SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
UNREAD_CODES: Final = frozenset({"file_not_found", "file_unreadable"})
"""Faults that say nothing of what a file holds: it may be another one at the next try."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a set of paths holds: the documents that are valid by themselves, and every fault of the others.

    ``meant`` is all of them in their order, of those others what they were meant to be, as far as that is known.
    """

    documents: list[LoadedDocument[Any]]
    faults: list[Fault]
    meant: list[Draft]


def load_paths(paths: Iterable[str | os.PathLike[str]]) -> Loaded:
    """Read files, and the ``.yaml``, ``.yml`` and ``.json`` files of folders and their sub-folders.

    Links are followed, hidden files and folders left out; a file that two paths lead to is read once. Documents are
    checked one by one: what they say together is for ``checks``. Nothing is raised; a path without documents is a
    fault.
    """
    loaded = Loaded([], [], [])
    seen: set[str] = set()
    for path in paths:
        for file in _files(Path(path), loaded.faults):
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
    data = _read(Path(file))
    if isinstance(data, Fault):
        return LoadedFile(Loaded([], [data], []), None)
    digest = blake2b(data).digest()
    if known is not None and known.digest == digest:
        return known
    loaded = Loaded([], [], [])
    _load(data, file, loaded)
    return LoadedFile(loaded, digest)


def load_valid(paths: Iterable[str | os.PathLike[str]], *, deadline: float = inf) -> list[LoadedDocument[Any]]:
    """The documents of ``paths``, checked one by one and together; ``deadline`` as in ``beyond_deadline``.

    Raises:
        InvalidInput: with every fault of every file.
    """
    loaded = load_together(paths, deadline=deadline)
    if loaded.faults:
        raise InvalidInput(loaded.faults)
    return loaded.documents


def load_together(paths: Iterable[str | os.PathLike[str]], *, deadline: float = inf) -> Loaded:
    """As ``load_paths``, with the faults between documents; ``deadline`` as in ``beyond_deadline``."""
    loaded = load_paths(paths)
    loaded.faults.extend(_between(loaded.meant))
    loaded.faults.extend(beyond_deadline([one.document for one in loaded.meant], deadline))
    return loaded


def _between(meant: Sequence[Draft]) -> Iterator[Fault]:
    """What is wrong between documents, of what was written in them."""
    for conflict in find_conflicts([one.document.placed for one in meant]):
        second = meant[conflict.second]
        if meant[conflict.first].says(conflict.first_path) and second.says(conflict.path):
            yield conflict.fault(second.line_at(conflict.path))


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
    while isinstance(problems := check(known, [KINDS[KIND]]), list):
        removed = [problem.code == "unknown_field" and _removed(known, problem.path) for problem in problems]
        if not all(removed):
            return parse_rollout(body)
    assert isinstance(problems, Rollout)
    return problems


def _removed(value: Any, path: FieldPath) -> bool:
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
    outcome = check(body, [kind for kind in KINDS.values() if kind.model is model])
    if isinstance(outcome, model):
        return outcome
    assert isinstance(outcome, list)
    raise InvalidInput(Fault(p.code, p.advice(None), file=file, field=dotted(p.path)) for p in outcome)


def list_documents(folder: str | os.PathLike[str]) -> FolderListing:
    """The files of ``folder`` and its sub-folders that may hold documents."""
    return list_folder(Path(folder), lambda name: os.path.splitext(name)[1] in SUFFIXES)  # noqa: PTH122 - a text


def _files(path: Path, faults: list[Fault]) -> Iterator[Path]:
    """The files that ``path`` stands for, in order; a folder without any is a fault."""
    if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where it may not be asked
        yield path
        return
    listing = list_documents(path)
    faults.extend(_file_fault(why.number, place) for place, why in listing.unreadable.items())
    if not listing.files and not listing.unreadable:
        suffixes = ", ".join(sorted(SUFFIXES))
        faults.append(Fault("no_documents", f"the folder holds no file that ends in {suffixes}", str(path)))
    yield from map(Path, listing.files)


def _load_file(file: Path, loaded: Loaded) -> None:
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
            loaded.meant.append(Draft(outcome))
            continue
        faults.extend(outcome.faults)
        loaded.meant.extend(outcome.meant)
        if len(faults) > MAX_FAULTS:
            message = f"only the first {MAX_FAULTS} faults of this file are listed"
            faults[MAX_FAULTS:] = [Fault("too_many_faults", message, name)]
            break
    loaded.faults.extend(faults + ending)


def _load_document(document: Document, file: str) -> LoadedDocument[Any] | Loaded:
    """The document, or what is wrong with it by line, and what it was meant to be."""
    node = document.node
    outcome = check(node.value)
    if not isinstance(outcome, list):
        outcome = list(KINDS[outcome.kind].in_vain(outcome)) or outcome
    if not isinstance(outcome, list) and not document.faults:
        return LoadedDocument(outcome, node, file)
    problems = outcome if isinstance(outcome, list) else []
    drafts = []
    if problems:
        problems, draft = study(node, file, problems)
        drafts = [draft] if draft is not None else []
    faults = list(document.faults)
    for p in problems:
        message, line = p.advice(node.written_at(p.path)), node.at(p.path).line
        faults.append(Fault(p.code, message, file=file, line=line, field=dotted(p.path)))
    return Loaded([], sorted(faults, key=lambda fault: fault.line or 0), drafts)


def _read(file: Path) -> bytes | Fault:
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
    why = why_not(OSError(number, os.strerror(number)), Path(name))
    return Fault("file_unreadable", f"cannot be read: {why}", name)
