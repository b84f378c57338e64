"""The supervisor's part in Envoy's files: there is something to read from the start, and it is up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, Protocol

from extproc.errors import DropoutError, Fault
from extproc.metrics.catalogue import ENVOY_DELIVERED
from extproc.metrics.counting import Row
from extproc.serve.supervisor.folder_faults import FolderFaults
from extproc.trouble import Troubles

POLL_SECONDS: Final = 0.1


class EnvoyFiles(Protocol):
    """The routes and clusters that Envoy reads. Calls block, and come from one thread at a time."""

    def exist(self) -> bool:
        """Whether there are any, from this run or an earlier one."""
        ...

    def write(self) -> None:
        """Write what changed. Raises ``DropoutError``."""
        ...


class Delivery(Protocol):
    """Whether each Envoy has what was written last. Answers at once, from what it heard last."""

    def start(self) -> None:
        """Begin to ask them; blocks for a moment."""
        ...

    def faults(self) -> Mapping[str, Fault | None]:
        """By the address of each Envoy, why it has not; None if it has."""
        ...

    def awaited(self) -> Collection[str]:
        """The addresses of those that have been silent, or behind, for so short a time that they may be starting."""
        ...


class EnvoyKeeper:
    """Has ``files`` written; what is wrong with them is in ``refusals``, with their ``delivery`` in ``faults``.

    ``say`` writes a line on ordinary life, ``warn`` one on what is wrong.
    """

    def __init__(
        self,
        files: EnvoyFiles,
        refusals: FolderFaults,
        delivery: Delivery | None,
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._files = files
        self._refusals = refusals
        self._delivery = delivery
        self._say = say
        self._troubles = Troubles(warn)

    async def write_first(self) -> None:
        """See that Envoy has something to read before anybody is told that we are ready.

        What is there from an earlier run is brought up to date once the workers serve: rendering takes as much of a
        processor as starting one of them, and a restart is what requests wait for.

        Raises:
            DropoutError: why nothing could be written.
        """
        if not self._files.exist():
            await asyncio.to_thread(self._files.write)

    async def run(self) -> None:
        """Have what changes written, for as long as it is awaited."""
        if self._delivery is not None:
            await asyncio.to_thread(self._delivery.start)
            for address in self._delivery.awaited():
                self._say(f"envoy: waits for Envoy at {address}, which has not said yet that it has the routes")
        while True:
            try:
                await asyncio.to_thread(self._files.write)
                self._refusals.note(())
            except DropoutError as error:
                self._refusals.note(error.faults)
            self._tell()
            await asyncio.sleep(POLL_SECONDS)

    def delivered(self) -> Mapping[str, Fault | None]:
        """By the address of each Envoy that is asked, why it does not have what was written last; None if it has."""
        return self._delivery.faults() if self._delivery is not None else {}

    @property
    def faults(self) -> Sequence[Fault]:
        """What is wrong with the delivery; an Envoy that may be starting is not."""
        return [fault for fault in self._troubling().values() if fault is not None]

    def _troubling(self) -> Mapping[str, Fault | None]:
        awaited = self._delivery.awaited() if self._delivery is not None else ()
        return {address: None if address in awaited else fault for address, fault in self.delivered().items()}

    def _tell(self) -> None:
        for address, fault in self._troubling().items():
            told = {fault.code: f"{fault.message} ({fault.code})"} if fault is not None else {}
            self._troubles.note_codes(f"Envoy at {address}", told)

    def rows(self) -> Iterator[Row]:
        """For the metrics."""
        for address, fault in self.delivered().items():
            yield ENVOY_DELIVERED, (address,), int(fault is None)
