"""A folder of documents that the store follows: what is in it is applied, what left it for good is deleted.

The last good is kept for each file: one that is broken leaves its documents as they are and does not hold up the
changes of others; nor does one that is large, which is read after theirs were applied. What is missing stays as it is
until its time is up (``absence``), and as long as the place that it was in cannot be read.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Final

from extproc.clock import Clock
from extproc.control.absence import Absence, Grace, ResourceName
from extproc.control.acting import act
from extproc.control.actions import Apply
from extproc.control.result import ActionResult
from extproc.control.templates import TemplateResult
from extproc.errors import Fault, InvalidInput
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.deadline import beyond_deadline
from extproc.resources.folder_watch import FolderWatch
from extproc.resources.folders import FolderListing, Stamp, UnreadablePath
from extproc.resources.loaded import LoadedDocument
from extproc.resources.loading import (
    UNREAD_CODES,
    Loaded,
    LoadedFile,
    list_documents,
    load_file,
    of_kind,
)
from extproc.resources.rollout import Rollout
from extproc.store.ports import ActionStore
from extproc.store.records import Documents

PATIENCE: Final = 10
"""Looks at a folder in which somebody always writes, until the files of others are taken."""


LARGE_BYTES: Final = 64 * 1024
"""A file with more is taken by itself. What changed in smaller ones together is applied together."""


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What a sync did: keys of documents that were applied and deleted, how many were as they should be, what is bad.

    ``missing`` says which documents left and when they are deleted. ``faults`` are by file, or by folder where a folder
    cannot be read.
    """

    applied: tuple[str, ...] = ()
    unchanged: int = 0
    deleted: tuple[str, ...] = ()
    missing: tuple[Fault, ...] = ()
    faults: Mapping[str, tuple[Fault, ...]] = field(default_factory=dict)


class FollowedFolder:
    """The folder ``directory``, followed by ``store``. Use it from one thread.

    ``grace`` says for how long a document may be missing. What waits longer than ``deadline``, the seconds that a
    decision may take, is refused.
    """

    def __init__(
        self, store: ActionStore, directory: str | Path, clock: Clock, grace: Grace, *, deadline: float = inf
    ) -> None:
        self._store = store
        self._directory = Path(directory).absolute()
        self._clock = clock
        self._deadline = deadline
        self._watch = FolderWatch(lambda: list_documents(self._directory), PATIENCE)
        self._absence = Absence(self._directory, grace, clock)
        self._next: FolderListing | None = None
        self._damaged = False
        self._waiting = False
        self._loaded: dict[str, tuple[Stamp, LoadedFile]] = {}

    @property
    def missing(self) -> int:
        """Documents that left the folder and are not deleted yet; may be read from anywhere."""
        return len(self._absence)

    def changed(self, *, force: bool = False) -> bool:
        """Whether a sync may have something to do: an edit has come to rest, or what is missing is gone by now.

        It still has after one that left large files to the next.

        With ``force`` it has: what was taken is applied again. Names and stamps are compared, nothing is read.
        """
        self._next = self._watch.changed()
        if self._next is None and (force or self._damaged or (self._settled and self._absence.due())):
            self._next = self._watch.taken
        return self._next is not None or self._watch.taken is None

    @property
    def _settled(self) -> bool:
        """Whether all that is there was taken: only then is it known what is not."""
        return self._watch.resting and not self._waiting

    def sync(self) -> FolderReport:
        """Apply what came to rest, or what there is if nobody asked whether it did. What is bad is in the report.

        Files that are large come last, one each time, except the first time: then everything is applied.

        Raises:
            Unreachable: when the store cannot be read or written; ``changed`` stays true.
            Refused: ``conflict``, when others keep writing.
        """
        found, self._next = self._next or self._watch.now(), None
        listing = _others_first(self._watch.taken, found)
        self._waiting = listing is not found
        faults: dict[str, tuple[Fault, ...]] = {
            place: (_fault(place, why),) for place, why in listing.unreadable.items()
        }
        documents = []
        for file, loaded in self._load(listing).items():
            if bad := [*loaded.faults, *beyond_deadline(loaded.documents, self._deadline)]:
                faults[file] = tuple(bad)
            else:
                documents.extend(loaded.documents)
        results = self._apply(documents, faults, listing)
        self._watch.take(listing)
        # What was held back is tried again until somebody has repaired it.
        self._damaged = any(fault.code == "store_corrupt" for of_one in faults.values() for fault in of_one)
        return FolderReport(
            applied=tuple(result.row.key for result in results if result.result in ("created", "configured")),
            unchanged=sum(result.result == "unchanged" for result in results),
            deleted=tuple(result.row.key for result in results if result.result == "deleted"),
            missing=tuple(self._absence.faults()),
            faults=faults,
        )

    def _apply(
        self, documents: Sequence[LoadedDocument[Any]], faults: dict[str, tuple[Fault, ...]], listing: FolderListing
    ) -> Sequence[ActionResult | TemplateResult]:
        """Apply ``documents``; files whose documents collide with others join ``faults`` and are left out."""
        before = self._store.documents()
        held: dict[ResourceName, Mapping[str, Any]] = {
            **{(Rollout, row.key): row.document for row in before.rollouts},
            **{(AnalysisTemplate, row.key): row.document for row in before.templates},
        }
        documents = _not_damaged(documents, before, faults)
        # A conflict is the later one's: what the store holds already comes first.
        documents = sorted(documents, key=lambda document: held.get(_identity(document)) != document.body)
        present = {_identity(document) for document in documents}
        replaced: set[str] = set()
        while True:
            missing = dict(self._missing(before, present, faults))
            self._absence.note(missing, [document.file for document in documents], listing.folders)
            due = self._absence.due() if self._settled else ()
            gone = dict.fromkeys(name for name, source in missing.items() if name in due or source in replaced)
            action = Apply(
                documents,
                remove=[_parts(key) for kind, key in gone if kind is Rollout],
                remove_templates=[_parts(key) for kind, key in gone if kind is AnalysisTemplate],
                follow=True,
            )
            try:
                results = act(self._store, f"folder:{self._directory}", action, self._clock)
            except InvalidInput as error:
                bad = dict.fromkeys(fault.file for fault in error.faults if fault.file is not None)
                if not bad:
                    raise
                # What a file holds in place of what it had is no absence: a rollout was renamed in it.
                if renamed := (bad.keys() & set(missing.values())) - replaced:
                    replaced |= renamed
                    continue
                for file in bad:
                    faults[file] = tuple(fault for fault in error.faults if fault.file == file)
                documents = [document for document in documents if document.file not in bad]
            else:
                left = {name: source for name, source in missing.items() if name not in gone}
                self._absence.note(left, [document.file for document in documents], listing.folders)
                return results

    def _missing(
        self, before: Documents, present: Collection[ResourceName], faults: Mapping[str, object]
    ) -> Iterator[tuple[ResourceName, str]]:
        """What this folder applied and no longer holds, as far as it can be read, and the file it was in."""
        for kind, rows in ((Rollout, before.rollouts), (AnalysisTemplate, before.templates)):
            for row in rows:
                if (
                    row.source is not None
                    and (kind, row.key) not in present
                    and Path(row.source).is_relative_to(self._directory)
                    and not any(Path(row.source).is_relative_to(place) for place in faults)
                ):
                    yield (kind, row.key), row.source

    def _load(self, listing: FolderListing) -> dict[str, Loaded]:
        """What each file holds; only files that changed are read, and those that could not be."""
        before, self._loaded = self._loaded, {}
        for file, stamp in listing.once():
            as_of, known = before.get(file, (None, None))
            if known is None or as_of != stamp or any(fault.code in UNREAD_CODES for fault in known.loaded.faults):
                known = load_file(file, known)
            self._loaded[file] = stamp, known
        return {file: known.loaded for file, (_, known) in self._loaded.items()}


def _others_first(taken: FolderListing | None, found: FolderListing) -> FolderListing:
    """``found``, or as much of it as does not hold up others: without its large changes, or with the smallest of them.

    What is left out is as it was ``taken``.
    """
    if taken is None:
        return found
    changed = [path for path, stamp in found.files.items() if taken.files.get(path) != stamp]
    large = [path for path in changed if found.files[path].size > LARGE_BYTES]
    large.sort(key=lambda path: found.files[path].size)
    later = set(large if len(large) < len(changed) else large[1:])
    if not later:
        return found
    files = {path: taken.files.get(path) if path in later else stamp for path, stamp in found.files.items()}
    there = {path: stamp for path, stamp in files.items() if stamp is not None}
    return FolderListing(there, found.folders, found.unreadable)


def _not_damaged(
    documents: Sequence[LoadedDocument[Any]], before: Documents, faults: dict[str, tuple[Fault, ...]]
) -> Sequence[LoadedDocument[Any]]:
    """The documents that can be held against what the store has of them; the files of others join ``faults``."""
    damaged = {row.key: row.fault for row in before.unreadable}
    for document in of_kind(documents, Rollout):
        if (fault := damaged.get(document.resource.key)) is not None:
            faults[document.file] = (Fault(fault.code, fault.message, document.file, document.line_at()),)
    return [document for document in documents if document.file not in faults]


def _identity(document: LoadedDocument[Any]) -> ResourceName:
    """What names a document among all kinds."""
    return type(document.resource), document.resource.key


def _parts(key: str) -> tuple[str, str]:
    """Namespace and name."""
    namespace, _, name = key.partition("/")
    return namespace, name


def _fault(place: str, why: UnreadablePath) -> Fault:
    """What keeps a part of the folder from being looked at."""
    if not why.folder:
        return Fault("file_unreadable", f"cannot be read: {why}; nothing is deleted", place)
    code = "folder_missing" if why.number == errno.ENOENT else "folder_unreadable"
    return Fault(code, f"the folder cannot be read: {why}; nothing is deleted", place)
