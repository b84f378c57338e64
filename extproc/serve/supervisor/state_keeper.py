"""The supervisor's part in the state folder: what was read from it and is not there any more.

``serve`` goes on by what it read, and some of the files are made anew at once; so who moved the folder would hear of
it at the next start, when labels are refused and units have other pseudonyms.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from extproc.errors import Fault
from extproc.serve.supervisor.folder_faults import FolderFaults
from extproc.state import StateFolder

CHECK_SECONDS: Final = 1.0


class StateKeeper:
    """Sees whether the keys, the token and the labels of ``state`` are where they were; if not, ``faults`` has them."""

    def __init__(self, state: StateFolder, faults: FolderFaults) -> None:
        self._without: Mapping[Path, str] = {
            state.ids: "labels of earlier decisions are refused, and the rendered routes have another mark",
            state.pseudonyms: "the same unit has another pseudonym in the decision log",
            state.token: "senders of labels need another one",
            state.feedback: "what labels said is not known",
        }
        self._known: set[Path] = set()
        self._faults = faults

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            self._faults.note(await asyncio.to_thread(self._missing))
            await asyncio.sleep(CHECK_SECONDS)

    def _missing(self) -> list[Fault]:
        there = {path for path in self._without if os.path.lexists(path)}
        self._known |= there
        told = "this file is not there any more; put it back before serve is started again, or {}"
        return [
            Fault("state_missing", told.format(why), file=str(path))
            for path, why in self._without.items()
            if path in self._known - there
        ]
