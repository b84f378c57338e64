"""Waiting until an edit of a folder is whole: many are made in two steps, and half of one is not read."""

from __future__ import annotations

from collections.abc import Callable

from extproc.resources.folders import FolderListing


class FolderWatch:
    """Notices that what ``list_folder`` gives has changed and has come to rest: it is the same twice.

    A folder in which somebody always writes never rests. After ``patience`` listings that differ, what rests in it is
    taken by itself, and the rest stays as it was taken; without it everything is waited for.
    """

    def __init__(self, list_folder: Callable[[], FolderListing], patience: int | None = None) -> None:
        self._list = list_folder
        self._patience = patience
        self._seen: FolderListing | None = None
        self._restless = 0
        self.taken: FolderListing | None = None

    @property
    def resting(self) -> bool:
        """Whether the last two listings show the same."""
        return self._restless == 0

    def now(self) -> FolderListing:
        """What there is, whether it rests or not."""
        before, self._seen = self._seen, self._list()
        self._restless = 0 if self._seen == before else self._restless + 1
        return self._seen

    def changed(self) -> FolderListing | None:
        """What there is to take in place of what was taken; None if there is nothing, or not yet."""
        before, found = self._seen, self.now()
        if not self.resting:
            if before is None or self.taken is None or self._patience is None or self._restless <= self._patience:
                return None
            found = _at_rest(self.taken, before, found)
        return found if found != self.taken else None

    def take(self, listing: FolderListing) -> None:
        """This is what there is, until it changes."""
        self.taken = listing


def _at_rest(taken: FolderListing, before: FolderListing, now: FolderListing) -> FolderListing:
    """``now``, with every file that was otherwise ``before`` as it was ``taken``."""
    files = {}
    for path in sorted(before.files.keys() | now.files.keys() | taken.files.keys()):
        steady = before.files.get(path) == now.files.get(path)
        stamp = now.files.get(path) if steady else taken.files.get(path)
        if stamp is not None:
            files[path] = stamp
    return FolderListing(files, now.folders, now.unreadable)
