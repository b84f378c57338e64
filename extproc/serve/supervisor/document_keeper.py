"""The supervisor's part in documents: a folder that is followed into the store, and what is wrong with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

from extproc.errors import DropoutError, Fault
from extproc.serve.supervisor.folder_faults import FolderFaults

_T = TypeVar("_T")


class Folder(Protocol):
    """A followed folder of documents."""

    @property
    def missing(self) -> int:
        """Documents that left it and are not deleted yet. Does not block."""
        ...

    def sync(self, *, force: bool = False) -> Sequence[Fault] | None:
        """Apply what changed since the last look, everything if ``force``; None when nothing did. Blocks.

        What is wrong with one document, or missing, is among the faults and holds up no other.

        Raises:
            DropoutError: when nothing at all could be applied.
        """
        ...


class DocumentKeeper:
    """Documents of one folder, or of none; what is wrong with them is in ``refusals``.

    ``open_folder`` makes the store ready and gives the folder; it is called on the thread that all of the store's
    calls are made on.
    """

    def __init__(self, open_folder: Callable[[], Folder | None], poll: float, refusals: FolderFaults) -> None:
        self._open_folder = open_folder
        self._poll = poll
        self._refusals = refusals
        self._folder: Folder | None = None
        self._thread = ThreadPoolExecutor(1, "store")

    @property
    def missing(self) -> int:
        """Documents that left the folder and are not deleted yet."""
        return self._folder.missing if self._folder is not None else 0

    async def prepare(self) -> None:
        """Apply what there is.

        Raises:
            DropoutError: when there is nothing to serve.
        """
        self._folder = await self._on_thread(self._open_folder)
        if self._folder is not None:
            self._note(await self._on_thread(self._folder.sync))

    async def run(self) -> None:
        """Look for edits, until cancelled.

        Looking at ten thousand files takes its time; it must not become all this process does. What an edit takes to
        be read and applied is another thing: that nobody else has to wait for once more.
        """
        pause = self._poll
        while self._folder is not None:
            await asyncio.sleep(pause)
            before = time.monotonic()
            if not await self.sync():
                pause = max(self._poll, 10 * (time.monotonic() - before))

    async def sync(self, *, force: bool = False) -> bool:
        """Apply what changed, everything if ``force``; whether there was anything to do."""
        if self._folder is None:
            return False
        try:
            return self._note(await self._on_thread(partial(self._folder.sync, force=force)))
        except DropoutError as error:
            return self._note(error.faults)

    def _note(self, faults: Sequence[Fault] | None) -> bool:
        if faults is not None:
            self._refusals.note(faults)
        return faults is not None

    async def _on_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
