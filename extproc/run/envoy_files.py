"""What ``dropout serve`` writes for Envoy, and whether Envoy has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from extproc.adapters.envoy.delivery import EnvoyDelivery
from extproc.adapters.stores import open_store
from extproc.clock import SystemClock
from extproc.decision_id import KeyFile
from extproc.envoy.files import CLUSTERS_FILE, ROUTES_FILE, write_envoy_dir
from extproc.resources.folders import FolderIdentity, FolderListing, list_folder
from extproc.settings import settings
from extproc.snapshot.holder import SnapshotHolder

_FILES: Final = frozenset({ROUTES_FILE, CLUSTERS_FILE})


def delivery(addresses: Sequence[tuple[str, int]], directory: Path | None) -> EnvoyDelivery | None:
    """What asks the Envoys at ``addresses``, if there are any, whether they have what is in ``directory``."""
    return EnvoyDelivery(addresses, directory) if addresses and directory is not None else None


class RenderedEnvoyFiles:
    """Envoy's routes and clusters, written whenever the store's rollouts change.

    ``say`` is told that the folder was made, ``warn`` that it was removed and made anew.
    """

    def __init__(
        self, store: str, ids: Path, directory: Path, say: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        self._store = store
        self._ids = ids
        self._directory = directory
        self._say = say
        self._warn = warn
        self._holder: SnapshotHolder | None = None
        self._keys: KeyFile | None = None
        self._written: FolderListing | None = None
        self._folder: FolderIdentity | None = None

    def exist(self) -> bool:
        """Whether Envoy has something to read."""
        return all((self._directory / name).is_file() for name in _FILES)

    def write(self) -> None:
        """Write what changed since it was last written, and what somebody else removed or changed."""
        if self._holder is None:
            holder = SnapshotHolder(open_store(self._store), SystemClock())
            holder.load()
            self._holder, self._written = holder, None
        elif (snapshot := self._holder.refresh()) is not None:
            self._holder.current, self._written = snapshot, None
        if self._keys is None:
            self._keys = KeyFile(self._ids, SystemClock())
        elif self._keys.renewed():
            self._written = None
        found = list_folder(self._directory, _FILES.__contains__)
        if self._written == found:
            return
        rollouts = self._holder.current.rollouts.values()
        write_envoy_dir(self._directory, rollouts, self._keys.current.marks, settings().replay_bytes)
        self._written = list_folder(self._directory, _FILES.__contains__)
        self._see_the_folder(found)

    def _see_the_folder(self, found: FolderListing) -> None:
        """Say that it is another one than it was; ``found`` is what was there before it was written to.

        What is made in the place of what was just removed may have the same inode, so that it was away says it too.
        """
        assert self._written is not None
        name = str(self._directory)
        before, self._folder = self._folder, self._written.folders.get(name)
        again = "an Envoy that watched one of that name before must be started again"
        made = name not in found.folders
        if before is None and made:
            self._say(f"envoy: made the folder {name}: {again}")
        elif before is not None and (made or before != self._folder):
            self._warn(f"envoy: the folder {name} was removed and made anew: {again}")
