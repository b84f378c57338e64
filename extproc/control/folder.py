"""A folder of documents that the store follows: what is in it is applied, what leaves it is deleted.

The last good is kept for each file: one that is broken leaves its documents as they are and does not hold up the
changes of others. A folder that was emptied deletes what it applied; one that cannot be read deletes nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from extproc.clock import Clock
from extproc.control.actions import Apply, Result, act
from extproc.control.templates import TemplateResult
from extproc.errors import Fault, InvalidInput, Unreachable
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.document import Resource
from extproc.resources.loading import SUFFIXES, Loaded, LoadedDocument, load_paths, of_kind
from extproc.resources.rollout import Rollout
from extproc.snapshot.store import REPLACED_CODES, Documents, RolloutStore, StoredRollout, StoredTemplate


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What a sync did: keys of documents that were applied and deleted, how many were as they should be, what is bad.

    ``faults`` are by file, or by folder where a folder cannot be read.
    """

    applied: tuple[str, ...] = ()
    unchanged: int = 0
    deleted: tuple[str, ...] = ()
    faults: Mapping[str, tuple[Fault, ...]] = field(default_factory=dict)


class _Stamp(NamedTuple):
    """What tells one state of a file from another without reading it."""

    inode: int
    mtime_ns: int
    ctime_ns: int
    size: int


@dataclass(frozen=True, slots=True)
class _Listing:
    """The files of a folder, and the parts of it that cannot be read."""

    files: Mapping[str, _Stamp]
    unreadable: Mapping[str, Fault]


class FollowedFolder:
    """The folder ``directory``, followed by ``store``. Use it from one thread."""

    def __init__(self, store: RolloutStore, directory: str | Path, clock: Clock) -> None:
        self._store = store
        self._directory = Path(directory).absolute()
        self._clock = clock
        self._synced: _Listing | None = None
        self._loaded: dict[str, tuple[_Stamp, Loaded]] = {}

    def changed(self) -> bool:
        """Whether a sync may have something to do: names and stamps are compared, nothing is read."""
        return self._synced is None or self._list() != self._synced

    def sync(self) -> FolderReport:
        """Apply the folder. What is bad is in the report.

        Raises:
            Unreachable: when the store cannot be read or written; ``changed`` stays true.
            Refused: ``conflict``, when others keep writing.
        """
        listing = self._list()
        faults: dict[str, tuple[Fault, ...]] = {place: (fault,) for place, fault in listing.unreadable.items()}
        documents = []
        for file, loaded in self._load(listing).items():
            if loaded.faults:
                faults[file] = tuple(loaded.faults)
            else:
                documents.extend(loaded.documents)
        try:
            results = self._apply(documents, faults)
        except Unreachable as error:
            if error.code not in REPLACED_CODES:
                raise
            self._store.reopen()  # there may be another one in its place by now
            results = self._apply(documents, faults)
        # What was held back is tried again until somebody has repaired it.
        damaged = any(fault.code == "store_corrupt" for of_one in faults.values() for fault in of_one)
        self._synced = None if damaged else listing
        return FolderReport(
            applied=tuple(result.row.key for result in results if result.result in ("created", "configured")),
            unchanged=sum(result.result == "unchanged" for result in results),
            deleted=tuple(result.row.key for result in results if result.result == "deleted"),
            faults=faults,
        )

    def _apply(
        self, documents: Sequence[LoadedDocument[Any]], faults: dict[str, tuple[Fault, ...]]
    ) -> Sequence[Result | TemplateResult]:
        """Apply ``documents``; files whose documents collide with others join ``faults`` and are left out."""
        before = self._store.documents()
        held: dict[tuple[type[Resource], str], Mapping[str, Any]] = {
            **{(Rollout, row.key): row.document for row in before.rollouts},
            **{(AnalysisTemplate, row.key): row.document for row in before.templates},
        }
        documents = _not_damaged(documents, before, faults)
        # A conflict is the later one's: what the store holds already comes first.
        documents = sorted(documents, key=lambda document: held.get(_identity(document)) != document.body)
        present = {_identity(document) for document in documents}
        while True:
            action = Apply(
                documents,
                remove=self._gone(Rollout, before.rollouts, present, faults),
                remove_templates=self._gone(AnalysisTemplate, before.templates, present, faults),
                follow=True,
            )
            try:
                return act(self._store, f"folder:{self._directory}", action, self._clock)
            except InvalidInput as error:
                bad = {fault.file: fault for fault in error.faults if fault.file is not None}
                if not bad:
                    raise
                for file in bad:
                    faults[file] = tuple(fault for fault in error.faults if fault.file == file)
                documents = [document for document in documents if document.file not in bad]

    def _gone(
        self,
        kind: type[Resource],
        rows: Sequence[StoredRollout] | Sequence[StoredTemplate],
        present: Collection[tuple[type[Resource], str]],
        faults: Mapping[str, object],
    ) -> list[tuple[str, str]]:
        """What of a kind this folder applied and no longer holds, as far as it can be read."""
        return [
            (row.namespace, row.name)
            for row in rows
            if row.source is not None
            and (kind, row.key) not in present
            and Path(row.source).is_relative_to(self._directory)
            and not any(Path(row.source).is_relative_to(place) for place in faults)
        ]

    def _load(self, listing: _Listing) -> dict[str, Loaded]:
        """What each file holds; only files that changed are read."""
        before, self._loaded = self._loaded, {}
        for file, stamp in listing.files.items():
            known = before.get(file)
            good = known is not None and known[0] == stamp and not known[1].faults
            self._loaded[file] = known if known is not None and good else (stamp, load_paths([file]))
        return {file: loaded for file, (_, loaded) in self._loaded.items()}

    def _list(self) -> _Listing:
        """The files that ``load_paths`` would read, in order."""
        unreadable: dict[str, Fault] = {}
        files: dict[str, _Stamp] = {}

        def cannot_list(error: OSError) -> None:
            place = str(error.filename)
            code = "folder_missing" if isinstance(error, FileNotFoundError) else "folder_unreadable"
            unreadable[place] = Fault(code, f"the folder cannot be read: {error.strerror}; nothing is deleted", place)

        for folder, folders, names in os.walk(self._directory, onerror=cannot_list):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and os.path.splitext(name)[1] in SUFFIXES:  # noqa: PTH122 - as below
                    path = os.path.join(folder, name)  # noqa: PTH118 - ten thousand files, several times a minute
                    try:
                        found = os.stat(path)  # noqa: PTH116
                    except OSError as error:
                        if not _has_left(path):
                            unreadable[path] = Fault("file_unreadable", f"cannot be read: {error.strerror}", path)
                        continue
                    if stat.S_ISREG(found.st_mode):
                        files[path] = _Stamp(found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
        return _Listing(files, unreadable)


def _not_damaged(
    documents: Sequence[LoadedDocument[Any]], before: Documents, faults: dict[str, tuple[Fault, ...]]
) -> Sequence[LoadedDocument[Any]]:
    """The documents that can be held against what the store has of them; the files of others join ``faults``."""
    damaged = {row.key: row.fault for row in before.unreadable}
    for document in of_kind(documents, Rollout):
        if (fault := damaged.get(document.resource.key)) is not None:
            faults[document.file] = (Fault(fault.code, fault.message, document.file, document.line),)
    return [document for document in documents if document.file not in faults]


def _identity(document: LoadedDocument[Any]) -> tuple[type[Resource], str]:
    """What names a document among all kinds."""
    return type(document.resource), document.resource.key


def _has_left(path: str) -> bool:
    """Whether there is no such file any more, in a folder that can say so.

    What is there and leads nowhere has not left, nor has what may not be looked at, nor what went with its folder.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return os.path.isdir(os.path.dirname(path))  # noqa: PTH112, PTH120 - of a text
    except OSError:
        return False
    return False
