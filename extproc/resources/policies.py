"""A folder of policies as it is read from disk: Rego text and data, small enough to travel by pipe to the workers.

The layout is that of an OPA bundle: every ``*.rego`` is a module, every ``data.json``, ``data.yaml`` or ``data.yml``
is mounted under ``data`` at the path of its folder. ``*_test.rego`` is left out: tests are run, not served.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from extproc.errors import Fault, InvalidInput
from extproc.files import why_not
from extproc.resources.file_names import is_unicode
from extproc.resources.folders import FolderListing, list_folder
from extproc.resources.marked_yaml import DATA, read_documents

MAX_FILES: Final = 1_000
MAX_FILE_BYTES: Final = 1_048_576
MAX_TOTAL_BYTES: Final = 8 * MAX_FILE_BYTES

TEST_SUFFIX: Final = "_test.rego"
_DATA_FILES: Final = frozenset({"data.json", "data.yaml", "data.yml"})


@dataclass(frozen=True, slots=True)
class PolicySources:
    """The modules (relative name -> text), the merged data document, and a fingerprint of both.

    ``data_files`` says which file each part of the data came from, by its path under ``data``.
    """

    files: Mapping[str, str]
    data: Mapping[str, Any]
    revision: str
    data_files: Mapping[tuple[str, ...], str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Everything, as one JSON document on one line."""
        return json.dumps(
            {
                "files": dict(self.files),
                "data": self.data,
                "revision": self.revision,
                "data_files": [[list(path), name] for path, name in self.data_files.items()],
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """What ``to_json`` wrote."""
        document = json.loads(text)
        origins = {tuple(path): name for path, name in document["data_files"]}
        return cls(document["files"], document["data"], document["revision"], origins)


def list_policies(directory: str | Path, *, tests: bool = False) -> FolderListing:
    """The policy and data files of ``directory``; with ``tests`` the ``*_test.rego`` files too."""

    def wanted(name: str) -> bool:
        return name in _DATA_FILES or (name.endswith(".rego") and (tests or not name.endswith(TEST_SUFFIX)))

    return list_folder(directory, wanted)


def read_sources(directory: str | Path, *, tests: bool = False, empty: bool = False) -> PolicySources:
    """Read every policy and data file under ``directory``; with ``tests`` the ``*_test.rego`` files too.

    With ``empty`` a folder may have no policy: one that nobody has put a rule into yet.

    Which files there are is for ``list_folder`` to say, as it is for documents.

    Raises:
        InvalidInput: with all faults at once: ``policies_missing`` (no such folder), ``policies_empty`` (no module in
            it), ``policies_too_large``, ``policy_unreadable``, ``policy_encoding``, ``policy_data_invalid``,
            ``policy_data_conflict``, ``file_name`` (one that is not UTF-8).
    """
    sources, faults = read_what_can_be_read(directory, tests=tests, empty=empty)
    if faults:
        raise InvalidInput(faults)
    return sources


def read_what_can_be_read(
    directory: str | Path, *, tests: bool = False, empty: bool = False
) -> tuple[PolicySources, list[Fault]]:
    """As ``read_sources``, but what is wrong beside what could be read, which can then be checked, too.

    Raises:
        InvalidInput: ``policies_missing``.
    """
    root = Path(directory)
    if not os.path.isdir(root):  # noqa: PTH112 - Path.is_dir raises where a parent may not be entered
        raise InvalidInput.of("policies_missing", "there is no such folder; name one with .rego files", file=str(root))
    reader = _Reader(root)
    listing = list_policies(root, tests=tests)
    for place, why in listing.unreadable.items():
        reader.faults.append(Fault("policy_unreadable", str(why), file=place))
    for file in listing.files:
        path = Path(file)
        reader.take(path.relative_to(root).as_posix(), path)
        if reader.full:
            break
    if not (reader.files or reader.faults or empty):
        reader.faults.append(Fault("policies_empty", "the folder has no .rego file", file=str(root)))
    return PolicySources(reader.files, reader.data, reader.revision(), reader.data_files), reader.faults


class _Reader:
    """Collects files, data and faults."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._contents: dict[str, bytes] = {}
        self._bytes = 0
        self.files: dict[str, str] = {}
        self.data: dict[str, Any] = {}
        self.data_files: dict[tuple[str, ...], str] = {}
        self.faults: list[Fault] = []
        self.full = False

    def take(self, name: str, path: Path) -> None:
        """Read one file."""
        if not is_unicode(name):
            self.faults.append(Fault("file_name", "the name of the file is not UTF-8", file=str(path)))
            return
        text = self._read(name, path)
        if text is None:
            return
        if path.name not in _DATA_FILES:
            self.files[name] = text
            return
        where = tuple(Path(name).parts[:-1])
        try:
            document = parse_data(text, path.suffix)
        except ValueError as error:
            line = getattr(error, "line", None)
            self.faults.append(Fault("policy_data_invalid", str(error), file=name, line=line))
            return
        clash = _merge(self.data, where, document)
        if clash is not None:
            dotted = ".".join(clash) or "data"
            self.faults.append(
                Fault("policy_data_conflict", f"another data file gives data.{dotted} already", file=name)
            )
        self.data_files[where] = name

    def revision(self) -> str:
        """Twelve hex digits over the sorted names and contents."""
        digest = hashlib.sha256()
        for name in sorted(self._contents):
            content = self._contents[name]
            digest.update(f"{len(name.encode())}:{name}:{len(content)}:".encode())
            digest.update(content)
        return digest.hexdigest()[:12]

    def _read(self, name: str, path: Path) -> str | None:
        if len(self._contents) >= MAX_FILES:
            self._stop(f"more than {MAX_FILES} policy files")
            return None
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            self.faults.append(Fault("policy_unreadable", f"cannot be read: {why_not(error, path)}", file=str(path)))
            return None
        if len(content) > MAX_FILE_BYTES:
            self.faults.append(Fault("policies_too_large", f"more than {MAX_FILE_BYTES} bytes", file=str(path)))
            return None
        self._bytes += len(content)
        if self._bytes > MAX_TOTAL_BYTES:
            self._stop(f"more than {MAX_TOTAL_BYTES} bytes in all")
            return None
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            self.faults.append(Fault("policy_encoding", "not UTF-8 text", file=name, line=line))
            return None
        self._contents[name] = content
        return text.removeprefix("\ufeff")

    def _stop(self, message: str) -> None:
        self.faults.append(Fault("policies_too_large", message, file=str(self._root)))
        self.full = True


class DataError(ValueError):
    """A data file that is not JSON data; ``line`` counts from 1."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def parse_data(text: str, suffix: str) -> dict[str, Any]:
    """The object in a data file. ``suffix`` is ``.json``, ``.yaml`` or ``.yml``.

    Raises:
        DataError: it does not parse, is no object, names a key twice, or holds what JSON has no word for. What OPA
            refuses is refused, and what it reads is read as it does (but for keys that come twice, second documents,
            and tags of other types than JSON's, which it takes without a word).
    """
    try:
        document = _parse_json(text) if suffix == ".json" else _parse_yaml(text)
        # What JSON cannot say (a NaN, a lone surrogate) would come to grief in the engine.
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}", error.lineno) from None
    except UnicodeEncodeError as error:
        raise DataError(f"not text: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise DataError("nested too deeply") from None
    except DataError:
        raise
    except (TypeError, ValueError) as error:
        raise DataError(str(error)) from None
    if not isinstance(document, dict):
        raise DataError('a data file holds one object: give what is in it a name, {"name": ...}', 1)
    return document


def _parse_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise DataError(f"the key {key!r} comes twice")
            found[key] = value
        return found

    return json.loads(text, object_pairs_hook=unique)


def _parse_yaml(text: str) -> Any:
    documents, ending = read_documents(text, dialect=DATA)
    faults = [*(fault for document in documents for fault in document.faults), *ending]
    if faults:
        raise DataError(faults[0].message, faults[0].line)
    if len(documents) > 1:
        raise DataError("a data file holds one document", documents[1].node.line)
    return documents[0].node.value if documents else None


def _merge(data: dict[str, Any], where: tuple[str, ...], document: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Mount ``document`` at ``where``; the first path that two files give, or None."""
    target = data
    for depth, part in enumerate(where):
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            return where[: depth + 1]
    for key, value in document.items():
        if key not in target:
            target[key] = value
        elif isinstance(value, dict) and isinstance(target[key], dict):
            clash = _merge(target[key], (), value)
            if clash is not None:
                return (*where, key, *clash)
        else:
            return (*where, key)
    return None
