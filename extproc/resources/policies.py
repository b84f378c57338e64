"""Policies as they are read from disk: Rego text and data, small enough to travel by pipe to the workers.

They are in a folder or in an OPA bundle, which is such a folder in one file. Every ``*.rego`` is a module, every
``data.json``, ``data.yaml`` or ``data.yml`` is mounted under ``data`` at the path of its folder. ``*_test.rego`` is
left out: tests are run, not served.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol, Self

from extproc.errors import Fault, InvalidInput
from extproc.files import read_regular, why_not
from extproc.resources.bundles import (
    MANIFEST,
    SIGNATURES,
    Manifest,
    check_kind,
    outside,
    overlap,
    read_manifest,
    unpack,
)
from extproc.resources.file_names import is_unicode
from extproc.resources.folders import FolderListing, Stamp, list_folder
from extproc.resources.policy_data import merge, parse_data

MAX_FILES: Final = 1_000
MAX_FILE_BYTES: Final = 1_048_576
MAX_TOTAL_BYTES: Final = 8 * MAX_FILE_BYTES

_NOTHING: Final = "there is no such folder or bundle; name a folder with .rego files, or a bundle.tar.gz"

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


class Trust(Protocol):
    """Whose signatures are believed."""

    def check(self, contents: Mapping[str, bytes], where: str) -> None:
        """See that the files of the bundle at ``where`` are those that were signed. Raises ``InvalidInput``."""


def list_policies(place: str | Path, *, tests: bool = False) -> FolderListing:
    """The policy and data files of a folder, with ``tests`` the ``*_test.rego`` files too; or the file of a bundle."""
    root = Path(place)

    beside = {root} if _is_file(root) else {root / MANIFEST, root / SIGNATURES}
    stamps = {str(path): _stamp(path) for path in sorted(beside) if _is_file(path)}
    if root in beside:
        return FolderListing(stamps, {}, {})
    listing = list_folder(root, lambda name: _wanted(name, tests))
    return replace(listing, files={**listing.files, **stamps})


def read_sources(
    place: str | Path, *, tests: bool = False, empty: bool = False, trust: Trust | None = None
) -> PolicySources:
    """Read every policy and data file of a folder or a bundle; with ``tests`` the ``*_test.rego`` files too.

    With ``empty`` there may be no policy: a folder that nobody has put a rule into yet. With ``trust`` it has to be
    signed, or not, as that says; without it signatures are not looked at.

    Which files there are is for ``list_folder`` to say, as it is for documents.

    Raises:
        InvalidInput: with all faults at once: ``policies_missing`` (there is nothing), ``policies_empty`` (no module in
            it), ``policies_too_large``, ``policy_unreadable``, ``policy_encoding``, ``policy_data_invalid``,
            ``policy_data_conflict``, ``file_name`` (one that is not UTF-8); of a bundle ``bundle_roots``, and what
            ``unpack`` and ``trust`` raise.
    """
    sources, faults = read_what_can_be_read(place, tests=tests, empty=empty, trust=trust)
    if faults:
        raise InvalidInput(faults)
    return sources


def read_what_can_be_read(
    place: str | Path, *, tests: bool = False, empty: bool = False, trust: Trust | None = None
) -> tuple[PolicySources, list[Fault]]:
    """As ``read_sources``, but what is wrong beside what could be read, which can then be checked, too.

    Raises:
        InvalidInput: ``policies_missing``, and what is wrong with a bundle as a whole.
    """
    part = _read_part(Path(place), tests=tests, trust=trust)
    return part.sources, part.faults if empty else [*part.faults, *part.missing(str(place))]


def read_contents(place: Path) -> dict[str, bytes]:
    """The policy and data files of a folder or a bundle as they are, without tests. Raises as ``read_sources``."""
    if _is_file(place):
        return {name: content for name, content in unpack(place).contents.items() if _wanted(_base(name), False)}
    listing = list_folder(place, lambda name: _wanted(name, False))
    return {Path(file).relative_to(place).as_posix(): _content(Path(file)) for file in listing.files}


def read_several(places: Sequence[Path], *, empty: bool = False, trust: Trust | None = None) -> PolicySources:
    """The policies and data of several folders and bundles as one; each file is called by its place, too.

    Raises:
        InvalidInput: as ``read_sources``; ``bundle_roots_overlap`` where two of them give the same;
            ``bundle_name_taken``.
    """
    if len(places) == 1:
        return read_sources(places[0], empty=empty, trust=trust)
    parts = {name_of(place): _read_part(place, tests=False, trust=trust) for place in places}
    if len(parts) != len(places):
        raise InvalidInput.of("bundle_name_taken", "two of them are called alike; rename one", field="--policies")
    faults = [
        replace(fault, file=fault.file and f"{name}/{fault.file}")
        for name, part in parts.items()
        for fault in part.faults
    ]
    clash = overlap([root for part in parts.values() for root in part.manifest.owned])
    if clash is not None:
        names = dict.fromkeys(name for name, part in parts.items() if {*part.manifest.owned} & {*clash})
        message = (
            f"{' and '.join(names)} both give data.{clash[1].replace('/', '.')}".rstrip(".")
            + f"; name in the {MANIFEST} of each the roots that are its own"
        )
        faults.append(Fault("bundle_roots_overlap", message))
    data: dict[str, Any] = {}
    for part in parts.values():
        clashes = merge(data, (), part.sources.data)
        assert clash is not None or clashes is None or part.faults
    if not (empty or faults or any(part.sources.files for part in parts.values())):
        faults.append(Fault("policies_empty", "there is no .rego file in any of them", file=", ".join(parts)))
    if faults:
        raise InvalidInput(faults)
    return PolicySources(
        {f"{name}/{file}": text for name, part in parts.items() for file, text in part.sources.files.items()},
        data,
        ",".join(f"{name}={part.sources.revision}" for name, part in parts.items()),
        {path: f"{name}/{file}" for name, part in parts.items() for path, file in part.sources.data_files.items()},
    )


def name_of(place: Path) -> str:
    """What a folder or a bundle is called beside others."""
    return place.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")


@dataclass(frozen=True, slots=True)
class _Part:
    """What one place gives."""

    sources: PolicySources
    manifest: Manifest
    faults: list[Fault]

    def missing(self, where: str) -> list[Fault]:
        if self.sources.files or self.faults:
            return []
        return [Fault("policies_empty", "it has no .rego file", file=where)]


def _read_part(root: Path, *, tests: bool, trust: Trust | None) -> _Part:
    if not (_is_file(root) or os.path.isdir(root)):  # noqa: PTH112 - Path.is_dir raises where a parent may not be entered
        raise InvalidInput.of("policies_missing", _NOTHING, file=str(root))
    reader = _Reader(root)
    manifest = _read_archive(reader, tests, trust) if _is_file(root) else _read_folder(reader, root, tests, trust)
    sources = PolicySources(reader.files, reader.data, reader.revision(), reader.data_files)
    if manifest is None:
        return _Part(sources, Manifest(), reader.faults)
    strays = outside(sources.files, sources.data, manifest.owned)
    named = replace(sources, revision=manifest.revision or sources.revision)
    return _Part(named, manifest, [*reader.faults, *strays])


def _read_archive(reader: _Reader, tests: bool, trust: Trust | None) -> Manifest:
    bundle = unpack(reader.root)
    if trust is not None:
        trust.check(bundle.contents, str(reader.root))
    for name, content in sorted(bundle.contents.items()):
        if _wanted(_base(name), tests):
            reader.take(name, content)
        if reader.full:
            break
    return bundle.manifest


def _read_folder(reader: _Reader, root: Path, tests: bool, trust: Trust | None) -> Manifest | None:
    """What is read of a folder; its manifest, if that makes it a bundle that is unpacked."""
    listing = list_policies(root, tests=tests)
    for place, why in listing.unreadable.items():
        reader.faults.append(Fault("policy_unreadable", str(why), file=place))
    for file in listing.files:
        path = Path(file)
        if path.name not in (MANIFEST, SIGNATURES):
            reader.read(path.relative_to(root).as_posix(), path)
        if reader.full:
            break
    if trust is not None:
        trust.check(_all_files(root), str(root))
    if not _is_file(root / MANIFEST):
        return None
    manifest = read_manifest(_content(root / MANIFEST), str(root))
    check_kind([path.name for path in root.iterdir()] + list(reader.files), manifest, str(root))
    return manifest


def _all_files(root: Path) -> dict[str, bytes]:
    """Every file of an unpacked bundle, of which a signature tells."""
    listed = [Path(file) for file in list_folder(root, lambda name: True).files]
    listed += [path for path in (root / MANIFEST, root / SIGNATURES) if _is_file(path)]
    return {path.relative_to(root).as_posix(): _content(path) for path in listed}


def _content(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_TOTAL_BYTES)
    except OSError as error:
        message = f"cannot be read: {why_not(error, path)}"
        raise InvalidInput.of("policy_unreadable", message, file=str(path)) from None


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _wanted(name: str, tests: bool) -> bool:
    return name in _DATA_FILES or (name.endswith(".rego") and (tests or not name.endswith(TEST_SUFFIX)))


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises where a parent may not be entered


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:  # gone in between
        return Stamp(str(path), 0, 0, 0, 0)
    return Stamp(os.path.realpath(path), found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


class _Reader:
    """Collects files, data and faults."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._contents: dict[str, bytes] = {}
        self._bytes = 0
        self.files: dict[str, str] = {}
        self.data: dict[str, Any] = {}
        self.data_files: dict[tuple[str, ...], str] = {}
        self.faults: list[Fault] = []
        self.full = False

    def read(self, name: str, path: Path) -> None:
        """Take a file from disk."""
        if not is_unicode(name):
            self.faults.append(Fault("file_name", "the name of the file is not UTF-8", file=str(path)))
            return
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            self.faults.append(Fault("policy_unreadable", f"cannot be read: {why_not(error, path)}", file=str(path)))
            return
        self.take(name, content)

    def take(self, name: str, content: bytes) -> None:
        """Take a file by its content."""
        if not is_unicode(name):
            self.faults.append(Fault("file_name", f"the name {name!r} is not UTF-8", file=str(self.root)))
            return
        text = self._text(name, content)
        if text is None:
            return
        where, base = tuple(name.split("/")[:-1]), _base(name)
        if base not in _DATA_FILES:
            self.files[name] = text
            return
        try:
            document = parse_data(text, Path(base).suffix)
        except ValueError as error:
            line = getattr(error, "line", None)
            self.faults.append(Fault("policy_data_invalid", str(error), file=name, line=line))
            return
        clash = merge(self.data, where, document)
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

    def _text(self, name: str, content: bytes) -> str | None:
        if len(self._contents) >= MAX_FILES:
            self._stop(f"more than {MAX_FILES} policy files")
            return None
        if len(content) > MAX_FILE_BYTES:
            self.faults.append(Fault("policies_too_large", f"more than {MAX_FILE_BYTES} bytes", file=name))
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
        self.faults.append(Fault("policies_too_large", message, file=str(self.root)))
        self.full = True
