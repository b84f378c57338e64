"""Documents that left a folder: each is missing first, and believed to be gone only when it stays away.

An editor that saves in two steps, a checkout, a volume that is not mounted: for a moment, or for minutes, they look as
if somebody had deleted what is served.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from os.path import dirname
from pathlib import PurePath
from typing import Final

from extproc.clock import Clock
from extproc.control.as_json import timestamp
from extproc.errors import Fault
from extproc.resources.analysis_template import AnalysisTemplate
from extproc.resources.document import Resource
from extproc.resources.folders import FolderIdentity
from extproc.resources.rollout import Rollout

MISSING: Final = "document_missing"
"""The code of what left the folder: it is served on, and no edit was refused."""

NAMED: Final = 10
"""Missing documents that are named in one sentence; there may be ten thousand."""

ResourceName = tuple[type[Resource], str]
"""What names a document among all kinds: its kind, and ``namespace/name``."""

KIND_NAMES: Final[Mapping[type[Resource], str]] = {Rollout: "rollout", AnalysisTemplate: "analysistemplate"}


@dataclass(frozen=True, slots=True)
class Grace:
    """Seconds from when a document is missing until it is deleted: ``one`` of several, or where ``many`` are missing.

    Both at 0 is to prune: the folder alone says what there is.
    """

    one: float
    many: float


@dataclass(frozen=True, slots=True)
class _Missing:
    """``due`` is when it is deleted, in monotonic seconds; ``at`` the same in Unix seconds, for people."""

    source: str
    since: float
    due: float
    at: float


class Absence:
    """What is missing from the folder ``directory``. One thread's."""

    def __init__(self, directory: PurePath, grace: Grace, clock: Clock) -> None:
        self._directory = directory
        self._grace = grace
        self._clock = clock
        self._missing: dict[ResourceName, _Missing] = {}
        self._whole: dict[PurePath, FolderIdentity] = {}

    def __len__(self) -> int:
        return len(self._missing)

    def note(
        self, missing: Mapping[ResourceName, str], kept: Iterable[str], folders: Mapping[str, FolderIdentity]
    ) -> None:
        """Only these are missing now; each is mapped to the file that it was in.

        ``kept`` are the files of the documents that are there, each as often as it has documents; ``folders`` are those
        that are there. What is back is forgotten, so that the time begins anew when it leaves again. One that has the
        longer time keeps it while it is missing: a folder that comes back file by file must not lose its last ones.
        """
        now, ahead = self._clock.monotonic(), self._clock.now() - self._clock.monotonic()
        there = {PurePath(path): identity for path, identity in folders.items()}
        lost = self._counted(missing.values())
        suspect = self._suspect(lost, kept, there) if missing else ()
        before, self._missing = self._missing, {}
        for name, source in missing.items():
            known = before.get(name)
            since = known.since if known is not None else now
            many = dirname(source) in suspect  # noqa: PTH120 - of ten thousand texts
            due = since + (max(self._grace.one, self._grace.many) if many else self._grace.one)
            if known is None or due > known.due:
                known = _Missing(source, since, due, due + ahead)
            self._missing[name] = known
        self._whole = {
            **{folder: identity for folder, identity in self._whole.items() if folder in lost},
            **{folder: identity for folder, identity in there.items() if folder not in lost},
        }

    def due(self) -> Collection[ResourceName]:
        """What has been missing for so long that it is gone."""
        now = self._clock.monotonic()
        return {name for name, missing in self._missing.items() if missing.due <= now}

    def faults(self) -> Iterator[Fault]:
        """What is missing and when it is deleted, one for all that will be together."""
        together: dict[float, list[ResourceName]] = defaultdict(list)
        for name, missing in self._missing.items():
            together[missing.at].append(name)
        for at, names in together.items():
            what = ", ".join(f"{KIND_NAMES[kind]} {key}" for kind, key in names[:NAMED])
            what += f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            file = self._missing[names[0]].source if len(names) == 1 else str(self._directory)
            message = f"missing from the folder, and deleted at {timestamp(at)} unless the folder has it again: {what}"
            yield Fault(MISSING, message, file)

    def _suspect(
        self, lost: Counter[PurePath], kept: Iterable[str], there: Mapping[PurePath, FolderIdentity]
    ) -> Collection[str]:
        """The folders that look as if something happened to them, or to one that they are in, not to a document.

        It lost more than half of its documents, or is another than the one that had all of them. A folder below that
        had one document may lose it.
        """
        held = self._counted(kept)
        suspect = {
            folder
            for folder, count in lost.items()
            if (count > held[folder] and (count > 1 or folder == self._directory))
            or (folder in there and self._whole.get(folder, there[folder]) != there[folder])
        }
        return {str(folder) for folder in lost if not suspect.isdisjoint(self._up_from(folder))}

    def _counted(self, files: Iterable[str]) -> Counter[PurePath]:
        """How many of ``files`` are in each folder and below it."""
        counted: Counter[PurePath] = Counter()
        for folder, count in Counter(map(dirname, files)).items():
            for above in self._up_from(PurePath(folder)):
                counted[above] += count
        return counted

    def _up_from(self, folder: PurePath) -> Iterator[PurePath]:
        """The folder, and those that it is in, up to the one that is followed."""
        yield folder
        while folder != self._directory:
            folder = folder.parent
            yield folder
